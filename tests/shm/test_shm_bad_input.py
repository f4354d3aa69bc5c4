"""What SharedMemoryStore says of a name, a size, a URL or a file that will not do."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from headway import SharedMemoryStore, Throttled
from headway._shm_store import DIRECTORY, path_of
from headway.exceptions import SetUpError
from headway.store import BaseStore, from_url


def make(name: str) -> None:
    """Make it, and close it again."""
    SharedMemoryStore(name, size="128K")


@pytest.mark.parametrize(
    "bad", ["", ".", "..", "a/b", "/a", "../x", "a\0b", "a\nb", "x" * 201, ".x"]
)
def test_a_bad_name_is_named(bad: str) -> None:
    with pytest.raises(SetUpError, match=r"Invalid name: .*must be 1 to 200 bytes"):
        SharedMemoryStore(bad)


@pytest.mark.parametrize("bad", [None, 5, b"x", "\udc80"])
def test_a_name_that_is_no_text_is_named(bad: Any) -> None:
    with pytest.raises(SetUpError, match="Invalid name"):
        SharedMemoryStore(bad)


@pytest.mark.parametrize(
    "bad",
    [0, -1, 1000, "4K", "2T", 1 << 70, -(1 << 70), "much", "", "1X", 1.5, True, b"1M", "9" * 40],
)
def test_a_bad_size_is_named(bad: Any, name: str) -> None:
    with pytest.raises(SetUpError, match="Invalid size"):
        SharedMemoryStore(name, size=bad)
    assert not path_of(name).exists()


def test_a_size_that_the_disk_cannot_hold_is_refused_at_once(name: str) -> None:
    free = shutil.disk_usage(DIRECTORY).free
    size = free + (64 << 20)
    with pytest.raises(SetUpError, match=rf"Invalid size: \d+ bytes, and {DIRECTORY} has \d+ left"):
        SharedMemoryStore(name, size=size)
    assert not path_of(name).exists()


@pytest.mark.parametrize("size", ["1M", "1m", "1 MiB", "1024K", "1048576", 1 << 20, "1.0 MB"])
def test_sizes_may_be_written_in_many_ways(size: Any, name: str) -> None:
    assert SharedMemoryStore(name, size=size).size == 1 << 20


def test_a_size_that_differs_from_what_is_there_is_said(
    name: str, caplog: pytest.LogCaptureFixture
) -> None:
    SharedMemoryStore(name, size="256K")
    assert SharedMemoryStore(name).size == 256 << 10
    assert not caplog.records
    assert SharedMemoryStore(name, size="1M").size == 256 << 10
    assert "keeps them; size='1M' was asked for" in caplog.text


@pytest.mark.parametrize(
    "url",
    [
        "shm://x",
        "shm:///",
        "shm:///a/b",
        "shm:///..",
        "shm:///x?y=1",
        "shm:///x?size",
        "shm:///x#y",
    ],
)
def test_a_bad_url_is_refused(url: str) -> None:
    with pytest.raises(SetUpError, match=r"Invalid (store|name)"):
        Throttled(store=url)


def test_a_url_stands_for_one_store_until_it_is_removed(name: str) -> None:
    store = from_url(f"shm:///{name}?size=256K")
    assert isinstance(store, SharedMemoryStore)
    assert isinstance(store, BaseStore)
    assert from_url(f"shm:///{name}") is store
    assert store.server == f"shm:///{name}"
    assert re.fullmatch(rf"SharedMemoryStore\('{name}', size=262144\)", repr(store))
    assert (bool(store), len(store), store.TYPE) == (True, 0, "shm")
    store.remove()
    assert from_url(f"shm:///{name}?size=256K") is not store


@pytest.mark.parametrize("end", ["?", "#", "%41", "?size=1M", " ", "ä", "&"])
def test_the_url_of_a_store_names_that_store(end: str, name: str) -> None:
    store = SharedMemoryStore(name + end, size="128K")
    try:
        found = from_url(store.server)
        assert isinstance(found, SharedMemoryStore)
        assert found.name == store.name
    finally:
        store.remove()


def test_bad_arguments_are_named(name: str) -> None:
    for on_full in ("drop", None, 5):
        with pytest.raises(SetUpError, match="Invalid on_full"):
            SharedMemoryStore(name, on_full=on_full)  # type: ignore[arg-type]
    with pytest.raises(SetUpError, match="Invalid clock"):
        SharedMemoryStore(name, clock=5)  # type: ignore[arg-type]


def test_a_file_that_others_may_read_is_refused(name: str) -> None:
    make(name)
    path_of(name).chmod(0o644)
    with pytest.raises(SetUpError, match=r"open to other users.*chmod 600"):
        SharedMemoryStore(name)


def test_a_file_of_another_user_is_refused(name: str) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root can give a file away")
    path_of(name).write_bytes(bytes(1 << 17))
    path_of(name).chmod(0o600)
    os.chown(path_of(name), 12345, -1)
    with pytest.raises(SetUpError, match="belongs to user 12345"):
        SharedMemoryStore(name)


def test_a_link_is_not_followed(name: str, tmp_path: Path) -> None:
    target = tmp_path / "target"
    target.write_bytes(bytes(1 << 17))
    path_of(name).symlink_to(target)
    with pytest.raises(SetUpError, match="Cannot open"):
        SharedMemoryStore(name)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "is damaged: it has 0 bytes"),
        (b"x" * 5000, "is not a file of headway"),
        (b"headway\0\x09\0\0\0" + bytes(5000), "is of layout version 9"),
        (b"headway\0\x02\0\0\0" + bytes(5000), "does not add up"),
    ],
)
def test_a_file_that_is_something_else_is_said(content: bytes, said: str, name: str) -> None:
    path_of(name).write_bytes(content)
    path_of(name).chmod(0o600)
    with pytest.raises(SetUpError, match=said):
        SharedMemoryStore(name)


@pytest.mark.parametrize("size", [100, 4096, 131072 - 4096])
def test_a_file_that_was_truncated_is_said(size: int, name: str) -> None:
    make(name)
    os.truncate(path_of(name), size)
    with pytest.raises(SetUpError, match=r"is damaged: .*headway shm remove"):
        SharedMemoryStore(name)


def test_a_file_of_another_time_is_said(name: str) -> None:
    make(name)
    unshare = shutil.which("unshare")
    if unshare is None:
        pytest.skip("there is no unshare here")
    program = f"import headway; headway.SharedMemoryStore({name!r})"
    other = subprocess.run(
        [unshare, "--time", "--monotonic", "1000", "--fork", sys.executable, "-c", program],
        capture_output=True,
        text=True,
    )
    if "unshare" in other.stderr:
        pytest.skip("no time namespace may be made here")
    assert "another time namespace" in other.stderr


def test_a_store_that_was_not_initialised_says_so() -> None:
    store = SharedMemoryStore.__new__(SharedMemoryStore)
    with pytest.raises(RuntimeError, match="__init__ was not called"):
        Throttled(store=store)
    with pytest.raises(RuntimeError, match="__init__ was not called"):
        len(store)

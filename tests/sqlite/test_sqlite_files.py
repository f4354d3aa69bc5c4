"""The file itself: who may read it, and what happens when it is deleted under running processes."""

from __future__ import annotations

import os
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from headway import SQLiteStore, StoreUnavailableError, Throttled

CHILD = """
import sys
from headway import SQLiteStore, Throttled
throttle = Throttled(using="fixed_window", quota="3/d", store=SQLiteStore(sys.argv[1]))
print(*[int(not throttle.limit("key").limited) for _ in range(4)])
"""


def of_new_process(path: Path) -> str:
    run = subprocess.run(
        [sys.executable, "-c", CHILD, str(path)], capture_output=True, text=True, timeout=120
    )
    return (run.stdout or run.stderr).strip().splitlines()[-1]


@pytest.mark.skipif(os.name != "posix", reason="permissions of POSIX")
def test_only_its_user_may_read_a_new_file_and_what_is_beside_it(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        store = SQLiteStore(tmp_path / "x.db")
        store.update(b"key", lambda old: (b"1", None))
    finally:
        os.umask(before)
    modes = {file.name: oct(file.stat().st_mode & 0o777) for file in tmp_path.iterdir()}
    assert modes == {"x.db": "0o600", "x.db-wal": "0o600", "x.db-shm": "0o600"}


@pytest.mark.skipif(os.name != "posix", reason="permissions of POSIX")
def test_a_file_that_is_there_keeps_its_permissions(tmp_path: Path) -> None:
    path = tmp_path / "x.db"
    path.touch(0o660)
    path.chmod(0o660)
    SQLiteStore(path)
    assert path.stat().st_mode & 0o777 == 0o660


@pytest.mark.skipif(os.name != "posix", reason="files that are open can be deleted")
@pytest.mark.parametrize("endings", [("",), ("", "-wal", "-shm")], ids=["alone", "all three"])
def test_when_the_file_is_deleted_all_processes_soon_share_a_new_one(
    endings: tuple[str, ...], tmp_path: Path, eventually: Callable[..., None]
) -> None:
    path = tmp_path / "x.db"
    store = SQLiteStore(path)
    throttle = Throttled(using="fixed_window", quota="3/d", store=store)
    for _ in range(3):
        throttle.limit("key")
    for ending in endings:
        os.unlink(f"{path}{ending}")
    assert of_new_process(path) == "1 1 1 0"
    assert throttle.limit("key").limited
    # Another key shows which file it is: the new one has not seen it.
    eventually(lambda: (store.clear(b"no key"), b"mark" in _keys(path, store))[1], "the new file")
    assert throttle.limit("key").limited


def _keys(path: Path, store: SQLiteStore) -> list[bytes]:
    """Keys that the running store knows, after a mark was put into the file of this name."""
    other = sqlite3.connect(path, timeout=10, isolation_level=None)
    other.execute(
        "INSERT OR REPLACE INTO headway_states VALUES (X'6d61726b', X'00', ?)", (1 << 62,)
    )
    other.close()
    return store.keys()


def test_a_name_that_holds_the_word_locked_is_no_timeout(tmp_path: Path) -> None:
    folder = tmp_path / "blocked"
    folder.mkdir()
    store = SQLiteStore(folder / "x.db")
    store.close()
    for file in folder.iterdir():
        file.unlink()
    folder.rmdir()
    with pytest.raises(StoreUnavailableError) as caught:
        store.update(b"key", lambda old: (b"1", None))
    assert caught.value.fault == "database"

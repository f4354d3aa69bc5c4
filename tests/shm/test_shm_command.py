"""`headway shm`: what it prints and how it ends."""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from headway import SharedMemoryStore, Throttled
from headway._shm_store import path_of
from headway.shm import command


def run(*words: str) -> int:
    parser = argparse.ArgumentParser()
    command.add_arguments(parser)
    return command.run(parser.parse_args(words))


@pytest.fixture
def used(name: str) -> Iterator[str]:
    store = SharedMemoryStore(name, size="128K")
    limiter = Throttled(quota="2/h", using="gcra", store=store)
    for _ in range(3):
        limiter.limit("seldom")
    for _ in range(9):
        limiter.limit("often\x1b[31m")
    yield name
    del limiter, store  # until here this process has it


def test_list_names_what_there_is(used: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("list") == 0
    (line,) = [line for line in capsys.readouterr().out.splitlines() if used in line]
    assert line.split()[1:4] == ["128", "KiB", "2"]
    assert run("list", "--json") == 0
    (item,) = [i for i in json.loads(capsys.readouterr().out) if i["name"] == used]
    assert (item["keys"], item["size"], item["processes"]) == (2, 131072, 1)


def test_list_says_what_is_wrong_with_a_damaged_one(
    used: str, capsys: pytest.CaptureFixture[str]
) -> None:
    path = path_of(used + "-bad")
    path.write_bytes(b"headway\0" + bytes(4096))
    path.chmod(0o600)
    try:
        assert run("list") == 0
        out = capsys.readouterr().out
        assert f"{path} is of layout version 0" in out
        assert used in out
        assert run("show", used + "-bad") == 1
        assert "layout version 0" in capsys.readouterr().err
    finally:
        path.unlink()


def test_show_has_the_busiest_first_and_no_control_characters(
    used: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("show", used) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines[1:3]] == ["often\\x1b[31m", "seldom"]
    assert lines[1].split()[1] == "gcra"
    assert lines[3].startswith("2 of 2 keys")
    assert run("show", used, "--limit", "1", "--json") == 0
    shown = json.loads(capsys.readouterr().out)
    assert [(e["key"], e["admitted"], e["denied"]) for e in shown["entries"]] == [
        ("often\x1b[31m", 2, 7)
    ]


def test_show_writes_to_a_terminal_that_knows_ascii_alone(name: str) -> None:
    store = SharedMemoryStore(name, size="128K")
    Throttled("größe", quota="2/h", store=store).limit()
    done = subprocess.run(
        [sys.executable, "-m", "headway", "shm", "show", name],
        env={**os.environ, "PYTHONIOENCODING": "ascii"},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert "gr\\xf6\\xdfe" in done.stdout


@pytest.mark.parametrize("words", [("show", "no-such-name"), ("remove", "no-such-name")])
def test_a_complaint_says_who_complains(
    words: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(*words) == 1
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("headway shm: ")


def test_remove_takes_the_name_and_leaves_the_users_alone(
    used: str, capsys: pytest.CaptureFixture[str]
) -> None:
    store = SharedMemoryStore(used)
    assert run("remove", used) == 0
    assert capsys.readouterr().out == f"Removed {used}.\n"
    assert not path_of(used).exists()
    assert len(store) == 2
    assert len(SharedMemoryStore(used, size="128K")) == 0


@pytest.mark.parametrize("bad", ["no-such-name", "", "../x", "a/../../../etc/passwd"])
def test_remove_of_what_is_not_there_fails(bad: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("remove", bad) == 1
    assert repr(bad) in capsys.readouterr().err
    assert Path("/etc/passwd").exists()

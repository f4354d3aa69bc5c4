"""Forks of a process that has an SQLiteStore open: no connection is open while it forks.

Each runs as a program of its own, since a fork of a test process takes its threads' locks along.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")

PREAMBLE = """
import os, signal, sys, threading, time, warnings
warnings.simplefilter("ignore", DeprecationWarning)
from headway import SQLiteStore, Throttled
signal.alarm(25)

def in_child(work):
    read, write = os.pipe()
    pid = os.fork()
    if pid == 0:
        signal.alarm(15)
        try:
            os.write(write, str(work()).encode())
        finally:
            os._exit(0)
    os.close(write)
    said = os.fdopen(read).read()
    os.waitpid(pid, 0)
    return said
"""


@pytest.fixture
def program(run_python: Callable[..., str]) -> Callable[..., str]:
    return lambda text, *args: run_python(PREAMBLE + text, *args)


def test_a_fork_in_the_middle_of_another_threads_transaction_finds_the_file_free(
    program: Callable[..., str], tmp_path: Path
) -> None:
    said = program(
        """
store = SQLiteStore(sys.argv[1], busy_timeout=5)
limiter = Throttled("key", quota="10/h", store=store)
inside, forking = threading.Event(), threading.Event()

def step(old):
    inside.set()
    forking.wait()
    time.sleep(0.05)  # by now the other thread is on its way into the fork
    return b"new", None

thread = threading.Thread(target=store.update, args=(b"other", step))
thread.start()
inside.wait()
forking.set()
print(in_child(lambda: (bool(limiter.limit()), store.get(b"other"))))
thread.join()
print(limiter.peek().remaining)
""",
        str(tmp_path / "x.db"),
    )
    assert said.splitlines() == ["(True, b'new')", "9"]


def test_a_child_does_not_lose_the_file_when_its_parent_closes_it(
    program: Callable[..., str], tmp_path: Path
) -> None:
    said = program(
        """
store = SQLiteStore(sys.argv[1])
limiter = Throttled("key", quota="10/h", store=store)
limiter.limit()
to_child, from_parent = os.pipe()

def work():
    limiter.limit()
    os.read(to_child, 1)  # until the parent has closed what would be the last connection
    limiter.limit()

def closes():
    while limiter.peek().remaining != 8:
        time.sleep(0.005)
    store.close()
    os.write(from_parent, b"x")

threading.Thread(target=closes).start()
in_child(work)
print(Throttled("key", quota="10/h", store=SQLiteStore(sys.argv[1])).peek().remaining)
""",
        str(tmp_path / "x.db"),
    )
    assert said.split() == ["7"]


def test_a_fork_inside_of_a_step_does_not_hang(program: Callable[..., str], tmp_path: Path) -> None:
    said = program(
        """
store = SQLiteStore(sys.argv[1], busy_timeout=0.1)

def step(old):
    return b"new", in_child(lambda: "alive")

print(store.update(b"key", step), store.get(b"key"))
""",
        str(tmp_path / "x.db"),
    )
    assert said.split() == ["alive", "b'new'"]


def test_memory_of_sqlite_goes_on_in_the_child(program: Callable[..., str]) -> None:
    said = program("""
limiter = Throttled("key", quota="10/h", store=SQLiteStore(":memory:"))
limiter.limit()
print(in_child(lambda: (limiter.limit(), limiter.peek().remaining)[1]), limiter.peek().remaining)
""")
    assert said.split() == ["8", "9"]

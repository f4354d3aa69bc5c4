"""Processes in PID namespaces of their own, as containers are: none can see whether another's pid
runs, so the locks of the file must say it.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import uuid
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from headway import SharedMemoryStore
from headway._shm_store import path_of
from headway.limiters import MaxSleepExceededError, SyncSemaphore

UNSHARE = ["unshare", "--pid", "--fork", "--kill-child"]


def may_unshare() -> bool:
    if shutil.which("unshare") is None:
        return False
    return subprocess.run([*UNSHARE, "true"], capture_output=True, check=False).returncode == 0


pytestmark = pytest.mark.skipif(not may_unshare(), reason="may not make PID namespaces")

HOLDER = """
import os, signal, sys
from headway import SharedMemoryStore
from headway.limiters import SyncSemaphore

name, path, act = sys.argv[1:]
semaphore = SyncSemaphore("x", 1, expiry=0.3, connection=SharedMemoryStore(name))
semaphore.__enter__()
if act == "opens":
    open(path).close()  # as a backup or `cp` in the process does
if act == "forks":
    pid = os.fork()
    if pid == 0:
        signal.pause()  # until its namespace ends; what is written to stdin is for the parent
print("in", flush=True)
sys.stdin.readline()
if act == "dies":
    os.kill(os.getpid(), 9)
semaphore.__exit__(None, None, None)
print("out", flush=True)
sys.stdin.readline()
"""


@pytest.fixture
def store() -> Iterator[SharedMemoryStore]:
    made = SharedMemoryStore(f"spaces-{uuid.uuid4().hex[:12]}", size="1M")
    yield made
    made.remove()


@pytest.fixture
def holder(store: SharedMemoryStore) -> Iterator[Callable[[str], subprocess.Popen[str]]]:
    started: list[subprocess.Popen[str]] = []

    def start(act: str) -> subprocess.Popen[str]:
        words = [*UNSHARE, sys.executable, "-c", HOLDER, store.name, str(path_of(store.name)), act]
        pipe = subprocess.PIPE
        started.append(subprocess.Popen(words, stdin=pipe, stdout=pipe, text=True))
        assert started[-1].stdout.readline() == "in\n"  # type: ignore[union-attr]
        return started[-1]

    yield start
    for process in started:
        process.kill()
        process.communicate()


@pytest.mark.parametrize("act", ["nothing", "opens", "forks"])
def test_a_holder_in_another_namespace_keeps_its_permit(
    act: str, store: SharedMemoryStore, holder: Callable[[str], Any]
) -> None:
    process = holder(act)
    semaphore = SyncSemaphore("x", 1, max_sleep=1, connection=store)
    with pytest.raises(MaxSleepExceededError), semaphore:
        pass
    process.stdin.write("\n")
    process.stdin.flush()
    assert process.stdout.readline() == "out\n"
    with SyncSemaphore("x", 1, max_sleep=20, connection=store):
        pass


def test_a_holder_in_another_namespace_that_dies_is_gone(
    store: SharedMemoryStore, holder: Callable[[str], Any]
) -> None:
    process = holder("dies")
    process.stdin.write("\n")
    process.stdin.flush()
    with SyncSemaphore("x", 1, max_sleep=20, connection=store):
        pass


def test_a_child_that_outlives_its_parent_does_not_keep_it_alive(store: SharedMemoryStore) -> None:
    """The child of a fork has a lock of its own, and none of its parent's."""
    code = """
import os, sys, time
from headway import SharedMemoryStore
from headway.limiters import SyncSemaphore
store = SharedMemoryStore(sys.argv[1])
semaphore = SyncSemaphore("x", 1, expiry=0.3, connection=store)
semaphore.__enter__()
if os.fork():
    print("in", flush=True)
    os.kill(os.getpid(), 9)
sys.stdin.read()
"""
    pipe = subprocess.PIPE
    words = [sys.executable, "-c", code, store.name]
    with subprocess.Popen(words, stdin=pipe, stdout=pipe, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "in\n"
        process.wait(30)
        with SyncSemaphore("x", 1, max_sleep=20, connection=store):
            pass
        assert os.path.exists(path_of(store.name))

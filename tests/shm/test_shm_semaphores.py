"""Semaphores in shared memory: never too many inside, in order, and the dead leave at once."""

from __future__ import annotations

import asyncio
import os
import signal
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from headway import StoreUnavailableError
from headway.limiters import AsyncSemaphore, MaxSleepExceededError, SyncSemaphore
from headway.limiters._permit_steps import State
from headway.store import SharedMemoryStore

DEADLINE_S = 30.0
KEY = b"limiters:v1:semaphore:name"

CHILD = """
import asyncio, sys, time
from headway.limiters import AsyncSemaphore, SyncSemaphore

url, room, verb = sys.argv[1:]
semaphore = SyncSemaphore("name", 2, max_sleep=60, expiry=30, connection=url)

def visit():
    with open(room, "a") as file:
        file.write("+")
    with open(room, "a") as file:
        file.write("-")

if verb == "hold":
    semaphore.__enter__()
    print("in", flush=True)
    time.sleep(60)
elif verb == "storm":
    while True:
        with semaphore:
            pass
elif verb == "tasks":
    own = AsyncSemaphore("name", 2, max_sleep=60, expiry=30, connection=url)
    async def one():
        for _ in range(5):
            async with own:
                visit()
    async def main():
        await asyncio.gather(*(one() for _ in range(4)))
    asyncio.run(main())
else:
    for _ in range(20):
        with semaphore:
            visit()
print("done", flush=True)
"""


@pytest.fixture
def store() -> Iterator[SharedMemoryStore]:
    made = SharedMemoryStore(f"test-permits-{os.getpid()}-{time.monotonic_ns()}", "1M")
    yield made
    made.remove()


@pytest.fixture
def child(store: SharedMemoryStore, tmp_path: Path) -> Iterator[Callable[[str], Any]]:
    started: list[subprocess.Popen[str]] = []

    def start(verb: str) -> subprocess.Popen[str]:
        words = [sys.executable, "-c", CHILD, store.server, str(tmp_path / "room"), verb]
        started.append(subprocess.Popen(words, stdout=subprocess.PIPE, text=True))
        return started[-1]

    yield start
    for process in started:
        process.kill()
        process.wait()
        assert process.stdout is not None
        process.stdout.close()


def state(store: SharedMemoryStore) -> State:
    return State.read(store.get(KEY))


def until(condition: Callable[[], object], what: str) -> None:
    end = time.monotonic() + DEADLINE_S
    while not condition():
        assert time.monotonic() < end, f"not seen within {DEADLINE_S} s: {what}"
        time.sleep(0.001)


def test_threads_and_tasks_of_processes_are_never_too_many_inside(
    child: Any, tmp_path: Path, store: SharedMemoryStore
) -> None:
    processes = [child(verb) for verb in ("threads", "tasks", "threads", "tasks")]
    for process in processes:
        assert process.communicate(timeout=60)[0] == "done\n"
    inside, most = 0, 0
    for mark in (tmp_path / "room").read_text():
        inside += 1 if mark == "+" else -1
        most = max(most, inside)
    assert inside == 0
    assert 1 <= most <= 2
    assert store.get(KEY) is None  # nothing is left behind


def test_the_permit_of_a_process_that_is_killed_is_free_long_before_its_lease_is_over(
    child: Any, store: SharedMemoryStore
) -> None:
    holders = [child("hold") for _ in range(2)]
    for holder in holders:
        assert holder.stdout.readline() == "in\n"
    semaphore = SyncSemaphore("name", 2, max_sleep=20, connection=store)
    with pytest.raises(MaxSleepExceededError):
        SyncSemaphore("name", 2, max_sleep=0.05, connection=store).__enter__()
    holders[0].send_signal(signal.SIGKILL)
    start = time.monotonic()
    with semaphore:
        assert time.monotonic() - start < 25  # of an expiry of 30
    assert holders[1].poll() is None


def test_processes_that_are_killed_in_the_midst_of_it_do_no_harm(
    child: Any, store: SharedMemoryStore
) -> None:
    semaphore = SyncSemaphore("name", 2, max_sleep=30, connection=store)
    for _ in range(8):
        victims = [child("storm") for _ in range(2)]
        until(lambda: state(store).held, "at work")
        for victim in victims:
            victim.kill()
            victim.wait()
        with semaphore, semaphore:
            assert len(state(store).held) == 2


def test_those_who_wait_come_in_in_the_order_in_which_they_came(store: SharedMemoryStore) -> None:
    threads = SyncSemaphore("name", 1, connection=store)
    tasks = AsyncSemaphore("name", 1, connection=store)
    served: list[int] = []

    def enter(number: int) -> None:
        with threads:
            served.append(number)

    async def enter_as_task(number: int) -> None:
        async with tasks:
            served.append(number)

    async def main() -> None:
        doing: list[Any] = []
        with threads:
            for number in range(6):
                work = enter_as_task(number) if number % 2 else asyncio.to_thread(enter, number)
                doing.append(asyncio.ensure_future(work))
                while len(state(store).line) <= number:
                    await asyncio.sleep(0.001)
        await asyncio.wait_for(asyncio.gather(*doing), DEADLINE_S)

    asyncio.run(main())
    assert served == list(range(6))


@pytest.mark.alone
def test_who_waits_in_another_process_is_woken_and_does_not_look_now_and_then(
    child: Any, store: SharedMemoryStore, tmp_path: Path
) -> None:
    """Half of the hand-overs take less than the shortest sleep between two looks."""
    semaphore = SyncSemaphore("name", 2, connection=store)
    room, waits = tmp_path / "room", []
    for _ in range(5):
        room.write_text("")
        with semaphore, semaphore:
            process = child("threads")
            until(lambda: state(store).line, "in line")
            released = time.monotonic()
        until(room.read_text, "inside")
        waits.append(time.monotonic() - released)
        process.wait(DEADLINE_S)
    assert statistics.median(waits) < 0.1


def test_a_fork_s_child_has_permits_of_its_own(store: SharedMemoryStore) -> None:
    semaphore = SyncSemaphore("name", 2, connection=store)
    with semaphore:
        pid = os.fork()
        if pid == 0:
            code = 1
            try:
                with semaphore:
                    code = 0 if len(state(store).held) == 2 else 2
            finally:
                os._exit(code)
        assert os.waitpid(pid, 0)[1] == 0
    until(lambda: store.get(KEY) is None, "all given back")


def test_values_are_changed_one_at_a_time_by_threads_and_forks(store: SharedMemoryStore) -> None:
    def count(old: bytes | None) -> tuple[bytes, None]:
        return b"%d" % (int(old or b"0") + 1), None

    def work() -> None:
        for _ in range(500):
            store.update(b"count", count)

    children = []
    for _ in range(2):
        pid = os.fork()
        if pid == 0:
            work()
            os._exit(0)
        children.append(pid)
    threads = [threading.Thread(target=work) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for pid in children:
        assert os.waitpid(pid, 0)[1] == 0
    assert store.get(b"count") == b"2000"
    store.update(b"count", lambda old: (None, None))
    assert store.get(b"count") is None


def test_a_value_that_does_not_fit_is_refused(store: SharedMemoryStore) -> None:
    with pytest.raises(StoreUnavailableError, match="no room for a value of 1000000 bytes"):
        store.update(b"large", lambda old: (b"x" * 1_000_000, None))
    assert store.get(b"large") is None


def test_a_value_too_many_is_refused_with_how_many_there_can_be(
    store: SharedMemoryStore,
) -> None:
    for number in range(32):
        store.update(b"%d" % number, lambda old: (b"x", None))
    with pytest.raises(StoreUnavailableError, match="it holds 32 values at a time"):
        store.update(b"one more", lambda old: (b"x", None))
    store.update(b"0", lambda old: (None, None))
    store.update(b"other", lambda old: (b"x", None))


def test_a_long_value_that_is_deleted_while_it_is_read_is_none(store: SharedMemoryStore) -> None:
    """It is read in two steps, as long as it is."""
    found: set[int | None] = set()
    done = threading.Event()

    def read() -> None:
        while not done.is_set():
            value = store.get(b"long")
            found.add(None if value is None else len(value))

    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    threads = [threading.Thread(target=read) for _ in range(2)]
    try:
        for thread in threads:
            thread.start()
        for _ in range(5000):
            store.update(b"long", lambda old: (b"x" * 5000, None))
            store.update(b"long", lambda old: (None, None))
    finally:
        done.set()
        for thread in threads:
            thread.join()
        sys.setswitchinterval(interval)
    assert found <= {None, 5000}

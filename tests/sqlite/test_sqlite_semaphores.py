"""Semaphores in a file: processes of one machine share permits without a server."""

from __future__ import annotations

import asyncio
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from headway import StoreUnavailableError
from headway.limiters import AsyncSemaphore, MaxSleepExceededError, SyncSemaphore
from headway.limiters._permit_steps import State
from headway.store import AtomicStore, SQLiteStore

DEADLINE_S = 30.0

CHILD = """
import sys, time
from headway.limiters import SyncSemaphore

url, room, verb = sys.argv[1:]
semaphore = SyncSemaphore("name", 2, max_sleep=60, expiry=1, connection=url)
if verb == "hold":
    semaphore.__enter__()
    print("in", flush=True)
    time.sleep(60)
for _ in range(20):
    with semaphore:
        with open(room, "a") as file:
            file.write("+")
        with open(room, "a") as file:
            file.write("-")
print("done", flush=True)
"""


@pytest.fixture
def url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path / 'permits.db'}"


@pytest.fixture
def child(url: str, tmp_path: Path) -> Any:
    started: list[subprocess.Popen[str]] = []

    def start(verb: str) -> subprocess.Popen[str]:
        words = [sys.executable, "-c", CHILD, url, str(tmp_path / "room"), verb]
        started.append(subprocess.Popen(words, stdout=subprocess.PIPE, text=True))
        return started[-1]

    yield start
    for process in started:
        process.kill()
        process.wait()
        assert process.stdout is not None
        process.stdout.close()


def until(condition: Callable[[], object], what: str) -> None:
    end = time.monotonic() + DEADLINE_S
    while not condition():
        assert time.monotonic() < end, f"not seen within {DEADLINE_S} s: {what}"
        time.sleep(0.002)


def state(store: SQLiteStore) -> State:
    return State.read(store.get(b"limiters:v1:semaphore:name"))


def test_processes_are_never_too_many_inside(child: Any, tmp_path: Path) -> None:
    processes = [child("work") for _ in range(4)]
    for process in processes:
        assert process.communicate(timeout=60)[0] == "done\n"
    inside, most = 0, 0
    for mark in (tmp_path / "room").read_text():
        inside += 1 if mark == "+" else -1
        most = max(most, inside)
    assert inside == 0
    assert 1 <= most <= 2


def test_those_who_wait_come_in_in_the_order_in_which_they_came(url: str) -> None:
    semaphore = SyncSemaphore("name", 1, connection=url)
    store, served, threads = SQLiteStore(url), [], []

    def enter(number: int) -> None:
        with semaphore:
            served.append(number)

    with semaphore:
        for number in range(6):
            threads.append(threading.Thread(target=enter, args=(number,)))
            threads[-1].start()
            until(lambda count=number + 1: len(state(store).line) == count, "in line")
    for thread in threads:
        thread.join(DEADLINE_S)
    assert served == list(range(6))
    assert store.get(b"limiters:v1:semaphore:name") is None  # nothing is left behind


def test_tasks_and_threads_stand_in_one_line(url: str) -> None:
    store, served = SQLiteStore(url), []
    threads = SyncSemaphore("name", 1, connection=url)
    tasks = AsyncSemaphore("name", 1, connection=url)

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
                    await asyncio.sleep(0.002)
        await asyncio.wait_for(asyncio.gather(*doing), DEADLINE_S)

    asyncio.run(main())
    assert served == list(range(6))


def test_a_permit_of_a_process_that_was_killed_is_free_when_its_lease_is_over(
    child: Any, url: str
) -> None:
    holders = [child("hold") for _ in range(2)]
    for holder in holders:
        assert holder.stdout.readline() == "in\n"
    with pytest.raises(MaxSleepExceededError):
        SyncSemaphore("name", 2, max_sleep=0.05, connection=url).__enter__()
    holders[0].send_signal(signal.SIGKILL)
    start = time.monotonic()
    with SyncSemaphore("name", 2, max_sleep=DEADLINE_S, connection=url):
        assert time.monotonic() - start < 25
    assert holders[1].poll() is None  # it lives, and has kept its permit beyond its expiry


def test_a_task_that_is_cancelled_leaves_the_line(url: str) -> None:
    store = SQLiteStore(url)
    semaphore = AsyncSemaphore("name", 1, connection=url)

    async def main() -> None:
        async with semaphore:
            waiting = asyncio.ensure_future(semaphore.__aenter__())
            while not state(store).line:
                await asyncio.sleep(0.002)
            waiting.cancel()
            with pytest.raises(asyncio.CancelledError):
                await waiting
            while state(store).line:
                await asyncio.sleep(0.002)

    asyncio.run(main())


def test_a_store_of_ones_own_has_permits_too() -> None:
    class Own(AtomicStore):
        def __init__(self) -> None:
            self.lock, self.values = threading.Lock(), {}

        def update(self, key: bytes, step: Any) -> Any:
            with self.lock:
                self.values[key], answer = step(self.values.get(key))
            return answer

    store = Own()
    semaphore = SyncSemaphore("name", 1, connection=store)
    order: list[int] = []

    def enter() -> None:
        with semaphore:
            order.append(2)

    with semaphore:
        thread = threading.Thread(target=enter)
        thread.start()
        until(lambda: semaphore._pool.waiting == 1, "in line")
        order.append(1)
    thread.join(DEADLINE_S)
    assert order == [1, 2]


def test_bytes_of_somebody_else_are_refused(url: str) -> None:
    store = SQLiteStore(url)
    store.update(b"limiters:v1:semaphore:name", lambda old: (b"something", None))
    with pytest.raises(StoreUnavailableError, match="Invalid state of a semaphore"):
        SyncSemaphore("name", 1, connection=url).__enter__()

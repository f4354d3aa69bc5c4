"""Threads and tasks of several event loops that wait at once: all are served, none is lost."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

from headway import MemoryStore, Throttled, TokenBucket
from headway.asyncio import Throttled as AsyncThrottled
from headway.limiters import AsyncSemaphore, SyncSemaphore

THREADS = 8
CLOSING = Path(__file__).with_name("closing.py")


@pytest.mark.parametrize(
    ("using", "quota"),
    [
        ("token_bucket", "2000/s burst 1"),
        ("gcra", "2000/s burst 1"),
        ("fixed_window", "200/100ms"),
        ("sliding_window", "200/100ms"),
    ],
)
def test_every_thread_that_waits_is_served(crowd: Any, rounds: Any, using: str, quota: str) -> None:
    limiter = Throttled(quota=quota, using=using, timeout=60, store=MemoryStore())
    each = rounds(60)
    assert (
        sum(crowd(lambda _: sum(bool(limiter.limit("k")) for _ in range(each)))) == each * THREADS
    )


def test_threads_that_wait_for_a_bucket_all_come_back(crowd: Any, rounds: Any) -> None:
    bucket = TokenBucket(1, 5000)
    crowd(lambda _: [bucket.wait() for _ in range(rounds(150))])


def test_tasks_of_eight_loops_and_threads_stand_in_one_line(crowd: Any, rounds: Any) -> None:
    store, quota, each = MemoryStore(), "4000/s burst 1", rounds(100)
    awaited = AsyncThrottled(quota=quota, timeout=60, store=store)
    blocking = Throttled(quota=quota, timeout=60, store=store)

    def work(number: int) -> int:
        if number % 2:
            return sum(bool(blocking.limit("k")) for _ in range(each))

        async def one() -> int:
            return sum([bool(await awaited.limit("k")) for _ in range(each // 10)])

        async def main() -> int:
            return sum(await asyncio.gather(*(one() for _ in range(10))))

        return asyncio.run(main())

    served = crowd(work)
    assert served == [each // 10 * 10 if number % 2 == 0 else each for number in range(THREADS)]


def test_cancelled_tasks_leave_the_line_and_the_others_are_served(crowd: Any, rounds: Any) -> None:
    awaited = AsyncThrottled(quota="4000/s burst 1", timeout=60, store=MemoryStore())

    def work(_: int) -> int:
        async def one() -> bool:
            return bool(await awaited.limit("k"))

        async def main() -> int:
            served = 0
            for _ in range(rounds(15)):
                tasks = [asyncio.create_task(one()) for _ in range(10)]
                await asyncio.sleep(0)
                tasks[3].cancel()
                tasks[7].cancel()
                ends = await asyncio.gather(*tasks, return_exceptions=True)
                assert sum(isinstance(e, asyncio.CancelledError) for e in ends) <= 2
                served += sum(end is True for end in ends)
            return served

        return asyncio.run(main())

    assert all(served >= 8 * rounds(15) for served in crowd(work))


def test_loops_come_and_go(crowd: Any, rounds: Any) -> None:
    awaited = AsyncThrottled(quota="5000/s burst 1", timeout=60, store=MemoryStore())

    def work(_: int) -> int:
        async def main() -> int:
            return sum(map(bool, await asyncio.gather(*(awaited.limit("k") for _ in range(5)))))

        return sum(asyncio.run(main()) for _ in range(rounds(30)))

    assert crowd(work) == [rounds(30) * 5] * THREADS


@pytest.mark.parametrize("end", ["cancel", "drop"])
def test_loops_may_be_closed_while_their_tasks_wait_and_others_wake_these(
    end: str, rounds: Any
) -> None:
    done = subprocess.run(
        [sys.executable, str(CLOSING), str(max(1.0, rounds(6))), "6", end],
        capture_output=True,
        text=True,
        timeout=150,
        check=False,
    )
    assert (done.returncode, done.stdout.split()[-1:]) == (0, ["served"]), done.stderr[-3000:]


@pytest.mark.parametrize("capacity", [1, 3])
def test_threads_never_hold_more_permits_than_there_are(
    crowd: Any, rounds: Any, capacity: int
) -> None:
    lock, inside, most = threading.Lock(), [0], [0]
    name = f"crowd-{capacity}"
    kept = SyncSemaphore(name, capacity)

    def work(_: int) -> None:
        for i in range(rounds(500)):
            with SyncSemaphore(name, capacity) if i % 5 == 0 else kept:
                with lock:
                    inside[0] += 1
                    most[0] = max(most[0], inside[0])
                with lock:
                    inside[0] -= 1

    crowd(work)
    assert most[0] <= capacity
    assert kept._pool.held == 0


def test_tasks_of_eight_loops_never_hold_more_permits_than_there_are(
    crowd: Any, rounds: Any
) -> None:
    lock, inside, most = threading.Lock(), [0], [0]
    kept = AsyncSemaphore("crowd-of-loops", 3)

    def work(_: int) -> None:
        async def one(semaphore: AsyncSemaphore) -> None:
            for _ in range(rounds(20)):
                async with semaphore:
                    with lock:
                        inside[0] += 1
                        most[0] = max(most[0], inside[0])
                    await asyncio.sleep(0)
                    with lock:
                        inside[0] -= 1

        async def main() -> None:
            semaphore = AsyncSemaphore("crowd-of-loops", 3)
            await asyncio.gather(*(one(semaphore) for _ in range(8)))

        asyncio.run(main())

    crowd(work)
    assert most[0] <= 3
    assert kept._pool.held == 0

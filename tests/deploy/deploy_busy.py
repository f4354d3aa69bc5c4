"""A program: forks while its other threads ask, wait and hold permits, and while a loop waits.

    python deploy_busy.py URL

Each child uses every limiter of its parent at once. Prints how much of `counted` all of them were
given together, and per process; and the instants at which permits were held.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
import threading
import time
from collections.abc import Callable

from headway import Throttled
from headway.asyncio import Throttled as AsyncThrottled
from headway.limiters import AsyncSemaphore, SyncSemaphore

LIMIT, ASKS, CHILDREN = 100, 30, 5
CAPACITY = 2


class Limiters:
    """Made once, before anything is forked."""

    def __init__(self, url: str) -> None:
        self.counted = Throttled("counted", quota=f"{LIMIT}/1000h", store=url)
        self.counted_tasks = AsyncThrottled("counted", quota=f"{LIMIT}/1000h", store=url)
        self.busy = Throttled("busy", quota="3/s", store=url)
        self.waited_for = Throttled("waited for", quota="20/s burst 1", timeout=30, store=url)
        self.tasks_wait = AsyncThrottled("tasks wait", quota="20/s burst 1", timeout=30, store=url)
        self.semaphore = SyncSemaphore("permits", CAPACITY, connection=url)
        self.own = AsyncSemaphore("permits", CAPACITY, connection=url)


def make_more(url: str) -> bool:
    """Makes limiters by URL, which looks up the store, and drops them."""
    SyncSemaphore(f"made {time.monotonic_ns()}", 1, connection=url)
    return bool(Throttled("made", quota="1000000/h", store=url).limit())


held: list[tuple[float, float]] = []
stop = threading.Event()


def hold(limiters: Limiters, times: int, seconds: float) -> None:
    for _ in range(times):
        with limiters.semaphore:
            since = time.monotonic()
            time.sleep(seconds)
            held.append((since, time.monotonic()))


async def hold_as_task(limiters: Limiters, times: int, seconds: float) -> None:
    for _ in range(times):
        async with limiters.own:
            since = time.monotonic()
            await asyncio.sleep(seconds)
            held.append((since, time.monotonic()))


async def as_tasks(limiters: Limiters, times: int) -> int:
    results = await asyncio.gather(*(limiters.counted_tasks.limit() for _ in range(times)))
    await limiters.tasks_wait.limit()
    await hold_as_task(limiters, 2, 0.005)
    return sum(map(bool, results))


def use_all(limiters: Limiters) -> int:
    """What a process does: as much of everything as there is."""
    given = sum(bool(limiters.counted.limit()) for _ in range(ASKS // 2))
    given += asyncio.run(as_tasks(limiters, ASKS // 2))
    assert limiters.waited_for.limit()
    limiters.busy.limit()
    hold(limiters, 2, 0.005)
    threads = [threading.Thread(target=limiters.waited_for.limit) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return given


def in_parent(work: Callable[[], object]) -> threading.Thread:
    def run() -> None:
        while not stop.is_set():
            work()

    thread = threading.Thread(target=run)
    thread.start()
    return thread


async def tasks_of_the_parent(limiters: Limiters) -> None:
    for _ in range(3):
        await asyncio.gather(*(limiters.tasks_wait.limit() for _ in range(3)))


def fork(url: str, limiters: Limiters) -> int:
    """Forks a child that uses everything. Returns the end of the pipe that it tells through."""
    read, write = os.pipe()
    if os.fork() == 0:
        code = 1
        try:
            signal.alarm(30)
            held.clear()
            assert make_more(url)
            given = use_all(limiters)
            os.write(write, json.dumps({"given": given, "held": held}).encode())
            code = 0
        except BaseException:
            import traceback

            traceback.print_exc()
        finally:
            os._exit(code)
    os.close(write)
    return read


def main(url: str) -> None:
    signal.alarm(38)
    limiters = Limiters(url)
    threads = [
        in_parent(limiters.busy.limit),
        in_parent(limiters.waited_for.limit),
        in_parent(lambda: make_more(url)),
        in_parent(lambda: asyncio.run(tasks_of_the_parent(limiters))),
    ]
    threads += [in_parent(lambda: hold(limiters, 1, 0.02)) for _ in range(3)]
    pipes = []
    for _ in range(CHILDREN):
        limiters.waited_for.limit()  # all others are in the middle of something
        pipes.append(fork(url, limiters))
    told = []
    for read in pipes:
        with os.fdopen(read) as end:
            told.append(json.loads(end.read()))
    for _ in range(CHILDREN):
        assert os.wait()[1] == 0, "a child failed"
    given = use_all(limiters)
    stop.set()
    for thread in threads:
        thread.join()
    told.append({"given": given, "held": held})
    print(json.dumps(told))


if __name__ == "__main__":
    main(*sys.argv[1:])

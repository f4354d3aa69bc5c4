"""One process of the question `crowd`: 100,000 tasks wait in one event loop.

``python -m benchmarks.crowd_child WHAT LOOP COUNT RATE`` prints a line of JSON:

    joined_us    microseconds for each task, from the first one made until all of them waited
    bytes        growth of the resident set from then to there, for each task
    seconds      from the instant at which the first was due until the last had returned
    expected     what the quota's arithmetic says that takes
    stall_ms     the longest time between two turns of a task that sleeps a millisecond each time,
                 after all had joined
    early        how many returned before they were due

WHAT is `limiter` (one key of headway), `futures` (a bare future for each task, completed at the
same rate by one task of its own), `limiter-quiet` and `futures-quiet` (the same with the garbage
collector off), or `shared` (all tasks on one bare future: what a task takes without anything to
wait on). Tasks are made in chunks, and a turn of the loop is left to others after each.
"""

from __future__ import annotations

import asyncio
import gc
import json
import sys
from collections.abc import Callable, Coroutine
from time import monotonic_ns
from typing import Any

from benchmarks.event_loops import run_on
from benchmarks.machine import resident_bytes

CHUNK = 500
LEAD_S = 4
TICK_S = 0.001


class Crowd:
    """The tasks of one run, and what is noted of them."""

    def __init__(self, count: int) -> None:
        self.count = count
        self.joined = 0
        self.returned: list[int] = [0] * count
        self.tasks: list[asyncio.Task[None]] = []
        self.bytes = 0.0
        self.joined_us = 0.0

    async def join(self, make: Callable[[int], Coroutine[Any, Any, None]]) -> None:
        """Makes the tasks and returns when all of them wait."""
        gc.collect()
        before, start = resident_bytes(), monotonic_ns()
        for first in range(0, self.count, CHUNK):
            for i in range(first, min(first + CHUNK, self.count)):
                self.tasks.append(asyncio.ensure_future(make(i)))
            await asyncio.sleep(0)
        await asyncio.sleep(0)
        self.joined_us = (monotonic_ns() - start) / 1e3 / self.count
        self.bytes = (resident_bytes() - before) / self.count

    async def finish(self) -> float:
        """The longest stall in milliseconds until all have returned."""
        stall = [0.0]
        ticker = asyncio.ensure_future(_tick(stall))
        for task in self.tasks:
            await task
        ticker.cancel()
        return stall[0]


async def _tick(stall: list[float]) -> None:
    last = monotonic_ns()
    while True:
        await asyncio.sleep(TICK_S)
        now = monotonic_ns()
        stall[0] = max(stall[0], (now - last) / 1e6)
        last = now


async def limiter(count: int, rate: int) -> dict[str, float]:
    """All wait on one key; the bucket is empty, and a first call waits while the rest join."""
    from headway.asyncio import MemoryStore, Throttled

    burst = LEAD_S * rate
    throttle = Throttled(quota=f"{rate}/s burst {burst}", store=MemoryStore(), timeout=3600)
    await throttle.limit("k", 0)
    crowd = Crowd(count)
    returned, limit = crowd.returned, throttle.limit

    async def waits(i: int) -> None:
        await limit("k")
        returned[i] = monotonic_ns()

    emptied = monotonic_ns()
    assert await throttle.limit("k", burst)
    lead = asyncio.ensure_future(throttle.limit("k", burst))
    await asyncio.sleep(0)
    await crowd.join(waits)
    start = emptied + LEAD_S * 1_000_000_000
    assert monotonic_ns() < start, "joining took longer than the lead"
    stall = await crowd.finish()
    assert await lead
    return _result(crowd, start, rate, stall)


async def futures(count: int, rate: int) -> dict[str, float]:
    """Each waits on a bare future of its own; one task completes those that are due."""
    crowd = Crowd(count)
    loop = asyncio.get_running_loop()
    returned, create_future = crowd.returned, loop.create_future
    waiting: list[asyncio.Future[None]] = []

    async def waits(i: int) -> None:
        future = create_future()
        waiting.append(future)
        await future
        returned[i] = monotonic_ns()

    async def serve(start: int) -> None:
        served = 0
        while served < count:
            due = min(count, (monotonic_ns() - start) * rate // 1_000_000_000)
            for future in waiting[served:due]:
                future.set_result(None)
            served = max(served, due)
            await asyncio.sleep(TICK_S)

    begin = monotonic_ns()
    await crowd.join(waits)
    waiting_for = begin + LEAD_S * 1_000_000_000 - monotonic_ns()
    await asyncio.sleep(waiting_for / 1e9)
    start = monotonic_ns()
    server = asyncio.ensure_future(serve(start))
    stall = await crowd.finish()
    await server
    return _result(crowd, start, rate, stall)


async def shared(count: int, rate: int) -> dict[str, float]:
    """All wait on one future, which is completed at once."""
    crowd = Crowd(count)
    future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    returned = crowd.returned

    async def waits(i: int) -> None:
        await future
        returned[i] = monotonic_ns()

    await crowd.join(waits)
    start = monotonic_ns()
    future.set_result(None)
    stall = await crowd.finish()
    return _result(crowd, start, rate, stall)


def _result(crowd: Crowd, start: int, rate: int, stall: float) -> dict[str, float]:
    returned = crowd.returned
    return {
        "joined_us": crowd.joined_us,
        "bytes": crowd.bytes,
        "seconds": (max(returned) - start) / 1e9,
        "expected": crowd.count / rate,
        "stall_ms": stall,
        "early": sum(at < start + (i + 1) * 1_000_000_000 // rate for i, at in enumerate(returned)),
    }


def main() -> None:
    """Runs what the command line says."""
    what, loop, count, rate = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
    kind, _, quiet = what.partition("-")
    work = {"limiter": limiter, "futures": futures, "shared": shared}[kind]
    if quiet:
        gc.disable()
    print(json.dumps(run_on(loop, lambda: work(count, rate))))


if __name__ == "__main__":
    main()

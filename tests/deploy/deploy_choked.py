"""A program: its parent and two forks call a function behind choked, six times each.

It prints the instants at which they were let in, by the machine's monotonic clock.
"""

from __future__ import annotations

import asyncio
import json
import multiprocessing
import signal
import time

from headway.choked import choked


@choked(key="shared", max_tokens=5, refill_period=0.25)
def call() -> float:
    return time.monotonic()


@choked(key="shared", max_tokens=5, refill_period=0.25)
async def call_as_task() -> float:
    return time.monotonic()


async def as_tasks(times: int) -> list[float]:
    return list(await asyncio.gather(*(call_as_task() for _ in range(times))))


def calls(_: int = 0) -> list[float]:
    signal.alarm(30)
    return [call() for _ in range(3)] + asyncio.run(as_tasks(3))


if __name__ == "__main__":
    signal.alarm(35)
    instants = calls()
    with multiprocessing.get_context("fork").Pool(2) as pool:
        for found in pool.map(calls, range(2), chunksize=1):
            instants += found
    print(json.dumps(instants))

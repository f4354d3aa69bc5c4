"""One row of `headway bench`.

The rate is taken without a timer around each call, which would cost as much as a decision in
memory; then the delays are taken with one, less what the timer itself takes. Before and after, the
same number of threads increments a counter in a dict under a lock: the machine may be busy with
something else, and then both are slower.
"""

from __future__ import annotations

import asyncio
import secrets
import threading
import time
from collections.abc import Awaitable, Callable
from itertools import repeat
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from headway.types import AnyStore

__all__ = ["Row", "rows_of"]

QUOTA = "10000000000/365d"
"""So that nothing is denied, and so slow that the state has not expired when it is removed."""
PREFIX = "headway-bench"
MOST_DELAYS = 200_000
CHUNK_S = 0.002
"""About so long a thread works between two looks at the clock."""

Work = Callable[[], object]


class Row(NamedTuple):
    """What was measured. Delays are seconds."""

    store: str
    how: str
    """By how many threads or tasks."""
    per_second: float
    p50: float
    p99: float
    increments: float
    """How many increments of a dict under a lock take as long as a decision."""


def rows_of(name: str, store: AnyStore, threads: int, tasks: int, seconds: float) -> list[Row]:
    """Measure a store: by one thread, by several, by tasks."""
    from headway import asyncio as headway_asyncio
    from headway._core import Throttled

    key = secrets.token_hex(8)
    one = Throttled(key=key, quota=QUOTA, store=store, key_prefix=PREFIX, timeout=-1)
    other = headway_asyncio.Throttled(
        key=key, quota=QUOTA, store=store, key_prefix=PREFIX, timeout=-1
    )
    try:
        one.limit()  # connects, or says that it cannot
        rows = [_by_threads(name, one.limit, 1, seconds)]
        if threads > 1:
            rows.append(_by_threads(name, one.limit, threads, seconds))
        rows.append(asyncio.run(_by_tasks(name, other.limit, tasks, seconds)))
    finally:
        one.reset()
    return rows


def _by_threads(name: str, decide: Work, threads: int, seconds: float) -> Row:
    before = _rate(_incrementing, threads, seconds / 8)
    per_second = _rate(lambda: decide, threads, seconds / 2)
    after = _rate(_incrementing, threads, seconds / 8)
    delays: list[int] = []
    _together(lambda: _timed(decide, delays, time.perf_counter() + seconds / 4), threads)
    how = "1 thread" if threads == 1 else f"{threads} threads"
    return _row(name, how, per_second, delays, (before + after) / 2)


def _row(name: str, how: str, per_second: float, delays: list[int], increments: float) -> Row:
    delays.sort()
    timer = _timer_ns()
    p50, p99 = (max(0, delays[len(delays) * n // 100] - timer) / 1e9 for n in (50, 99))
    return Row(name, how, per_second, p50, p99, increments / per_second)


def _incrementing() -> Work:
    counts: dict[str, int] = {}
    lock = threading.Lock()

    def increment() -> None:
        with lock:
            counts["key"] = counts.get("key", 0) + 1

    return increment


def _rate(make: Callable[[], Work], threads: int, seconds: float) -> float:
    """How often a second the threads together do one work."""
    work = make()
    counts: list[int] = []
    chunk = _chunk(work)
    begin = time.perf_counter()
    _together(lambda: counts.append(_repeated(work, chunk, begin + seconds)), threads)
    return sum(counts) / (time.perf_counter() - begin)


def _chunk(work: Work) -> int:
    """How many calls take about CHUNK_S."""
    count = 1
    while count < 1 << 20:
        begin = time.perf_counter()
        for _ in repeat(None, count):
            work()
        if time.perf_counter() - begin > CHUNK_S / 2:
            break
        count *= 2
    return count


def _repeated(work: Work, chunk: int, until: float) -> int:
    """At least once: on a busy machine a thread may come late."""
    done = 0
    while True:
        for _ in repeat(None, chunk):
            work()
        done += chunk
        if time.perf_counter() >= until:
            return done


def _timed(work: Work, delays: list[int], until: float) -> None:
    clock = time.perf_counter_ns
    until_ns = int(until * 1e9)
    mine: list[int] = []
    while len(mine) < MOST_DELAYS:
        begin = clock()
        work()
        end = clock()
        mine.append(end - begin)
        if end > until_ns:
            break
    delays += mine


def _together(work: Work, threads: int) -> None:
    """Do the work in so many threads, one of them this; raise what one of them raised."""
    failures: list[BaseException] = []

    def guarded() -> None:
        try:
            work()
        except BaseException as error:
            failures.append(error)

    others = [threading.Thread(target=guarded, daemon=True) for _ in range(threads - 1)]
    for other in others:
        other.start()
    guarded()
    for other in others:
        other.join()
    if failures:
        raise failures[0]


def _timer_ns() -> int:
    clock = time.perf_counter_ns
    taken = sorted(-(clock() - clock()) for _ in range(1001))
    return taken[len(taken) // 2]


# ---- tasks


async def _by_tasks(
    name: str, decide: Callable[[], Awaitable[object]], tasks: int, seconds: float
) -> Row:
    before = _rate(_incrementing, 1, seconds / 8)
    await decide()
    begin = time.perf_counter()
    counts = await asyncio.gather(*(_looping(decide, begin + seconds / 2) for _ in range(tasks)))
    per_second = sum(counts) / (time.perf_counter() - begin)
    after = _rate(_incrementing, 1, seconds / 8)
    delays: list[int] = []
    until = time.perf_counter() + seconds / 4
    await asyncio.gather(*(_timed_task(decide, delays, until) for _ in range(tasks)))
    how = "1 task" if tasks == 1 else f"{tasks} tasks"
    return _row(name, how, per_second, delays, (before + after) / 2)


async def _looping(decide: Callable[[], Awaitable[object]], until: float) -> int:
    done = 0
    while time.perf_counter() < until or not done:
        for _ in range(16):
            await decide()
        done += 16
        await asyncio.sleep(0)  # in memory a decision does not suspend its task
    return done


async def _timed_task(
    decide: Callable[[], Awaitable[object]], delays: list[int], until: float
) -> None:
    clock = time.perf_counter_ns
    until_ns = int(until * 1e9)
    while len(delays) < MOST_DELAYS:
        begin = clock()
        await decide()
        end = clock()
        delays.append(end - begin)
        if end > until_ns:
            break
        if len(delays) % 16 == 0:
            await asyncio.sleep(0)

"""async_with: what does passing a free token bucket or semaphore cost?

`async with` a token bucket against aiolimiter, a semaphore against those of the standard library
and of steindamm; an empty class with the two methods is what no limiter written in Python can go
below. Nobody waits here: there is always a token and a permit. The threads' semaphores are shown
for information.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from itertools import count as numbers
from typing import Any

from benchmarks.async_harness import time_awaited
from benchmarks.async_limit import headway_throttle, throttled_throttle
from benchmarks.contenders import NEVER_DENIES, has
from benchmarks.harness import (
    BASELINE,
    HEADWAY,
    PEER,
    Contender,
    Settings,
    Spread,
    Timing,
    find,
    spread_of_ratios,
    time_in_turn,
)
from benchmarks.report import Report, Section, Target, rows_of

NAME = "async_with"
AIOLIMITER_BOUND = 4.0
STANDARD_BOUND = 1.0
STEINDAMM_BOUND = 20.0
CAPACITY = 5
EMPTY = "async with an empty class"

_numbers = numbers()


class EmptyBlock:
    """A context manager in Python that does nothing, for `async with` and for `with`."""

    async def __aenter__(self) -> None:
        return None

    async def __aexit__(self, *exc: object) -> None:
        return None

    def __enter__(self) -> None:
        return None

    def __exit__(self, *exc: object) -> None:
        return None


def _name() -> str:
    """A name that nothing had before: limiters of one name share their state."""
    return f"bench-{next(_numbers)}"


def headway_bucket() -> Any:
    """A token bucket of headway.limiters that always has a token."""
    from headway.limiters import AsyncTokenBucket

    return AsyncTokenBucket(_name(), NEVER_DENIES, 1, NEVER_DENIES)


def headway_semaphore() -> Any:
    """A semaphore of headway.limiters for tasks."""
    from headway.limiters import AsyncSemaphore

    return AsyncSemaphore(_name(), CAPACITY)


def headway_thread_semaphore() -> Any:
    """A semaphore of headway.limiters for threads."""
    from headway.limiters import SyncSemaphore

    return SyncSemaphore(_name(), CAPACITY)


def aiolimiter_bucket() -> Any:
    """A limiter of aiolimiter that always has room."""
    from aiolimiter import AsyncLimiter

    return AsyncLimiter(NEVER_DENIES, 1)


def steindamm_bucket() -> Any:
    """A local token bucket of steindamm that always has a token."""
    from steindamm import AsyncLocalTokenBucket

    return AsyncLocalTokenBucket(
        name=_name(), capacity=NEVER_DENIES, refill_frequency=1, refill_amount=NEVER_DENIES
    )


def steindamm_semaphore() -> Any:
    """A local semaphore of steindamm for tasks."""
    from steindamm import AsyncLocalSemaphore

    return AsyncLocalSemaphore(name=_name(), capacity=CAPACITY)


def steindamm_thread_semaphore() -> Any:
    """A local semaphore of steindamm for threads."""
    from steindamm import SyncLocalSemaphore

    return SyncLocalSemaphore(name=_name(), capacity=CAPACITY)


Made = tuple[str, str, Callable[[], Any]]


def _contenders(statement: str, made: list[Made]) -> list[Contender]:
    def names(make: Callable[[], Any]) -> Callable[[], dict[str, Any]]:
        return lambda: {"block": make()}

    return [Contender(label, kind, statement, names(make)) for label, kind, make in made]


def awaited() -> list[Contender]:
    """What is entered with `async with`."""
    made: list[Made] = [(EMPTY, BASELINE, EmptyBlock)]
    if has("headway"):
        made.append(("headway AsyncTokenBucket", HEADWAY, headway_bucket))
        made.append(("headway Throttled", HEADWAY, lambda: headway_throttle(key="k")))
    if has("aiolimiter"):
        made.append(("aiolimiter AsyncLimiter", PEER, aiolimiter_bucket))
    if has("steindamm"):
        made.append(("steindamm local token bucket", PEER, steindamm_bucket))
    if has("throttled-py"):
        made.append(("throttled.asyncio Throttled", PEER, lambda: throttled_throttle(key="k")))
    if has("headway"):
        made.append(("headway AsyncSemaphore", HEADWAY, headway_semaphore))
    made.append(("asyncio.Semaphore", BASELINE, lambda: asyncio.Semaphore(CAPACITY)))
    if has("steindamm"):
        made.append(("steindamm local semaphore", PEER, steindamm_semaphore))
    return _contenders("async with block:\n    pass", made)


def of_threads() -> list[Contender]:
    """What is entered with `with`."""
    made: list[Made] = [("with an empty class", BASELINE, EmptyBlock)]
    if has("headway"):
        made.append(("headway SyncSemaphore", HEADWAY, headway_thread_semaphore))
    made.append(("threading.Semaphore", BASELINE, lambda: threading.Semaphore(CAPACITY)))
    if has("steindamm"):
        made.append(("steindamm local semaphore, threads", PEER, steindamm_thread_semaphore))
    return _contenders("with block:\n    pass", made)


def run(settings: Settings) -> Report:
    """Measures and reports."""
    tasks = time_awaited(awaited(), settings)
    threads = time_in_turn(of_threads(), settings)
    report = Report(
        NAME,
        "async with a token bucket, async with a semaphore",
        "Nanoseconds for entering and leaving an empty block, the loop included; nobody waits. "
        "Ratios to an empty class of the same round.",
        [
            Section("Tasks", "ns", rows_of(tasks, tasks[0]), "an empty class"),
            Section("Threads, for information", "ns", rows_of(threads, threads[0]), "that class"),
        ],
    )
    if not has("headway"):
        return report

    def faster(label: str, ours: str, bound: float) -> None:
        what = f"{ours} against {label}"
        ratio = _times_faster(tasks, label, f"headway {ours}")
        report.targets.append(Target(what, ratio, bound, "x faster", at_least=True))

    if has("aiolimiter"):
        faster("aiolimiter AsyncLimiter", "AsyncTokenBucket", AIOLIMITER_BOUND)
    faster("asyncio.Semaphore", "AsyncSemaphore", STANDARD_BOUND)
    if has("steindamm"):
        faster("steindamm local semaphore", "AsyncSemaphore", STEINDAMM_BOUND)
    against = _times_faster(threads, "threading.Semaphore", "headway SyncSemaphore")
    report.notes.append(
        f"For threads: SyncSemaphore is {against.median:.1f} x [{against.low:.1f} to "
        f"{against.high:.1f}] as fast as threading.Semaphore."
    )
    return report


def _times_faster(timings: list[Timing], theirs: str, ours: str) -> Spread:
    return spread_of_ratios(find(timings, theirs).rounds_ns, find(timings, ours).rounds_ns)

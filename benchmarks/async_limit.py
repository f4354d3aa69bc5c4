"""await: what does one admitted `await limit("k")` cost, in memory, in asyncio?

Each algorithm against the awaiting of an empty coroutine function, which no limiter written in
Python can go below, and against the same algorithm of throttled.asyncio.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from benchmarks.async_harness import time_awaited
from benchmarks.contenders import ALGORITHMS, NEVER_DENIES, count, empty_loop, has
from benchmarks.harness import (
    BASELINE,
    HEADWAY,
    PEER,
    Contender,
    Settings,
    find,
    spread_of_ratios,
)
from benchmarks.report import Report, Section, Target, rows_of

NAME = "await"
EMPTY_BOUND = 1.6
PEER_BOUND = 35.0
UNIT = "await of an empty coroutine function"


async def empty() -> None:
    """The coroutine function that does nothing."""


def headway_throttle(using: str = "token_bucket", **more: Any) -> Any:
    """A Throttled of headway.asyncio with a store of its own."""
    from headway.asyncio import MemoryStore, Throttled

    return Throttled(using=using, quota=f"{NEVER_DENIES}/s", store=MemoryStore(), **more)


def throttled_throttle(using: str = "token_bucket", **more: Any) -> Any:
    """A Throttled of throttled.asyncio with a store of its own."""
    from throttled import asyncio as throttled

    quota = throttled.rate_limiter.per_sec(NEVER_DENIES)
    return throttled.Throttled(using=using, quota=quota, store=throttled.MemoryStore(), **more)


def headway_limits(using: str) -> Contender:
    """`await limit("k")` of headway."""

    def make() -> Mapping[str, Any]:
        limit = headway_throttle(using).limit
        try:
            limit("k").send(None)
        except StopIteration as done:
            if done.value:
                return {"limit": limit}
        raise RuntimeError(f"headway {using} does not admit at once, as this benchmark wants it")

    return Contender(f"headway {using}", HEADWAY, 'await limit("k")', make)


def headway_peeks() -> Contender:
    """`await peek("k")` of headway."""
    return Contender(
        "headway token_bucket, peek",
        HEADWAY,
        'await peek("k")',
        lambda: {"peek": headway_throttle().peek},
        "makes the state object",
    )


def throttled_limits(using: str) -> Contender:
    """`await limit("k")` of throttled.asyncio."""
    return Contender(
        f"throttled.asyncio {using}",
        PEER,
        'await limit("k")',
        lambda: {"limit": throttled_throttle(using).limit},
    )


def decorated() -> list[Contender]:
    """An empty coroutine function under each library's decorator."""
    found = []
    if has("headway"):
        found.append(
            Contender(
                "headway, decorated coroutine function",
                HEADWAY,
                "await f()",
                lambda: {"f": headway_throttle(key="k")(empty)},
            )
        )
    if has("throttled-py"):
        found.append(
            Contender(
                "throttled.asyncio, decorated coroutine function",
                PEER,
                "await f()",
                lambda: {"f": throttled_throttle(key="k")(empty)},
            )
        )
    return found


def run(settings: Settings) -> Report:
    """Measures and reports."""
    contenders = [
        empty_loop(),
        count(),
        Contender(UNIT, BASELINE, "await f()", lambda: {"f": empty}),
    ]
    if has("headway"):
        contenders += [headway_limits(using) for using in ALGORITHMS]
        contenders.append(headway_peeks())
    if has("throttled-py"):
        contenders += [throttled_limits(using) for using in ALGORITHMS]
    contenders += decorated()
    timings = time_awaited(contenders, settings)
    base = timings[2]
    report = Report(
        NAME,
        "One admitted await limit() in memory, asyncio",
        f"Nanoseconds a call, the loop included; ratios to the {UNIT} of the same round.",
        [
            Section(
                "One admitted call",
                "ns",
                rows_of(timings, base),
                "an empty await",
                plot_ratio=True,
                limit=EMPTY_BOUND,
            )
        ],
    )
    for using in ALGORITHMS if has("headway") else ():
        ours = find(timings, f"headway {using}")
        ratios = spread_of_ratios(ours.rounds_ns, base.rounds_ns)
        report.targets.append(
            Target(f'await limit("k"), {using}', ratios, EMPTY_BOUND, "x an empty await")
        )
        if has("throttled-py"):
            theirs = find(timings, f"throttled.asyncio {using}")
            times = spread_of_ratios(theirs.rounds_ns, ours.rounds_ns)
            what = f"{using} against throttled.asyncio"
            report.targets.append(Target(what, times, PEER_BOUND, "x faster", at_least=True))
    return report

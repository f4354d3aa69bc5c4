"""wakeup: how late does a wait return, while 1,000 tasks wait?

When a slot is due follows from the quota alone. A bucket is emptied at an instant that is noted
before the call; from then on a token is due every `period / limit`. The lateness of a task is the
clock when its `await` has returned, minus the instant at which its token was due. So it holds
everything: the event loop's timer, the limiter, the other tasks that run first, and the switch to
this one.

The shapes:

- one key, 1,000 waiters, one token due each millisecond;
- 1,000 keys with one waiter each, one due each millisecond;
- 1,000 keys with one waiter each, all due within the same millisecond: most of the lateness is then
  the time that it takes to run the tasks, so 1,000 bare futures that one timer completes stand
  beside it. No limiter can be earlier than these.

`asyncio.sleep` until the same instants is the yardstick in every shape. The timers of asyncio and
of uvloop count in whole milliseconds, so about half of one is lost on average. Peers are left out:
the waiters of aiolimiter overtake one another, so none of them has an instant of its own. The
garbage collector is on, as in a program.
"""

from __future__ import annotations

import asyncio
import functools
import gc
from collections.abc import Callable, Coroutine
from time import monotonic_ns
from typing import Any

from benchmarks.contenders import has
from benchmarks.event_loops import event_loops, run_on
from benchmarks.harness import BASELINE, HEADWAY, Settings, Spread, spread
from benchmarks.report import Report, Row, Section, Target

NAME = "wakeup"
WAITERS = 1_000
MEDIAN_BOUND_MS = 1.0
P99_BOUND_MS = 5.0
STEP_NS = 1_000_000
LEAD = 200
"""Tokens that are waited for first, so that all have joined before the first is due."""

Late = list[int]
Shape = Callable[[int], Coroutine[Any, Any, Late]]


async def _gather(waits: list[Coroutine[Any, Any, int]]) -> Late:
    """What the waits return, each in a task, with a clean heap before."""
    gc.collect()
    return await asyncio.gather(*(asyncio.ensure_future(wait) for wait in waits))


# ---- one key ----


async def headway_one_key(count: int) -> Late:
    """1,000 waiters on one key of headway; the bucket holds as much as is waited for."""
    from headway.asyncio import MemoryStore, Throttled

    burst = max(LEAD, count)
    limiter = Throttled(quota=f"1000/s burst {burst}", store=MemoryStore(), timeout=60)

    async def waits(due_ns: int) -> int:
        result = await limiter.limit("k")
        late = monotonic_ns() - due_ns
        assert result
        return late

    start = monotonic_ns()
    assert await limiter.limit("k", burst)
    lead = asyncio.ensure_future(limiter.limit("k", LEAD))
    await asyncio.sleep(0)
    late = await _gather([waits(start + (LEAD + 1 + i) * STEP_NS) for i in range(count)])
    assert await lead
    return late


async def sleep_apart(count: int) -> Late:
    """`asyncio.sleep` until the same instants."""

    async def waits(due_ns: int) -> int:
        await asyncio.sleep((due_ns - monotonic_ns()) / 1e9)
        return monotonic_ns() - due_ns

    start = monotonic_ns()
    return await _gather([waits(start + (LEAD + 1 + i) * STEP_NS) for i in range(count)])


# ---- a key for each ----


def _headway_keys(all_at_once: bool) -> Shape:
    async def shape(count: int) -> Late:
        from headway.asyncio import MemoryStore, Throttled

        most = LEAD + count
        limiter = Throttled(quota=f"1000/s burst {most}", store=MemoryStore(), timeout=60)

        async def waits(key: str, tokens: int, due_ns: int) -> int:
            result = await limiter.limit(key, tokens)
            late = monotonic_ns() - due_ns
            assert result
            return late

        tokens = [LEAD if all_at_once else LEAD + i for i in range(count)]
        made = []
        for i in range(count):
            emptied = monotonic_ns()
            assert await limiter.limit(f"k{i}", most)
            made.append(waits(f"k{i}", tokens[i], emptied + tokens[i] * STEP_NS))
        return await _gather(made)

    return shape


async def sleep_at_once(count: int) -> Late:
    """`asyncio.sleep` of all until one instant."""
    due_ns = monotonic_ns() + LEAD * STEP_NS

    async def waits() -> int:
        await asyncio.sleep((due_ns - monotonic_ns()) / 1e9)
        return monotonic_ns() - due_ns

    return await _gather([waits() for _ in range(count)])


async def futures_at_once(count: int) -> Late:
    """A bare future for each task, and one timer that completes them all."""
    loop = asyncio.get_running_loop()
    futures = [loop.create_future() for _ in range(count)]
    due_ns = monotonic_ns() + LEAD * STEP_NS

    def complete() -> None:
        for future in futures:
            future.set_result(None)

    async def waits(future: asyncio.Future[None]) -> int:
        await future
        return monotonic_ns() - due_ns

    loop.call_later((due_ns - monotonic_ns()) / 1e9, complete)
    return await _gather([waits(future) for future in futures])


# ---- the tables ----

BURSTS = (1, 2, 10)
SHAPES: dict[str, list[tuple[str, str, str, Shape]]] = {
    "one key, a token each ms": [
        ("headway", HEADWAY, "headway", headway_one_key),
        ("asyncio.sleep", BASELINE, "", sleep_apart),
    ],
    "1,000 keys, one due each ms": [
        ("headway", HEADWAY, "headway", _headway_keys(all_at_once=False)),
        ("asyncio.sleep", BASELINE, "", sleep_apart),
    ],
    "1,000 keys, all due at once": [
        ("headway", HEADWAY, "headway", _headway_keys(all_at_once=True)),
        ("asyncio.sleep", BASELINE, "", sleep_at_once),
        ("bare futures, one timer", BASELINE, "", futures_at_once),
    ],
}


def run(settings: Settings) -> Report:
    """Measures and reports."""
    report = Report(
        NAME,
        f"How late a wait returns, {WAITERS:,} tasks waiting",
        "Milliseconds from the instant at which the quota has a token until the task runs on. "
        "Median and 99th percentile of the tasks of a round; then the median, the smallest and the "
        "largest of the rounds. The garbage collector is on.",
    )
    earliest = 0.0
    for loop in event_loops():
        for shape, contenders in SHAPES.items():
            contenders = [c for c in contenders if not c[2] or has(c[2])]
            late: dict[str, list[list[float]]] = {c[0]: [] for c in contenders}
            for number in range(settings.rounds + 1):
                for label, _, _, work in contenders:
                    nanoseconds = run_on(loop, functools.partial(work, WAITERS))
                    if number > 0:
                        late[label].append(sorted(ns / 1e6 for ns in nanoseconds))
            rows = []
            for label, kind, _, _ in contenders:
                half, most = _percentile(late[label], 0.5), _percentile(late[label], 0.99)
                rows.append(Row(f"{label}, median", kind, half))
                rows.append(Row(f"{label}, p99", kind, most))
                if kind == HEADWAY:
                    earliest = min(earliest, min(values[0] for values in late[label]))
                    what = f"{loop}, {shape}"
                    report.targets.append(Target(f"{what}: median", half, MEDIAN_BOUND_MS, "ms"))
                    report.targets.append(Target(f"{what}: p99", most, P99_BOUND_MS, "ms"))
            report.sections.append(Section(f"{loop}: {shape}", "ms", rows))
    if has("headway"):
        report.sections.append(_rates(settings))
    report.notes.append(
        "`asyncio.sleep` on uvloop rounds to whole milliseconds and so returns early as often as "
        "late; a limiter must not be early."
    )
    report.notes.append(f"The earliest of headway: {earliest:g} ms (0: none was early).")
    return report


def _rates(settings: Settings) -> Section:
    """How much of the rate is kept where each wake-up is late: a larger burst makes up for it."""
    kept: dict[tuple[str, int], list[float]] = {}
    for _ in range(settings.rounds):
        for loop in event_loops():
            for burst in BURSTS:
                seconds = run_on(loop, functools.partial(_drain, burst, WAITERS))
                kept.setdefault((loop, burst), []).append(100 * WAITERS / 1_000 / seconds)
    rows = [
        Row(f"{loop}, 1,000/s burst {burst}", HEADWAY, spread(rates))
        for (loop, burst), rates in kept.items()
    ]
    return Section(
        "Rate kept by waiters alone, one key",
        "% of the exact rate",
        rows,
        short="%",
        more_is_better=True,
    )


async def _drain(burst: int, count: int) -> float:
    """Seconds in which `count` waiters on one empty bucket have all returned."""
    from headway.asyncio import MemoryStore, Throttled

    limiter = Throttled(quota=f"1000/s burst {burst}", store=MemoryStore(), timeout=60)
    assert await limiter.limit("k", burst)
    start = monotonic_ns()
    await asyncio.gather(*(limiter.limit("k") for _ in range(count)))
    return (monotonic_ns() - start) / 1e9


def _percentile(rounds: list[list[float]], share: float) -> Spread:
    """A percentile of each round's sorted values, and the spread of that over the rounds."""
    return spread([values[min(len(values) - 1, int(share * len(values)))] for values in rounds])

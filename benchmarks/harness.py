"""Timing in turn: the one way in which every benchmark here takes its figures.

The one fact to know: an absolute time means little on a shared machine, so contenders run in turn
in one process (A B C, A B C, ...), and a ratio is formed inside one round, between neighbours in
time. What is printed is the median of the rounds with the smallest and the largest in brackets.

A contender is a statement, for instance ``limit("k")``, and a factory that returns the names it
uses. The statement is compiled into a function of its own::

    def loop(count, clock, repeat, limit):
        start = clock()
        for _ in repeat(None, count):
            limit("k")
        return clock() - start

so that every name is a fast local and the cost of the loop is the same for all. The factory runs
before every batch: a contender whose state grows with use starts each batch afresh. The garbage
collector is off while a batch runs, as in `timeit`: that favours contenders that allocate
containers, which headway does not.
"""

from __future__ import annotations

import gc
import statistics
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import repeat
from time import perf_counter_ns
from typing import Any, NamedTuple

Names = Mapping[str, Any]
Loop = Callable[..., int]

HEADWAY = "headway"
PEER = "peer"
BASELINE = "baseline"


@dataclass(frozen=True)
class Settings:
    """How long to measure. `rounds` is at least 5 in any run that is reported."""

    rounds: int = 9
    batch_seconds: float = 0.05
    warm_calls: int = 2_000
    scale: float = 1.0
    """Multiplies the sizes (keys, log lines) of the big questions: 1 in a reported run."""

    def sized(self, count: int) -> int:
        """A size of one of the big questions, scaled down for a trial."""
        return max(1_000, int(count * self.scale))


class Spread(NamedTuple):
    """A figure: the median of the rounds, and the smallest and the largest of them."""

    median: float
    low: float
    high: float

    def scaled(self, factor: float) -> Spread:
        """The same figure in another unit."""
        return Spread(self.median * factor, self.low * factor, self.high * factor)


def spread(values: Sequence[float]) -> Spread:
    """The median, minimum and maximum of at least one value."""
    return Spread(statistics.median(values), min(values), max(values))


def spread_of_ratios(values: Sequence[float], base: Sequence[float]) -> Spread:
    """What `values` are in units of `base`, round by round."""
    return spread([value / unit for value, unit in zip(values, base, strict=True)])


@dataclass(frozen=True)
class Contender:
    """One statement to time, and the names that it needs."""

    label: str
    kind: str
    statement: str
    make: Callable[[], Names]
    note: str = ""


@dataclass
class Timing:
    """What a contender took, in nanoseconds a call, round by round, loop included."""

    contender: Contender
    rounds_ns: list[float] = field(default_factory=list)

    @property
    def ns(self) -> Spread:
        """Nanoseconds a call, loop included."""
        return spread(self.rounds_ns)


def compile_loop(statement: str, names: Iterable[str]) -> Loop:
    """A function of (count, clock, repeat, *names) that times `count` runs of `statement`."""
    body = "\n".join("        " + line for line in statement.splitlines())
    source = (
        f"def loop(count, clock, repeat, {', '.join(names)}):\n"
        "    start = clock()\n"
        "    for _ in repeat(None, count):\n"
        f"{body}\n"
        "    return clock() - start\n"
    )
    scope: dict[str, Any] = {}
    exec(compile(source, f"<loop of {statement!r}>", "exec"), scope)
    loop: Loop = scope["loop"]
    return loop


def run_batch(loop: Loop, names: Names, count: int) -> int:
    """Nanoseconds that `count` turns of the loop took, with the garbage collector off."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        return loop(count, perf_counter_ns, repeat, **names)
    finally:
        if was_on:
            gc.enable()


def time_in_turn(contenders: Sequence[Contender], settings: Settings) -> list[Timing]:
    """Times every contender once a round, in the order given, after one round of warm-up."""
    loops = [compile_loop(c.statement, c.make().keys()) for c in contenders]
    counts = [_calibrate(c, loop, settings) for c, loop in zip(contenders, loops, strict=True)]
    timings = [Timing(c) for c in contenders]
    for number in range(settings.rounds + 1):
        for timing, loop, count in zip(timings, loops, counts, strict=True):
            names = timing.contender.make()
            run_batch(loop, names, min(settings.warm_calls, count))
            took = run_batch(loop, names, count)
            if number > 0:  # the first round is the warm-up
                timing.rounds_ns.append(took / count)
            close(names)
        gc.collect()
    return timings


def _calibrate(contender: Contender, loop: Loop, settings: Settings) -> int:
    """How many calls fill one batch."""
    names = contender.make()
    count = 1_000
    while True:
        took = run_batch(loop, names, count)
        if took > 2_000_000 or count > 50_000_000:
            close(names)
            return max(1_000, int(count * settings.batch_seconds * 1e9 / max(took, 1)))
        count *= 4


def close(names: Names) -> None:
    """Ends what a contender runs in the background: `close` among its names, if it gave one."""
    end = names.get("close")
    if end is not None:
        end()
    quiet()


def quiet() -> None:
    """Waits for the timers that a contender started, so that they do not run in another's time.

    limits, for one, looks through all of its keys on a timer shortly after a call.
    """
    for thread in threading.enumerate():
        if isinstance(thread, threading.Timer):
            thread.join(timeout=10)


def find(timings: Sequence[Timing], label: str) -> Timing:
    """The timing with that label."""
    return next(timing for timing in timings if timing.contender.label == label)

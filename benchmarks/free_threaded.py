"""free_threaded: what do one and two threads get, with one key, keys and stores of their own?

Made for a Python without a GIL (scripts/build-python); on one with a GIL two threads get
what one gets. Each round times one thread that makes N calls, then two that make N / 2 calls each,
of every contender in turn. A ratio is formed inside one round.
"""

from __future__ import annotations

import gc
import sys
import threading
from collections.abc import Callable
from dataclasses import dataclass
from itertools import repeat
from time import perf_counter_ns

from benchmarks.harness import (
    BASELINE,
    HEADWAY,
    Loop,
    Names,
    Settings,
    compile_loop,
    spread,
    spread_of_ratios,
)
from benchmarks.report import Report, Row, Section
from headway import MemoryStore, Throttled, TokenBucket

NAME = "free_threaded"
THREADS = 2
BATCH_SECONDS = 0.3
DENIES = "1/3650d"
ADMITS = "1000000000/s"
BASE = "dict under a lock, one key"


@dataclass(frozen=True)
class Shared:
    """A statement, and the names that it uses in each of `threads` threads."""

    label: str
    kind: str
    statement: str
    make: Callable[[int], list[Names]]


def _locked(threads: int) -> list[Names]:
    lock, counts = threading.Lock(), {"k": 0}
    return [{"lock": lock, "d": counts, "key": "k"}] * threads


def _one_store(quota: str, keys: bool) -> Callable[[int], list[Names]]:
    def make(threads: int) -> list[Names]:
        limit = Throttled(quota=quota, store=MemoryStore()).limit
        return [{"limit": limit, "key": f"k{n}" if keys else "k"} for n in range(threads)]

    return make


def _stores(threads: int) -> list[Names]:
    return [_one_store(ADMITS, keys=False)(1)[0] for _ in range(threads)]


def _bucket(threads: int) -> list[Names]:
    return [{"allow": TokenBucket(1e6, 1e9).allow}] * threads


def contenders() -> list[Shared]:
    """A dictionary under a lock, limiters that share less and less, and a TokenBucket."""
    limit = "limit(key)"
    return [
        Shared(BASE, BASELINE, "with lock:\n    d[key] += 1", _locked),
        Shared("one key, denied", HEADWAY, limit, _one_store(DENIES, keys=False)),
        Shared("one key, admitted", HEADWAY, limit, _one_store(ADMITS, keys=False)),
        Shared("a key per thread", HEADWAY, limit, _one_store(ADMITS, keys=True)),
        Shared("a store per thread", HEADWAY, limit, _stores),
        Shared("one TokenBucket", HEADWAY, "allow()", _bucket),
    ]


def run(settings: Settings) -> Report:
    """Measures and reports."""
    seconds = BATCH_SECONDS * (1.0 if settings.scale == 1.0 else 0.1)
    has_gil = getattr(sys, "_is_gil_enabled", lambda: True)()
    found = _in_turn(seconds, settings.rounds)
    base_one, base_two = found[0][1], found[0][2]
    one_rows, two_rows, gained_rows = [], [], []
    for contender, one, two in found:
        label, kind = contender.label, contender.kind
        one_rows.append(Row(label, kind, spread(one), spread_of_ratios(one, base_one)))
        two_rows.append(Row(label, kind, spread(two), spread_of_ratios(two, base_two)))
        gained_rows.append(Row(label, kind, spread_of_ratios(two, one)))
    unit = "million calls a second"
    return Report(
        NAME,
        f"One and {THREADS} threads on a Python {'with' if has_gil else 'without'} a GIL",
        "Calls a second of one thread and of two threads together, in turn; ratios inside a round.",
        sections=[
            Section("Two threads to one", "times", gained_rows, more_is_better=True),
            Section("Two threads", unit, two_rows, base=BASE, short="M/s", more_is_better=True),
            Section("One thread", unit, one_rows, base=BASE, short="M/s", more_is_better=True),
        ],
    )


def _in_turn(seconds: float, rounds: int) -> list[tuple[Shared, list[float], list[float]]]:
    """(contender, million calls a second of one thread, of two together), round by round."""
    found: list[tuple[Shared, list[float], list[float]]] = [(c, [], []) for c in contenders()]
    loops = [compile_loop(c.statement, c.make(1)[0].keys()) for c, _, _ in found]
    counts = []
    for (contender, _, _), loop in zip(found, loops, strict=True):
        took = min(loop(5_000, perf_counter_ns, repeat, **contender.make(1)[0]) for _ in range(3))
        counts.append(max(1_000, int(5_000 * seconds * 1e9 / took)) // THREADS * THREADS)
    for number in range(rounds + 1):
        for (contender, one, two), loop, count in zip(found, loops, counts, strict=True):
            for threads, rates in ((1, one), (THREADS, two)):
                took = _together(loop, contender.make(threads), count // threads)
                if number > 0:
                    rates.append(count / took * 1e3)
    return found


def _together(loop: Loop, names: list[Names], calls: int) -> int:
    """Nanoseconds until the last thread is through; each makes `calls` calls."""
    barrier = threading.Barrier(len(names) + 1)

    def work(own: Names) -> None:
        barrier.wait()
        loop(calls, perf_counter_ns, repeat, **own)

    workers = [threading.Thread(target=work, args=(own,)) for own in names]
    for worker in workers:
        worker.start()
    gc.collect()
    gc.disable()
    try:
        start = perf_counter_ns()
        barrier.wait()
        for worker in workers:
            worker.join()
        return perf_counter_ns() - start
    finally:
        gc.enable()

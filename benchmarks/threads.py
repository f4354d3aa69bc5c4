"""threads: what is left of one thread's throughput when 16 threads want the same key?

Each round times one thread that makes N calls, then 16 threads that make N / 16 calls each, of
the same limiter on one key. On a Python with a GIL the best that can be had is 100 %: what is
lost went into waiting for locks and into switching.

A batch lasts half a second or more. Shorter ones would flatter everybody: Python lets a thread
run for 5 ms at a time, and a thread that is through before its first 5 ms are over never meets
another.
"""

from __future__ import annotations

import gc
import threading
from itertools import repeat
from time import perf_counter_ns

from benchmarks.contenders import (
    COUNT_LABEL,
    allowed_calls,
    has,
    pyrate_limiter_,
)
from benchmarks.harness import (
    BASELINE,
    HEADWAY,
    PEER,
    Contender,
    Loop,
    Names,
    Settings,
    close,
    compile_loop,
    spread,
)
from benchmarks.report import Report, Row, Section, Target

NAME = "threads"
THREADS = 16
BOUND = 80.0
BATCH_SECONDS = 0.5
LEFT_OUT = (
    "limits moving window",
    "limits sliding counter",
    "throttled-py sliding_window",
    "throttled-py leaking_bucket",
    "pyrate-limiter log",
    "pyrate-limiter state",
)
"""Too much alike, or growing with every call: a batch would measure its length."""


def _under_a_lock() -> Names:
    lock, counts = threading.Lock(), {"k": 0}
    return {"lock": lock, "d": counts, "key": "k"}


def _pyrate_waits() -> Names:
    limiter = pyrate_limiter_("state")
    return {"acquire": limiter.try_acquire, "close": limiter.close}


def contenders() -> list[Contender]:
    """A dictionary under a lock, and what is installed, but for those left out.

    pyrate-limiter is asked in its blocking way here: asked not to block, it gives up whenever
    another thread holds its lock, and most of its calls would decide nothing.
    """
    locked = Contender(
        f"{COUNT_LABEL} under a lock", BASELINE, "with lock:\n    d[key] += 1", _under_a_lock
    )
    found = [locked, *(c for c in allowed_calls() if c.label not in LEFT_OUT)]
    if has("pyrate-limiter"):
        found.append(Contender("pyrate-limiter state", PEER, 'acquire("k")', _pyrate_waits))
    return found


def run(settings: Settings) -> Report:
    """Measures and reports."""
    seconds = BATCH_SECONDS * (1.0 if settings.scale == 1.0 else 0.3)
    rows_one, rows_many, rows_kept = [], [], []
    report = Report(
        NAME,
        f"{THREADS} threads on one key",
        f"Calls a second of one thread and of {THREADS} threads together, in turn; the share that "
        "is left is formed round by round.",
    )
    measured = _in_turn(contenders(), seconds, settings.rounds)
    for contender, one, many in measured:
        kept = [100 * m / o for m, o in zip(many, one, strict=True)]
        rows_one.append(Row(contender.label, contender.kind, spread([v / 1e3 for v in one])))
        rows_many.append(Row(contender.label, contender.kind, spread([v / 1e3 for v in many])))
        rows_kept.append(Row(contender.label, contender.kind, spread(kept), note=contender.note))
        if contender.kind == HEADWAY:
            report.targets.append(
                Target(
                    f"{contender.label.removeprefix('headway ')}: {THREADS} threads keep",
                    spread(kept),
                    BOUND,
                    "% of one thread",
                    at_least=True,
                )
            )
    unit = "thousand calls a second"
    report.sections = [
        Section(f"Kept by {THREADS} threads", "%", rows_kept, more_is_better=True, limit=BOUND),
        Section(f"{THREADS} threads together", unit, rows_many, short="k/s", more_is_better=True),
        Section("One thread", unit, rows_one, short="k/s", more_is_better=True),
    ]
    return report


def _in_turn(
    contenders: list[Contender], seconds: float, rounds: int
) -> list[tuple[Contender, list[float], list[float]]]:
    """(contender, calls a second of one thread, of 16 together), round by round."""
    found: list[tuple[Contender, list[float], list[float]]] = [(c, [], []) for c in contenders]
    loops = [compile_loop(c.statement, c.make().keys()) for c in contenders]
    counts: list[int] = []
    for contender, loop in zip(contenders, loops, strict=True):
        names = contender.make()
        took = loop(5_000, perf_counter_ns, repeat, **names)
        took = min(took, loop(5_000, perf_counter_ns, repeat, **names))
        counts.append(max(THREADS * 100, int(5_000 * seconds * 1e9 / took)) // THREADS * THREADS)
        close(names)
    for number in range(rounds + 1):
        for (contender, one, many), loop, count in zip(found, loops, counts, strict=True):
            for threads, rates in ((1, one), (THREADS, many)):
                names = contender.make()
                loop(1_000, perf_counter_ns, repeat, **names)
                took = together(loop, names, threads, count // threads)
                close(names)
                if number > 0:
                    rates.append(count / took * 1e9)
        gc.collect()
    return found


def together(loop: Loop, names: Names, threads: int, calls: int) -> int:
    """Nanoseconds until the last of `threads` threads is through with its `calls` calls."""
    barrier = threading.Barrier(threads + 1)
    failed: list[BaseException] = []

    def work() -> None:
        barrier.wait()
        try:
            loop(calls, perf_counter_ns, repeat, **names)
        except BaseException as error:
            failed.append(error)

    workers = [threading.Thread(target=work) for _ in range(threads)]
    for worker in workers:
        worker.start()
    gc.collect()
    gc.disable()
    try:
        start = perf_counter_ns()
        barrier.wait()
        for worker in workers:
            worker.join()
        took = perf_counter_ns() - start
    finally:
        gc.enable()
    if failed:
        raise failed[0]
    return took

"""floods: does a flood of a million hostile keys set a limited key free, and what does each cost?

A hundred victims have used up 5 a day. Then a million new keys come, under another key prefix, each
of which uses up its quota with its one call: a store of 65,536 keys, and shared memory of 16 MiB,
are full of keys at their limit after the first of them. Three floods: used up for ten years, fresh
(one call of ten), and half of each. Counted are the victims that are let in again; timed are the
calls of the flood once the store is full, and a call of one hot key in the full store.
"""

from __future__ import annotations

import itertools
import logging
import secrets
from collections.abc import Callable, Iterator, Sequence
from time import perf_counter_ns
from typing import Any

from benchmarks.contenders import ALGORITHMS
from benchmarks.harness import HEADWAY, Settings, spread
from benchmarks.report import Report, Row, Section, Target

NAME = "floods"
KEYS = 1_000_000
VICTIMS = 100
HOT_CALLS = 20_000
PARTS = 10
FLOODS = {
    "used up": ["1/3650d"],
    "fresh": ["10/day"],
    "half of each": ["1/3650d", "10/day"],
}


def run(settings: Settings) -> Report:
    """Measures and reports."""
    count = settings.sized(KEYS)
    report = Report(
        NAME,
        f"A flood of {count:,} hostile keys",
        f"{VICTIMS} keys that have used up 5 a day, then {count:,} new keys under another prefix; "
        f"{PARTS} parts of the flood are timed, the first not, in which the store fills.",
    )
    flood_rows, hot_rows, freed = [], [], 0
    logging.getLogger("headway").addHandler(logging.NullHandler())  # each full store logs once
    for kind, flood in itertools.product(("memory", "shm"), FLOODS):
        for using in ALGORITHMS:
            with_store = _memory if kind == "memory" else _shared
            for store in with_store():
                label = f"{kind} {using}, {flood}"
                freed_here, calls, hot = _flooded(store, using, FLOODS[flood], count)
                freed += freed_here
                flood_rows.append(Row(label, HEADWAY, spread(calls), note=f"{freed_here} freed"))
                hot_rows.append(Row(label, HEADWAY, spread(hot)))
    report.sections.append(Section("A call of the flood, in a full store", "ns", flood_rows))
    report.sections.append(Section("A call of a hot key, in the full store", "ns", hot_rows))
    report.targets.append(
        Target("limited keys that the flood set free", spread([float(freed)]), 0, "keys")
    )
    return report


def _memory() -> Iterator[Any]:
    from headway import MemoryStore

    yield MemoryStore()


def _shared() -> Iterator[Any]:
    from headway import SharedMemoryStore

    store = SharedMemoryStore(f"bench-floods-{secrets.token_hex(4)}")
    try:
        yield store
    finally:
        store.remove()


def _flooded(
    store: Any, using: str, quotas: list[str], count: int
) -> tuple[int, list[float], list[float]]:
    """How many victims are let in again; nanoseconds a call of the flood, and of the hot key."""
    from headway import Throttled

    victims = Throttled(using=using, quota="5/day", store=store, key_prefix="victims")
    names = [f"victim {number}" for number in range(VICTIMS)]
    for name in names:
        victims.limit(name, 5)
    limits = [
        Throttled(using=using, quota=quota, store=store, key_prefix="flood").limit
        for quota in quotas
    ]
    hot = Throttled(using=using, quota="1000000000/s", store=store, key_prefix="hot").limit
    calls, hot_calls = [], []
    numbers = iter(range(count))
    for part in range(PARTS):
        keys = [f"made up {n}" for n in itertools.islice(numbers, count // PARTS)]
        taken = _timed(limits, keys)
        if part > 0:
            calls.append(taken)
            hot_calls.append(_timed([hot], ["hot"] * HOT_CALLS))
    freed = sum(bool(victims.limit(name)) for name in names)
    return freed, calls, hot_calls


def _timed(limits: Sequence[Callable[[str], Any]], keys: list[str]) -> float:
    turns = itertools.cycle(limits)
    pairs = list(zip(turns, keys, strict=False))
    started = perf_counter_ns()
    for limit, key in pairs:
        limit(key)
    return (perf_counter_ns() - started) / len(keys)

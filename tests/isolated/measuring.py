"""Calls something very often and says what stayed behind: memory blocks, tracked objects, resident
memory, references to what is watched and, in a debug build of CPython (`make leaks`), references to
anything at all.

A program `leak_*.py` lists named calls and hands them to `main`. After a warm-up that fills free
lists and caches, a call that leaks one object each time shows up a million times over; what is
allowed is the noise of an interpreter. Noise may once be more than that; what a call leaks is left
behind each time, so what was found is looked for again before it is reported.
"""

from __future__ import annotations

import gc
import os
import resource
import sys
from collections.abc import Callable, Iterable
from itertools import repeat
from typing import NamedTuple

TIMES = int(os.environ.get("HEADWAY_LEAK_CALLS", "1000000"))
BLOCKS_ALLOWED = 300
OBJECTS_ALLOWED = 100
REFERENCES_ALLOWED = 300
KIB_ALLOWED = 1536
TRIES = 3


class Case(NamedTuple):
    """One call to repeat. `share` scales the number of repetitions of calls that are slow by
    nature.
    """

    name: str
    call: Callable[[], object]
    share: float = 1.0
    watched: tuple[object, ...] = ()
    counted: bool = True
    """Whether a debug build counts its references: not those of modules built for another."""


class Footprint(NamedTuple):
    """What the process holds."""

    blocks: int
    objects: int
    kib: int
    references: tuple[int, ...]
    all_references: int  # 0 where the interpreter does not count them


def resident_kib() -> int:
    """Resident memory now; where only the peak is known, the peak."""
    try:
        with open("/proc/self/statm") as statm:
            return int(statm.read().split()[1]) * (resource.getpagesize() // 1024)
    except OSError:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024


def footprint(watched: tuple[object, ...]) -> Footprint:
    gc.collect()
    return Footprint(
        blocks=sys.getallocatedblocks(),
        objects=len(gc.get_objects()),
        kib=resident_kib(),
        references=tuple(sys.getrefcount(thing) for thing in watched),
        all_references=getattr(sys, "gettotalrefcount", int)(),
    )


def leaks(case: Case) -> str:
    """What the calls of a case left behind each time, in words; empty when once nothing."""
    call, times = case.call, max(1, round(TIMES * case.share))
    for _ in repeat(None, max(1, round(100 * case.share), times // 10)):
        call()
    for _ in range(TRIES):
        found = left_behind(case, times)
        if not found:
            return ""
    return f"{case.name}: {times} calls left {', '.join(found)}"


def left_behind(case: Case, times: int) -> list[str]:
    call = case.call
    before = footprint(case.watched)
    for _ in repeat(None, times):
        call()
    after = footprint(case.watched)
    found = []
    if after.blocks - before.blocks > BLOCKS_ALLOWED:
        found.append(f"{after.blocks - before.blocks} memory blocks")
    if after.objects - before.objects > OBJECTS_ALLOWED:
        found.append(f"{after.objects - before.objects} objects")
    # Too few are as bad as too many: what they refer to is freed while it is used.
    all_references = after.all_references - before.all_references
    if case.counted and abs(all_references) > REFERENCES_ALLOWED:
        found.append(f"{all_references} references")
    if after.kib - before.kib > KIB_ALLOWED:
        found.append(f"{after.kib - before.kib} KiB")
    for thing, old, new in zip(case.watched, before.references, after.references, strict=True):
        if abs(new - old) > 10:
            found.append(f"{new - old} references to {type(thing).__name__} {thing!r:.60}")
    return found


_left_out: list[str] = []


def left_out(name: str, why: str) -> None:
    """Say that cases cannot be run here."""
    _left_out.append(name)
    print(f"{name}: left out, since {why}", flush=True)


def main(cases: Iterable[Case]) -> None:
    """Runs the cases that the command line names, or all; ends with 1 when one leaks."""
    wanted, found = sys.argv[1:], []
    for case in cases:
        if not wanted or case.name in wanted:
            found.append(leaks(case))
            print(found[-1] or f"{case.name}: nothing left", flush=True)
    if not found and not _left_out:
        raise SystemExit(f"no case is called {' or '.join(wanted)}")
    if any(found):
        raise SystemExit(1)


def swallow(
    error: type[BaseException] | tuple[type[BaseException], ...], call: Callable[[], object]
) -> Callable[[], None]:
    """The call, which must raise `error`."""

    def raising() -> None:
        try:
            call()
        except error:
            return
        raise AssertionError("no error was raised")

    return raising

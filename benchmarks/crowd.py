"""crowd: do 100,000 tasks that wait on one key keep the rate, do they stall the event loop, and
what do they take in memory?

A new process for each contender and round (`crowd_child.py`). The quota is 20,000 a second; a first
call holds the line up until all have joined, so neither the making of tasks nor their joining is
part of the rate or of the stall. Beside it stand tasks that wait on a bare future of their own,
completed at the same rate by one task: that is asyncio without a limiter. What the limiter adds to
the memory of a waiting task is the difference between the two.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from benchmarks.contenders import has
from benchmarks.event_loops import event_loops
from benchmarks.harness import BASELINE, HEADWAY, Settings, spread
from benchmarks.report import Report, Row, Section, Target

NAME = "crowd"
WAITERS = 100_000
RATE = 20_000
ROUNDS = 5
RATE_BOUND = 1.0
STALL_BOUND_MS = 10.0
BYTES_BOUND = 512.0
ROOT = Path(__file__).parent.parent

LABELS = {
    "limiter": ("headway", HEADWAY),
    "limiter-quiet": ("headway, garbage collector off", HEADWAY),
    "futures": ("bare futures", BASELINE),
    "futures-quiet": ("bare futures, garbage collector off", BASELINE),
    "shared": ("all on one bare future", BASELINE),
}
Found = dict[str, list[dict[str, float]]]


def run(settings: Settings) -> Report:
    """Measures and reports."""
    count, rounds = settings.sized(WAITERS), ROUNDS if settings.scale == 1 else 2
    report = Report(
        NAME,
        f"{count:,} tasks wait on one key",
        f"A quota of {RATE:,} a second; a new process for each figure, {rounds} rounds. Stall: the "
        "longest time between two turns of a task that sleeps a millisecond each time, after all "
        "have joined. Memory: growth of the resident set for each task that waits.",
    )
    for loop in event_loops():
        whats = [w for w in LABELS if has("headway") or LABELS[w][1] == BASELINE]
        found: Found = {what: [] for what in whats}
        for _ in range(rounds):
            for what in whats:
                found[what].append(_child(what, loop, count))
        _sections(report, loop, found)
    return report


def _child(what: str, loop: str, count: int) -> dict[str, float]:
    command = [sys.executable, "-m", "benchmarks.crowd_child", what, loop, str(count), str(RATE)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    if done.returncode != 0:
        raise RuntimeError(f"{what} on {loop}: {done.stderr.strip().splitlines()[-1]}")
    answer: dict[str, float] = json.loads(done.stdout)
    return answer


def _sections(report: Report, loop: str, found: Found) -> None:
    rates, stalls, sizes, joins = [], [], [], []
    for what, runs in found.items():
        label, kind = LABELS[what]
        size = spread([r["bytes"] for r in runs])
        join = spread([r["joined_us"] for r in runs])
        if "quiet" not in what:
            sizes.append(Row(label, kind, size))
        if what == "shared":
            continue
        stall = spread([r["stall_ms"] for r in runs])
        rate = spread([(r["seconds"] / r["expected"] - 1) * 100 for r in runs])
        early = sum(r["early"] for r in runs)
        rates.append(Row(label, kind, rate, note=f"{early:.0f} early"))
        stalls.append(Row(label, kind, stall))
        joins.append(Row(label, kind, join))
        if what == "limiter":
            off = spread([abs(r["seconds"] / r["expected"] - 1) * 100 for r in runs])
            report.targets.append(Target(f"{loop}: off the exact rate", off, RATE_BOUND, "%"))
        if kind == HEADWAY:
            what_stall = f"{loop}: longest stall, {label}"
            report.targets.append(Target(what_stall, stall, STALL_BOUND_MS, "ms"))
    report.sections += [
        Section(f"{loop}: longest stall of the loop", "ms", stalls, limit=STALL_BOUND_MS),
        Section(f"{loop}: later than the exact rate", "%", rates),
        Section(f"{loop}: memory for each waiting task", "bytes", sizes),
        Section(f"{loop}: making a task that joins", "µs", joins),
    ]
    if "limiter" in found:
        _added(report, loop, found)


def _added(report: Report, loop: str, found: Found) -> None:
    def minus(what: str) -> list[float]:
        pairs = zip(found["limiter"], found[what], strict=True)
        return [ours["bytes"] - theirs["bytes"] for ours, theirs in pairs]

    what = f"{loop}: added to a task that waits on a bare future"
    report.targets.append(Target(what, spread(minus("futures")), BYTES_BOUND, "bytes"))
    what = f"{loop}: added to a task with nothing of its own to wait on"
    report.targets.append(Target(what, spread(minus("shared")), BYTES_BOUND, "bytes"))

"""core: what do a step, and a keyed lookup and a step, cost in C, beyond the reading of the
clock?

Compiles `core.c` against `src/core` with the flags of the extension and runs it. Every case reads
the clock once a turn, as a limiter does; what it takes beyond the case that does nothing else is
what it adds. Lookup includes picking the shard, its lock, the probe, the comparison of a key of
16 bytes, the step and what expiry needs.
"""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
import tempfile
from collections import defaultdict
from pathlib import Path

from benchmarks.harness import BASELINE, HEADWAY, Settings, Spread, spread
from benchmarks.report import Report, Row, Section, Target

NAME = "core"
STEP_BOUND_NS = 15.0
KEYED_BOUND_NS = 40.0
CORE = Path(__file__).parent.parent / "src" / "core"
FLAGS = (
    "-std=c11",
    "-D_GNU_SOURCE",
    "-D_GNU_SOURCE",
    "-O3",
    "-fvisibility=hidden",
    "-pthread",
    "-Wall",
    "-Wextra",
)


def build(folder: Path) -> Path:
    """Compiles the benchmark into `folder`."""
    program = folder / "core"
    sources = [Path(__file__).with_suffix(".c"), *sorted(CORE.glob("*.c"))]
    compiler = shlex.split(os.environ.get("CC", "cc"))
    command = [*compiler, *FLAGS, "-I", str(CORE), *map(str, sources), "-o", str(program)]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode != 0:
        raise RuntimeError(f"core.c does not compile:\n{done.stderr}")
    return program


def run(settings: Settings) -> Report:
    """Builds, measures and reports."""
    if not CORE.exists():
        raise RuntimeError(f"{CORE} is not there: this question needs a checkout")
    calls = settings.sized(3_000_000)
    with tempfile.TemporaryDirectory() as folder:
        done = subprocess.run(
            [str(build(Path(folder))), str(settings.rounds), str(calls)],
            capture_output=True,
            text=True,
        )
    if done.returncode != 0:
        raise RuntimeError(f"core.c failed: {done.stderr.strip()}")
    times: dict[str, list[float]] = defaultdict(list)
    for line in done.stdout.splitlines():
        name, _, value = line.partition(" ")
        times[name].append(float(value))
    return _report(times)


def _report(times: dict[str, list[float]]) -> Report:
    def beyond(name: str) -> Spread:
        return spread([t - c for t, c in zip(times[name], times["clock"], strict=True)])

    report = Report(
        NAME,
        "The core in C, beyond the reading of the clock",
        "Nanoseconds beyond a loop that only reads the clock, in the same round.",
    )
    rows = []
    for name in times:
        what, _, algorithm = name.partition(":")
        if what == "step":
            rows.append(Row(f"{algorithm}, admitted", HEADWAY, beyond(name)))
            report.targets.append(Target(f"step, {algorithm}", beyond(name), STEP_BOUND_NS, "ns"))
        elif what == "denied":
            rows.append(Row(f"{algorithm}, denied", HEADWAY, beyond(name)))
    clock = Row("the clock itself", BASELINE, spread(times["clock"]))
    report.sections.append(Section("A step", "ns", [*rows, clock], limit=STEP_BOUND_NS))
    keyed = [
        ("keyed:1", "one hot key"),
        ("keyed:1024", "1,024 keys in random order"),
        ("keyed:1000000", "10^6 keys in random order"),
    ]
    report.sections.append(
        Section(
            "Lock, lookup and token bucket step",
            "ns",
            [Row(label, HEADWAY, beyond(name)) for name, label in keyed],
            limit=KEYED_BOUND_NS,
        )
    )
    for name, label in keyed[:2]:
        report.targets.append(
            Target(f"keyed lookup and step, {label}", beyond(name), KEYED_BOUND_NS, "ns")
        )
    report.notes.append(
        "10^6 keys do not fit the caches: that figure, for information, is mostly the memory's. "
        "The bytes of the keys asked for lie in the order of use."
    )
    if sys.platform != "linux":
        report.notes.append("not Linux: the locks are pthread mutexes here, a futex word there")
    return report

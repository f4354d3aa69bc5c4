"""import: how much later does a program start because it imports a limiter?

New processes in turn: bare Python, then each import. The difference to the bare start of the same
round counts. Python is started with -I, so that the installed package is what is imported, and
with warm caches of bytecode and pages.
"""

from __future__ import annotations

import subprocess
import sys
from time import perf_counter_ns

from benchmarks.contenders import has
from benchmarks.harness import BASELINE, HEADWAY, PEER, Settings, spread
from benchmarks.report import Report, Row, Section, Target

NAME = "import"
BOUND_MS = 25.0
BARE = "python, nothing imported"

PROGRAMS = (
    (BARE, BASELINE, "", "pass"),
    ("headway", HEADWAY, "headway", "import headway"),
    (
        "headway and a first limit",
        HEADWAY,
        "headway",
        "import headway; headway.Throttled().limit('k')",
    ),
    ("token_bucket", PEER, "token-bucket", "import token_bucket"),
    ("limits", PEER, "limits", "import limits"),
    ("pyrate_limiter", PEER, "pyrate-limiter", "import pyrate_limiter"),
    ("throttled", PEER, "throttled-py", "import throttled"),
)


def start_ms(program: str) -> float:
    """Milliseconds from starting a Python that runs `program` until it has ended."""
    start = perf_counter_ns()
    subprocess.run([sys.executable, "-I", "-c", program], check=True, stdin=subprocess.DEVNULL)
    return (perf_counter_ns() - start) / 1e6


def run(settings: Settings) -> Report:
    """Measures and reports."""
    programs = [p for p in PROGRAMS if not p[2] or has(p[2])]
    times: dict[str, list[float]] = {label: [] for label, *_ in programs}
    for number in range(settings.rounds * 5 + 2):
        for label, _, _, program in programs:
            taken = start_ms(program)
            if number >= 2:
                times[label].append(taken)
    bare = times[BARE]
    added = {
        label: spread([t - b for t, b in zip(times[label], bare, strict=True)]) for label in times
    }
    report = Report(
        NAME,
        "What an import adds to the start of Python",
        f"Milliseconds of a whole process, {len(bare)} rounds, minus those of a bare Python in the "
        "same round.",
        [
            Section(
                "Added by the import",
                "ms",
                [Row(label, kind, added[label]) for label, kind, *_ in programs if label != BARE],
                limit=BOUND_MS,
            ),
            Section(
                "Whole process",
                "ms",
                [Row(label, kind, spread(times[label])) for label, kind, *_ in programs],
            ),
        ],
    )
    for label, kind, _, program in programs:
        if kind == HEADWAY:
            report.targets.append(Target(f"`{program}`", added[label], BOUND_MS, "ms"))
    return report

"""replay: how long does `headway replay` take over a million log lines?

Times the whole command, from the start of Python to its end, picture included when it draws one,
on a log that `make_access_log.py` writes. Beside it, what reading the file and splitting its
lines takes in plain Python: a floor for anything that looks at every line there.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from time import perf_counter_ns

from benchmarks.harness import BASELINE, HEADWAY, Settings, spread
from benchmarks.report import Report, Row, Section, Target

NAME = "replay"
LINES = 1_000_000
BOUND_SECONDS = 3.0
MAKER = Path(__file__).with_name("make_access_log.py")
QUOTA = "10/s burst 20"

COMMAND = "import sys; from headway.cli import main; sys.exit(main())"
READ = "import sys; sum(1 for line in open(sys.argv[1], 'rb'))"
SPLIT = "import sys; sum(len(line.split()) for line in open(sys.argv[1], 'rb'))"


def seconds_of(command: Sequence[str], folder: Path) -> float:
    """Seconds that a command took; an error with its last line where it failed."""
    start = perf_counter_ns()
    done = subprocess.run(
        command, cwd=folder, capture_output=True, text=True, stdin=subprocess.DEVNULL
    )
    taken = (perf_counter_ns() - start) / 1e9
    if done.returncode != 0:
        said = (done.stderr or done.stdout).strip().splitlines()[-1:] or ["nothing"]
        raise RuntimeError(f"{' '.join(command[:6])}: exit {done.returncode}: {said[0]}")
    return taken


def run(settings: Settings) -> Report:
    """Writes the logs, measures and reports."""
    lines = settings.sized(LINES)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        plain, packed = folder / "access.log", folder / "access.log.gz"
        for path in (plain, packed):
            make = [sys.executable, str(MAKER), "--lines", str(lines), "--out", str(path)]
            seconds_of([*make, "--gzip"] if path is packed else make, folder)
        replay = [sys.executable, "-c", COMMAND, "replay"]
        commands: list[tuple[str, str, list[str]]] = [
            ("headway replay", HEADWAY, [*replay, str(plain), "--quota", QUOTA]),
            ("headway replay, gzip", HEADWAY, [*replay, str(packed), "--quota", QUOTA]),
            (
                "headway replay, sliding window",
                HEADWAY,
                [*replay, str(plain), "--quota", "10/s", "--using", "sliding_window"],
            ),
            ("plain Python: read the lines", BASELINE, [sys.executable, "-c", READ, str(plain)]),
            (
                "plain Python: read and split them",
                BASELINE,
                [sys.executable, "-c", SPLIT, str(plain)],
            ),
        ]
        times: dict[str, list[float]] = {label: [] for label, *_ in commands}
        for number in range(max(5, settings.rounds // 2) + 1):
            for label, _, command in commands:
                taken = seconds_of(command, folder)
                if number > 0:
                    times[label].append(taken)
        size = plain.stat().st_size / 2**20
    rows = [Row(label, kind, spread(times[label])) for label, kind, _ in commands]
    report = Report(
        NAME,
        f"`headway replay` over {lines:,} log lines",
        f"Seconds of the whole command, output to a pipe; a log of {size:.0f} MiB.",
        [Section("Whole command", "s", rows, limit=BOUND_SECONDS)],
    )
    for label, kind, _ in commands:
        if kind == HEADWAY:
            report.targets.append(Target(label, spread(times[label]), BOUND_SECONDS, "s"))
    return report

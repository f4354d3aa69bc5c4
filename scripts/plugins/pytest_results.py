"""A pytest plugin that writes each test's outcome to a file as soon as it is known.

    pytest -p pytest_results        with HEADWAY_RESULTS naming the file

A run that is interrupted, killed or crashes has then named what failed so far. One JSON object a
line; the last line of a test that is cut off is ignored. run_tests.py reads the file.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

if TYPE_CHECKING:  # run_tests.py reads results before pytest is installed, too
    import pytest

VARIABLE = "HEADWAY_RESULTS"


@dataclass
class Results:
    """What a file of outcomes adds up to."""

    passed: int = 0
    skipped: int = 0
    failures: dict[str, str] = field(default_factory=dict)
    """Each failed test's name, with the line that says why."""

    def __add__(self, other: Results) -> Results:
        return Results(
            self.passed + other.passed,
            self.skipped + other.skipped,
            {**self.failures, **other.failures},
        )

    @property
    def closing(self) -> str:
        skipped = f", {self.skipped} skipped" if self.skipped else ""
        return f"{self.passed} passed, {len(self.failures)} failed{skipped}"


def read(path: Path) -> Results:
    """The outcomes in a file; none where there is no file."""
    results = Results()
    if not path.exists():
        return results
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            outcome = json.loads(line)
        except ValueError:  # the line that was being written when the run was killed
            continue
        if outcome["outcome"] == "failed":
            results.failures[outcome["name"]] = outcome["why"]
        elif outcome["outcome"] == "passed":
            results.passed += 1
        else:
            results.skipped += 1
    return results


class Recorder:
    def __init__(self, file: IO[str], config: pytest.Config) -> None:
        self._file = file
        self._config = config

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        expected = hasattr(report, "wasxfail")
        if report.failed and not expected:
            self._write(report.nodeid, "failed", _reason(report))
            self._announce(report.nodeid)
        elif expected and report.when == "call":
            self._write(report.nodeid, "passed" if report.skipped else "failed", "xfail")
        elif report.skipped:
            self._write(report.nodeid, "skipped", "")
        elif report.when == "call":
            self._write(report.nodeid, "passed", "", report.duration)

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        if report.failed:
            self._write(report.nodeid, "failed", _reason(report))

    def _write(self, name: str, outcome: str, why: str, seconds: float = 0.0) -> None:
        line = {"name": name, "outcome": outcome, "why": why, "seconds": round(seconds, 2)}
        self._file.write(json.dumps(line) + "\n")
        self._file.flush()

    def _announce(self, name: str) -> None:
        terminal: Any = self._config.pluginmanager.get_plugin("terminalreporter")
        if terminal is not None:
            terminal.ensure_newline()
            terminal.write_line(f"FAILED {name}")


def _reason(report: pytest.TestReport | pytest.CollectReport) -> str:
    """The line that says why: that of the crash where pytest knows one, else the text's last."""
    crash = getattr(getattr(report, "longrepr", None), "reprcrash", None)
    text = str(crash.message) if crash is not None else report.longreprtext
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    if not lines:
        return ""
    return lines[0] if crash is not None else lines[-1]


def pytest_configure(config: pytest.Config) -> None:
    path = os.environ.get(VARIABLE)
    if path and not hasattr(config, "workerinput"):  # pytest-xdist's workers report to this one
        file = Path(path).open("a", encoding="utf-8")  # noqa: SIM115 - closed with the run
        config.add_cleanup(file.close)
        config.pluginmanager.register(Recorder(file, config))

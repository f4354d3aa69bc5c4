"""Logs to replay, and the command as a user runs it: in this process, with its output captured.
Tests about pipes and signals start a process of their own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest
from made_logs import Outcome

from headway.cli import main


@pytest.fixture
def write(tmp_path: Path) -> Callable[..., str]:
    """Writes lines to a new file and returns its path."""

    def write(lines: Iterable[str] | bytes, name: str = "access.log") -> str:
        path = tmp_path / name
        if not isinstance(lines, bytes):
            lines = "".join(line + "\n" for line in lines).encode("utf-8", "surrogateescape")
        path.write_bytes(lines)
        return str(path)

    return write


@pytest.fixture
def replay(capsys: pytest.CaptureFixture[str]) -> Callable[..., Outcome]:
    """Runs `headway replay` with these arguments."""

    def replay(*arguments: str) -> Outcome:
        capsys.readouterr()
        code = main(["replay", *arguments])
        captured = capsys.readouterr()
        return Outcome(code, captured.out, captured.err)

    return replay


@pytest.fixture
def report(replay: Callable[..., Outcome]) -> Callable[..., Any]:
    """The JSON report of a replay that must succeed."""

    def report(*arguments: str) -> Any:
        outcome = replay(*arguments, "--json")
        assert outcome.code == 0, outcome.err
        return outcome.report

    return report

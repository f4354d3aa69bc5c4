"""Runs each leak program in an interpreter of its own: many calls of every entry point, or a
million, leave nothing behind.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent
PROGRAMS = sorted(path.name for path in HERE.glob("leak_*.py"))


@pytest.mark.parametrize(
    "calls", ["2000", pytest.param("1000000", marks=[pytest.mark.slow, pytest.mark.timeout(900)])]
)
@pytest.mark.parametrize("program", PROGRAMS)
def test_calls_leave_nothing_behind(program: str, calls: str) -> None:
    done = subprocess.run(
        [sys.executable, program],
        cwd=HERE,
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
        env=os.environ | {"HEADWAY_LEAK_CALLS": calls},
    )
    said = [line for line in done.stdout.splitlines() if ": left out, since " not in line]
    left = [line for line in said if not line.endswith("nothing left")]
    assert left == []
    assert done.returncode == 0, done.stderr


def test_a_leak_would_be_seen() -> None:
    """The measure itself: one kept object a call is reported."""
    program = "from measuring import *; kept = []; main([Case('keeps', lambda: kept.append([]))])"
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=HERE,
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
        env=os.environ | {"HEADWAY_LEAK_CALLS": "20000", "PYTHONPATH": str(HERE)},
    )
    assert done.returncode == 1
    assert "memory blocks" in done.stdout

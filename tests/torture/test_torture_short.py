"""A part of `make torture`: 20 seconds of it in every run of the tests, on stores in memory.

The whole of it is tests/torture/run.py. What it expects of asyncio and of the collector was
established on these versions of CPython, so others leave these tests out.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))
import helper  # noqa: E402

STEADY = "allocations*,signals-*,suspensions,protocol,collector,threads,uninitialised,arguments"
"""Torments whose moments are counted, not timed: each run does the same."""
KNOWN = HERE / "known.txt"
"""Pairs of operation and torment that have findings, and wait for their repair."""


pytestmark = pytest.mark.skipif(
    not (3, 11) <= sys.version_info[:2] <= (3, 13),
    reason="what is expected was established on CPython 3.11 to 3.13",
)


def torture(*arguments: str, deadline: float, report: Path) -> str:
    try:
        helper.load()
    except helper.Unavailable as why:
        pytest.skip(f"the helper in C cannot be built here: {why}")
    command = [sys.executable, str(HERE / "run.py"), "--report", str(report), *arguments]
    done = subprocess.run(
        [*command, "--except", str(KNOWN)],
        capture_output=True,
        text=True,
        timeout=deadline,
        check=False,
        # A slow machine is no finding: a moment that hangs does so for longer than that.
        env=os.environ | {"HEADWAY_TORTURE_MOMENT_S": "60"},
    )
    if done.returncode:
        wrong = [line for line in done.stdout.splitlines() if not line.startswith("ok ")]
        pytest.fail("\n".join(wrong) + done.stderr[-2000:])
    return done.stdout


def test_twenty_seconds_of_torture_find_nothing(tmp_path: Path) -> None:
    report = tmp_path / "report.json"
    chosen = ("--seconds", "20", "--only", "memory.*", "--torment", STEADY)
    out = torture(*chosen, deadline=220, report=report)
    assert " 0 findings" in out.splitlines()[-1]


@pytest.mark.slow
@pytest.mark.parametrize("torment", ["signals-interrupt", "signals-own", "signals-ask"])
def test_a_signal_handler_at_any_moment_leaves_a_file_store_that_answers(
    torment: str, tmp_path: Path
) -> None:
    """It raised between BEGIN and what undoes it, or between taking the lock and giving it back:
    then every later call failed, or hung.
    """
    out = torture(
        *("--only", "sqlite.limit,sqlite.reset,sqlite.limit@asyncio", "--torment", torment),
        *("--seconds", "20"),
        deadline=200,
        report=tmp_path / "report.json",
    )
    assert " 0 findings" in out.splitlines()[-1]


def test_the_table_names_every_store_and_torment() -> None:
    import operations
    from torments import TORMENTS

    stores = {operation.store for operation in operations.OPERATIONS.values()}
    assert stores >= {"memory", "shm", "sqlite", "atomic", "redis", "lease", "client", "hostile"}
    for name, torment in TORMENTS.items():
        assert any(torment.applies(o) for o in operations.OPERATIONS.values()), name

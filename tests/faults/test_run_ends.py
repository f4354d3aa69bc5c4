"""A test run that is killed leaves no program behind, whatever session or group that is in."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

import process_guard

TESTS = Path(process_guard.__file__).parent
SUITE = """
import os, subprocess, sys, time
from pathlib import Path
import process_guard, pytest

SLEEP = [sys.executable, "-c", "import time; time.sleep(600)"]
DAEMON = "import os, time; os.setsid(); print(os.getpid(), flush=True); time.sleep(600)"
PARENT = f"import subprocess, sys; subprocess.Popen([sys.executable, '-c', {DAEMON!r}])"

@pytest.mark.parametrize("number", range(2))
def test_that_hangs(number):
    plain = subprocess.Popen(SLEEP)
    without_a_mark = process_guard.start(SLEEP, env={})
    parent = subprocess.Popen([sys.executable, "-c", PARENT], stdout=subprocess.PIPE)
    daemon = int(parent.stdout.readline())
    parent.wait()
    started = [os.getpid(), plain.pid, without_a_mark.pid, daemon]
    Path(f"{number}.part").write_text(" ".join(map(str, started)))
    os.rename(f"{number}.part", f"started-{number}")
    time.sleep(600)
"""


@pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="needs /proc")
@pytest.mark.parametrize(
    ("workers", "number"),
    [
        (0, signal.SIGTERM),
        (2, signal.SIGKILL),
        pytest.param(0, signal.SIGKILL, marks=pytest.mark.slow),
        pytest.param(0, signal.SIGINT, marks=pytest.mark.slow),
        pytest.param(2, signal.SIGTERM, marks=pytest.mark.slow),
        pytest.param(2, signal.SIGINT, marks=pytest.mark.slow),
    ],
)
def test_nothing_that_a_test_started_outlives_its_run(
    workers: int, number: signal.Signals, tmp_path: Path, eventually: Callable[..., None]
) -> None:
    (tmp_path / "test_hanging.py").write_text(SUITE)
    (tmp_path / "pytest.ini").touch()
    options = ["-q", "-p", "conftest", "-p", "no:cacheprovider", "-p", "no:pytest_timeout"]
    run = process_guard.start(
        [sys.executable, "-m", "pytest", *options, *(["-n", str(workers)] if workers else [])],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(TESTS)},
        stdout=subprocess.DEVNULL,
    )
    try:
        begun = [tmp_path / f"started-{n}" for n in range(max(1, workers))]
        eventually(lambda: all(file.exists() for file in begun), "tests that hang")
        started = [int(pid) for file in begun for pid in file.read_text().split()]
        assert not any(map(is_gone, started))
        run.send_signal(number)
        eventually(lambda: all(map(is_gone, started)), "the end of what the tests started")
    finally:
        process_guard.end(run)


def is_gone(process_id: int) -> bool:
    try:
        status = Path(f"/proc/{process_id}/stat").read_text()
    except OSError:
        return True
    return status.rpartition(")")[2].split()[0] in "ZX"

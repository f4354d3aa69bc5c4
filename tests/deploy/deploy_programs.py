"""Programs and servers that a test runs, in a process group that ends with the test."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import process_guard

HERE = Path(__file__).resolve().parent
DEADLINE_S = 40.0


def environment(**more: str) -> dict[str, str]:
    """The environment of a program that finds the modules of this folder."""
    path = os.pathsep.join([str(HERE), *filter(None, [os.environ.get("PYTHONPATH")])])
    found = {**os.environ, "PYTHONPATH": path, "PYTHONWARNINGS": "ignore::DeprecationWarning"}
    return {**found, **more}


def run_program(name: str, *args: str, **env: str) -> Any:
    """Runs a program of this folder to its end, and returns the JSON that it prints."""
    process = process_guard.start(
        [sys.executable, str(HERE / name), *args],
        env=environment(**env),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        out, err = process.communicate(timeout=DEADLINE_S)
    except subprocess.TimeoutExpired:
        raise AssertionError(f"{name} was still busy after {DEADLINE_S} s") from None
    finally:
        process_guard.end(process)
    assert process.returncode == 0, f"{name} ended with {process.returncode}:\n{out}{err}"
    return json.loads(out)


@contextlib.contextmanager
def running(
    command: list[str], log: Path, *, pass_fds: tuple[int, ...] = (), **env: str
) -> Iterator[subprocess.Popen[bytes]]:
    """A server, asked to end when the block ends, and killed where it does not."""
    with log.open("ab") as output:
        process = process_guard.start(
            command,
            cwd=HERE,
            env=environment(**env),
            stdout=output,
            stderr=subprocess.STDOUT,
            pass_fds=pass_fds,
        )
    try:
        yield process
        process.send_signal(signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(10)
    finally:
        process_guard.end(process)
        print(log.read_text(errors="replace")[-4000:])  # pytest shows it where the test failed


def until(condition: Callable[[], object], what: str) -> None:
    """Waits for something that must happen. A refused connection is a no."""
    end = time.monotonic() + DEADLINE_S
    while True:
        with contextlib.suppress(OSError):
            if condition():
                return
        assert time.monotonic() < end, f"not seen within {DEADLINE_S} s: {what}"
        time.sleep(0.02)

"""Workers of Celery in processes of their own."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import process_guard

HERE = Path(__file__).resolve().parent
DEADLINE_S = 30.0


@contextlib.contextmanager
def worker(log: Path, env: dict[str, str], *options: str) -> Iterator[subprocess.Popen[bytes]]:
    """A worker, which ends with the block."""
    command = [sys.executable, "-m", "celery", "-A", "celery_limited_app", "worker", *options]
    command += ["--without-gossip", "--without-mingle", "--without-heartbeat", "-l", "info"]
    with log.open("ab") as output:
        process = process_guard.start(
            command,
            cwd=HERE,
            env={**os.environ, **env},
            stdout=output,
            stderr=subprocess.STDOUT,
        )
    try:
        yield process
        process.send_signal(signal.SIGQUIT)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(10)
    finally:
        process_guard.end(process)

"""A server of one's own: on a free port, nothing on disk but its log, gone with the test."""

from __future__ import annotations

import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import redis

import process_guard

BINARIES = [name for name in ("redis-server", "valkey-server") if shutil.which(name)]
DEADLINE_S = 20.0


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def answers(client: Any, process: subprocess.Popen[bytes]) -> bool:
    """Whether the server that was started is the one that answers: another may have been quicker
    to take the port.
    """
    try:
        pid: int = client.info("server")["process_id"]
    except redis.exceptions.ConnectionError:
        return False
    return pid == process.pid


@contextmanager
def running(binary: str, log: Path) -> Iterator[Any]:
    """Starts `binary`, waits until it answers, and yields a client. Stops it at the end."""
    for _ in range(5):
        port = free_port()
        options = ["--port", str(port), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"]
        process = process_guard.start(
            [binary, *options, "--logfile", str(log), "--dir", log.parent]
        )
        client = redis.Redis(port=port, decode_responses=True)
        try:
            end = time.monotonic() + DEADLINE_S
            while process.poll() is None and not answers(client, process):
                if time.monotonic() > end:
                    raise TimeoutError(f"{binary} did not answer:\n{log.read_text()}")
                time.sleep(0.01)
            if process.poll() is None:
                yield client
                return
        finally:
            client.close()
            process_guard.end(process)
    raise RuntimeError(f"{binary} could not be started:\n{log.read_text()}")

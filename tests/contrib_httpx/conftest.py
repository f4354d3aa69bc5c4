"""A real server on a free port, and a Redis server, for the tests of httpx' transports."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).parents[1] / "redis"))

from servers import RedisServer

HERE = Path(__file__).resolve().parent
DEADLINE_S = 30.0


@pytest.fixture
def url() -> Iterator[str]:
    """Where httpx_slow_app.py answers, on uvicorn in a process of its own."""
    listening = socket.create_server(("127.0.0.1", 0), backlog=512)
    command = [
        sys.executable,
        "-m",
        "uvicorn",
        "httpx_slow_app:app",
        "--fd",
        str(listening.fileno()),
    ]
    server = subprocess.Popen(
        [*command, "--no-access-log", "--log-level", "warning"],
        cwd=HERE,
        env=dict(os.environ),
        pass_fds=[listening.fileno()],
    )
    place = f"http://127.0.0.1:{listening.getsockname()[1]}"
    listening.close()  # the server has its own
    try:
        end = time.monotonic() + DEADLINE_S
        while True:
            try:
                urllib.request.urlopen(place, timeout=5).close()
                break
            except OSError:
                assert server.poll() is None, "the server has ended"
                assert time.monotonic() < end, "the server does not answer"
                time.sleep(0.02)
        yield place
    finally:
        server.terminate()
        try:
            server.wait(5)
        except subprocess.TimeoutExpired:
            server.kill()
            server.wait(DEADLINE_S)


@pytest.fixture
def redis_url() -> Iterator[str]:
    """An empty Redis server."""
    if shutil.which("redis-server") is None:
        pytest.skip("redis-server is not installed")
    with RedisServer() as server:
        yield server.url

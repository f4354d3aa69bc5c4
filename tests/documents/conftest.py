"""Redis servers for the pages and documents that need one.

The pages of docs/ name `localhost:6379`, and a test puts the place of its own server there. The
documents run verbatim, so theirs is on port 6379 itself, if nobody else has it: one test of one
worker at a time.
"""

from __future__ import annotations

import fcntl
import shutil
import socket
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).parents[1] / "redis"))

from servers import RedisServer

USUAL_PORT = 6379


def _installed() -> None:
    if shutil.which("redis-server") is None:
        pytest.skip("redis-server is not installed")


@pytest.fixture
def own_server() -> Iterator[RedisServer]:
    """An empty server on a port of its own."""
    _installed()
    with RedisServer() as server:
        yield server


@pytest.fixture
def usual_server() -> Iterator[RedisServer]:
    """An empty server on 127.0.0.1:6379, where the documents have theirs."""
    _installed()
    with (Path(tempfile.gettempdir()) / "headway-port-6379.lock").open("w") as turn:
        fcntl.flock(turn, fcntl.LOCK_EX)
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", USUAL_PORT))
            except OSError:
                pytest.skip(f"port {USUAL_PORT} is another program's")
        with RedisServer(options={"port": USUAL_PORT}) as server:
            yield server

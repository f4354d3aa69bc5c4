"""A Redis server and certificates for the tests of the limiter, from the helpers of tests/redis."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).parents[1] / "redis"))

from servers import RedisServer


@pytest.fixture
def own_server() -> Iterator[RedisServer]:
    """An empty Redis server on a port of its own."""
    if shutil.which("redis-server") is None:
        pytest.skip("redis-server is not installed")
    with RedisServer() as server:
        yield server

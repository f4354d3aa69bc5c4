"""What the tests of watching share: a Redis server of their own, no settings from outside."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).parents[1] / "redis"))

from servers import RedisServer

from headway import Throttled


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing of the machine's own: no server, no token, colours as they are by default."""
    for name in ("REDIS_URL", "HEADWAY_TOKEN", "NO_COLOR", "COLUMNS", "LINES"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture(autouse=True)
def own_memory() -> None:
    """Limiters of a test share a memory with no other test's."""
    Throttled().store.clear()


@pytest.fixture
def server() -> Iterator[RedisServer]:
    """An empty Redis server."""
    if shutil.which("redis-server") is None:
        pytest.skip("redis-server is not installed")
    with RedisServer() as server:
        yield server

"""What several of these modules use: a Redis server, and virtual time for those of retries.

The helpers of tests/redis are on the path too. No HTTP library is needed to read this.
"""

from __future__ import annotations

import asyncio
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from retry_play import Run, Time

from headway.smartratelimit import RetryHandler

sys.path.append(str(Path(__file__).parents[1] / "redis"))

from servers import RedisServer


@pytest.fixture
def own_server() -> Iterator[RedisServer]:
    """An empty Redis server on a port of its own."""
    if shutil.which("redis-server") is None:
        pytest.skip("redis-server is not installed")
    with RedisServer() as server:
        yield server


@pytest.fixture
def time() -> Time:
    return Time()


@pytest.fixture(params=["sync", "async"])
def run(request: pytest.FixtureRequest) -> Run:
    """Runs a plain function under the handler: as it is, or as a coroutine function."""

    def run_sync(handler: RetryHandler, func: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        return handler.retry_sync(func, *args, **kwargs)

    def run_async(
        handler: RetryHandler, func: Callable[..., Any], *args: Any, **kwargs: Any
    ) -> Any:
        async def call(*args: Any, **kwargs: Any) -> Any:
            return func(*args, **kwargs)

        return asyncio.run(handler.retry_async(call, *args, **kwargs))

    return run_sync if request.param == "sync" else run_async

"""Real workers of Celery on a real Redis server."""

from __future__ import annotations

import importlib
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

sys.path.append(str(Path(__file__).parents[1] / "redis"))
from celery_workers import DEADLINE_S, HERE, worker
from servers import RedisServer


@pytest.fixture(scope="session")
def celery_redis() -> Iterator[RedisServer]:
    if shutil.which("redis-server") is None:
        pytest.skip("redis-server is not installed")
    with RedisServer() as server:
        yield server


@pytest.fixture(scope="session")
def tasks(
    celery_redis: RedisServer, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[ModuleType]:
    """The application, served by two workers of two processes each. Tests do not share tasks."""
    env = {"BROKER": celery_redis.url, "PYTHONPATH": str(HERE)}
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("BROKER", celery_redis.url)
        module = importlib.import_module("celery_limited_app")
    folder = tmp_path_factory.mktemp("workers")
    with (
        worker(folder / "one", env, "-c", "2", "-n", "one@here"),
        worker(folder / "two", env, "-c", "2", "-n", "two@here"),
    ):
        module.free.apply_async().get(timeout=DEADLINE_S, interval=0.01)  # they are up
        yield module
    for log in sorted(folder.iterdir()):
        print(log.read_text()[-2000:])


@pytest.fixture
def results() -> Callable[[Any, int], list[Any]]:
    """Sends a task so many times, and returns what its runs returned."""

    def send(signature: Any, times: int) -> list[Any]:
        sent = [signature.apply_async() for _ in range(times)]
        return [one.get(timeout=DEADLINE_S, interval=0.01) for one in sent]

    return send

"""What waits for a server or a file is never called in an event loop's thread."""

from __future__ import annotations

import asyncio
import shutil
import threading
from pathlib import Path
from typing import Any

import pytest

from headway._core import Ledger
from headway.smartratelimit import AsyncRateLimiter
from headway.smartratelimit.metrics import MetricsCollector
from headway.smartratelimit.storage import RedisStorage, SQLiteStorage, Storage

HEADERS = {"x-ratelimit-limit": "100", "x-ratelimit-remaining": "90", "x-ratelimit-reset": "60"}


class Watched:
    """Notes the thread of every call of a storage's store that waits."""

    def __init__(self, storage: Storage, monkeypatch: pytest.MonkeyPatch) -> None:
        self.threads: list[tuple[str, int]] = []
        for name in ("update", "get", "keys", "keys_under", "look", "clear"):
            monkeypatch.setattr(storage, name, self.noting(name, getattr(storage, name)))

    def noting(self, name: str, method: Any) -> Any:
        def noted(*args: Any) -> Any:
            self.threads.append((name, threading.get_ident()))
            return method(*args)

        return noted


@pytest.fixture(params=["sqlite", "redis"])
def storage(request: pytest.FixtureRequest, tmp_path: Path) -> Storage:
    if request.param == "sqlite":
        return SQLiteStorage(str(tmp_path / "limits.db"))
    if shutil.which("redis-server") is None:
        pytest.skip("redis-server is not installed")
    return RedisStorage(request.getfixturevalue("own_server").url)


@pytest.mark.parametrize("partition", [None, lambda url, headers: "one"])
def test_a_limiter_for_tasks_asks_its_storage_in_other_threads(
    storage: Storage, partition: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    storage.change("https://a.example/deep", "configure", "requests", 3, 10**12)
    metrics = MetricsCollector()

    async def main(watched: Watched) -> list[tuple[str, int]]:
        limiter = AsyncRateLimiter(storage=storage, partition=partition, metrics=metrics)
        for url in ("https://a.example/deep/1", "https://b.example/", "https://c.example/?q#f"):
            entry = await limiter._enter("GET", url, {}, {"tokens": 5})
            await limiter._learn_async(entry, {"tokens": 5}, HEADERS, 200, "GET", url)
            await limiter._count("GET", url)
        return [call for call in watched.threads if call[1] == threading.get_ident()]

    watched = Watched(storage, monkeypatch)
    assert asyncio.run(main(watched)) == []
    assert {"keys_under", "look"} <= {name for name, _ in watched.threads}
    ledger = storage.look("https://b.example" if partition is None else "https://a.example/deep")
    assert isinstance(ledger, Ledger)


def test_the_paths_of_one_host_are_found_among_many(storage: Storage) -> None:
    for key in ("https://a.example/b", "https://a.example.org/b", "https://a.example"):
        storage.change(key, "configure", "requests", 3, 10**12)
    assert storage.keys_under("https://a.example") == ["https://a.example/b"]

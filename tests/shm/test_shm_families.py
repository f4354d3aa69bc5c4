"""Everything that takes a limit by key takes shared memory, by object and by URL."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import pytest

from headway import LimitedError, SharedMemoryStore, StoreType, Throttled
from headway.asyncio import Throttled as AsyncThrottled
from headway.choked import Choked, choked
from headway.hooks import Hook, HookContext
from headway.limiters import AsyncTokenBucket, MaxSleepExceededError, SyncTokenBucket
from headway.store import AtomicStore, from_env

SLACK_S = 15.0


@pytest.fixture
def url(name: str) -> str:
    return f"shm:///{name}?size=128K"


def test_a_store_is_known_by_its_names(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    import headway.asyncio
    import headway.throttled.asyncio
    import headway.throttled.store

    assert headway.throttled.store.SharedMemoryStore is headway.store.SharedMemoryStore
    assert headway.throttled.SharedMemoryStore is headway.store.SharedMemoryStore
    assert headway.throttled.asyncio.SharedMemoryStore is headway.asyncio.SharedMemoryStore
    assert StoreType(headway.asyncio.SQLiteStore.TYPE) is StoreType.SQLITE
    assert StoreType(SharedMemoryStore.TYPE) is StoreType.SHM
    assert StoreType.choice() == ["redis", "memory", "sqlite", "shm"]
    monkeypatch.setenv("LIMITS", url)
    store = from_env("LIMITS")
    assert isinstance(store, AtomicStore)
    assert Throttled(store=url).store is store


@pytest.mark.parametrize("kind", [Throttled, AsyncThrottled])
def test_functions_of_both_kinds_are_limited(kind: Any, url: str) -> None:
    @kind(key="ping", quota="2/h", store=url)  # type: ignore[untyped-decorator]
    def ping() -> str:
        return "pong"

    @kind(key="ping", quota="2/h", store=url)  # type: ignore[untyped-decorator]
    async def async_ping() -> str:
        return "pong"

    assert ping() == asyncio.run(async_ping()) == "pong"
    with pytest.raises(LimitedError) as caught:
        ping()
    assert caught.value.rate_limit_result is not None
    assert caught.value.rate_limit_result.state.retry_after > 1000
    with pytest.raises(LimitedError):
        asyncio.run(async_ping())


def test_a_task_asks_peeks_and_resets(url: str) -> None:
    limiter = AsyncThrottled("key", quota="3/h", store=url)

    async def main() -> None:
        assert await limiter.limit(cost=2)
        assert (await limiter.peek()).remaining == 1
        assert not await limiter.limit(cost=2)
        await limiter.reset()
        async with limiter as result:
            assert result.state.remaining == 2
        assert (await limiter.limit(cost=0)).state.remaining == 2

    asyncio.run(main())


def test_a_quota_of_the_keys_own(url: str) -> None:
    limiter = Throttled(quota=lambda key: "3/h" if key == "gold" else ["1/h", "2/d"], store=url)
    assert [bool(limiter.limit("gold")) for _ in range(4)] == [True, True, True, False]
    assert [bool(limiter.limit("tin")) for _ in range(2)] == [True, False]


def test_hooks_are_told_the_kind_of_store(url: str) -> None:
    seen: list[str] = []

    class Seeing(Hook):
        def on_limit(self, call_next: Any, context: HookContext) -> Any:
            seen.append(context.store_type)
            return call_next()

    assert Throttled("k", store=url, hooks=[Seeing()]).limit()
    assert seen == ["shm"]


@pytest.mark.parametrize("connection", ["store", "url", "environment"])
def test_a_token_bucket_is_shared_by_name(
    connection: str, name: str, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("REDIS_URL", url)
    how: dict[str, Any] = {"capacity": 3, "refill_frequency": 3600, "refill_amount": 1}
    if connection != "environment":
        how["connection"] = SharedMemoryStore(name, "128K") if connection == "store" else url
    for _ in range(3):
        with SyncTokenBucket("bucket", max_sleep=1, **how):
            pass

    async def main() -> None:
        async with AsyncTokenBucket("bucket", max_sleep=1, **how):
            pytest.fail("the block ran")

    with pytest.raises(MaxSleepExceededError):
        asyncio.run(main())
    assert [entry.key for entry in SharedMemoryStore(name).entries()] == ["bucket"]


def test_choked_waits_for_its_turn(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REDIS_URL", url)

    @choked(key="choked in memory", max_tokens=2, refill_period=0.2)
    def call() -> float:
        return time.monotonic()

    since = time.monotonic()
    instants = [call() for _ in range(4)]
    assert 0.15 < instants[-1] - since < 0.4 + SLACK_S


def test_what_a_call_did_not_use_is_given_back(url: str) -> None:
    limits = Choked(redis_url=url)

    @limits(key="both", request_limit="100/h", token_limit="1000/h", token_estimator=_hundred)
    def call() -> int:
        return 1

    def tokens() -> int:
        limiter: Any = call.limiter  # type: ignore[attr-defined]
        return int(limiter.peek("both").remaining)

    call()
    call.settle(950)  # type: ignore[attr-defined]
    assert tokens() == 50
    call.settle(10)  # type: ignore[attr-defined]
    assert tokens() == 99  # now it is the limit of calls that is tightest

    async def main() -> None:
        call()
        call.settle(960)  # type: ignore[attr-defined]

    asyncio.run(main())
    assert tokens() in (30, 31)


def _hundred(*_: object, **__: object) -> int:
    return 100

"""Everything that takes a limit works on a Redis store: decorators, `with`, hooks, choked, token
buckets, and the URL in the environment that all of them share.
"""

from __future__ import annotations

import asyncio
import inspect
import time
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from servers import RedisServer
from store_help import SLACK_S

from headway import LimitedError, RateLimitResult, Throttled
from headway.asyncio import Throttled as AsyncThrottled
from headway.choked import Choked, choked
from headway.hooks import AsyncHook, Hook, HookContext
from headway.limiters import AsyncTokenBucket, MaxSleepExceededError, SyncTokenBucket
from headway.store import RedisStore


def test_a_decorated_function_shares_its_quota_by_redis(server: RedisServer) -> None:
    def ping(name: str) -> str:
        """Says hello."""
        return f"hello {name}"

    one = Throttled(key="ping", quota="2/h", store=RedisStore(server.url))(ping)
    other = Throttled(key="ping", quota="2/h", store=RedisStore(server.url))(ping)
    assert one("you") == other("you") == "hello you"
    with pytest.raises(LimitedError) as caught:
        one("you")
    assert caught.value.rate_limit_result is not None
    assert caught.value.rate_limit_result.state.retry_after > 1000
    assert (one.__name__, one.__doc__) == ("ping", "Says hello.")


@pytest.mark.parametrize("kind", [Throttled, AsyncThrottled])
def test_a_decorated_coroutine_function_does_too(kind: Any, server: RedisServer) -> None:
    @kind(key="ping", quota="2/h", store=RedisStore(server.url))  # type: ignore[untyped-decorator]
    async def ping() -> str:
        await asyncio.sleep(0)
        return "pong"

    async def main() -> None:
        assert await asyncio.gather(ping(), ping()) == ["pong", "pong"]
        with pytest.raises(LimitedError):
            await ping()

    assert inspect.iscoroutinefunction(ping)
    asyncio.run(main())


def test_a_key_and_a_cost_made_from_the_arguments(server: RedisServer) -> None:
    limiter = Throttled(
        key=lambda user, size: f"user:{user}",
        cost=lambda user, size: size,
        quota="10/h",
        store=RedisStore(server.url),
    )
    calls: list[tuple[str, int]] = []

    @limiter
    def send(user: str, size: int) -> None:
        calls.append((user, size))

    send("ann", 7)
    send("bob", 10)
    with pytest.raises(LimitedError):
        send("ann", 4)
    send("ann", 3)
    assert calls == [("ann", 7), ("bob", 10), ("ann", 3)]


def test_a_quota_of_the_keys_own(server: RedisServer) -> None:
    limiter = Throttled(
        quota=lambda key: "3/h" if key == "gold" else "1/h", store=RedisStore(server.url)
    )
    assert [bool(limiter.limit("gold")) for _ in range(4)] == [True, True, True, False]
    assert [bool(limiter.limit("tin")) for _ in range(2)] == [True, False]


def test_with_raises_what_is_denied_and_waits_where_told(server: RedisServer) -> None:
    store = RedisStore(server.url)
    with Throttled("key", quota="1/h burst 1", store=store) as result:
        assert isinstance(result, RateLimitResult)
    with pytest.raises(LimitedError), Throttled("key", quota="1/h burst 1", store=store):
        pytest.fail("the block ran")
    patient = Throttled("other", using="gcra", quota="5/s burst 1", timeout=30, store=store)
    since = time.monotonic()
    for _ in range(3):
        with patient:
            pass
    assert 0.35 < time.monotonic() - since < 0.4 + SLACK_S


@pytest.mark.parametrize("kind", [Throttled, AsyncThrottled])
def test_async_with_does_too(kind: Any, server: RedisServer) -> None:
    store = RedisStore(server.url)

    async def main() -> None:
        async with kind("key", quota="1/h burst 1", store=store) as result:
            assert result
        with pytest.raises(LimitedError):
            async with kind("key", quota="1/h burst 1", store=store):
                pytest.fail("the block ran")
        patient = kind("other", using="gcra", quota="5/s burst 1", timeout=30, store=store)
        for _ in range(2):
            async with patient:
                pass

    asyncio.run(main())


class Notes(Hook):
    def __init__(self) -> None:
        self.seen: list[tuple[HookContext, bool]] = []

    def on_limit(
        self, call_next: Callable[[], RateLimitResult], context: HookContext
    ) -> RateLimitResult:
        result = call_next()
        self.seen.append((context, bool(result)))
        return result


class AsyncNotes(AsyncHook):
    def __init__(self) -> None:
        self.seen: list[tuple[HookContext, bool]] = []

    async def on_limit(
        self, call_next: Callable[[], Awaitable[RateLimitResult]], context: HookContext
    ) -> RateLimitResult:
        result = await call_next()
        self.seen.append((context, bool(result)))
        return result


EXPECTED = [
    (HookContext(key="key", cost=2, algorithm="gcra", store_type="redis"), True),
    (HookContext(key="key", cost=2, algorithm="gcra", store_type="redis"), False),
]


def test_hooks_see_each_decision_once(server: RedisServer) -> None:
    notes = Notes()
    limiter = Throttled(
        "key", using="gcra", quota="3/h", store=RedisStore(server.url), hooks=[notes]
    )
    limiter.limit(cost=2)
    limiter.limit(cost=2)
    assert notes.seen == EXPECTED
    assert limiter.peek().remaining == 1


def test_hooks_of_tasks_see_each_decision_once(server: RedisServer) -> None:
    notes = AsyncNotes()
    limiter = AsyncThrottled(
        "key", using="gcra", quota="3/h", store=RedisStore(server.url), hooks=[notes]
    )

    async def main() -> None:
        await limiter.limit(cost=2)
        await limiter.limit(cost=2)
        assert (await limiter.peek()).remaining == 1

    asyncio.run(main())
    assert notes.seen == EXPECTED


def test_thread_and_task_share_one_quota(server: RedisServer) -> None:
    store = RedisStore(server.url)
    thread = Throttled("key", quota="2/h", store=store)
    task = AsyncThrottled("key", quota="2/h", store=store)

    async def main() -> bool:
        return bool(await task.limit())

    assert thread.limit()
    assert asyncio.run(main())
    assert not thread.limit()


@pytest.mark.parametrize("connection", ["store", "url", "environment"])
def test_a_token_bucket_is_shared_by_name(
    connection: str, server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("REDIS_URL", server.url)
    how: dict[str, Any] = {"capacity": 3, "refill_frequency": 3600, "refill_amount": 1}
    if connection != "environment":
        how["connection"] = RedisStore(server.url) if connection == "store" else server.url
    for _ in range(3):
        with SyncTokenBucket("bucket", max_sleep=1, **how):
            pass

    async def main() -> None:
        with pytest.raises(MaxSleepExceededError):
            async with AsyncTokenBucket("bucket", max_sleep=1, **how):
                pytest.fail("the block ran")

    asyncio.run(main())
    with pytest.raises(MaxSleepExceededError), SyncTokenBucket("bucket", max_sleep=1, **how):
        pytest.fail("the block ran")
    assert server.command("DBSIZE") == 1
    assert int(server.command("PTTL", server.command("KEYS", "*")[0])) > 3_600_000


def test_a_token_bucket_waits_for_its_token(server: RedisServer) -> None:
    bucket = SyncTokenBucket(
        "bucket",
        capacity=1,
        refill_frequency=0.2,
        refill_amount=1,
        connection=RedisStore(server.url),
    )
    since = time.monotonic()
    for _ in range(4):
        with bucket:
            pass
    assert 0.55 < time.monotonic() - since < 0.6 + SLACK_S


def test_choked_keeps_its_tokens_on_the_server_of_the_environment(
    server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("REDIS_URL", server.url)

    @choked(key="choked on redis", max_tokens=2, refill_period=0.2)
    def call() -> float:
        return time.monotonic()

    since = time.monotonic()
    instants = [call() for _ in range(4)]
    assert 0.15 < instants[-1] - since < 0.4 + SLACK_S
    names = server.command("KEYS", "*")
    assert len(names) == 1
    assert "choked on redis" in names[0]


def test_both_limits_of_choked_are_one_decision(server: RedisServer) -> None:
    limits = Choked(redis_url=server.url)

    @limits(key="both on redis", request_limit="100/h", token_limit="1000/h", token_estimator=_ten)
    def call(text: str) -> str:
        return text

    for _ in range(3):
        assert call("hello") == "hello"
    names = server.command("KEYS", "*")
    assert len(names) == 2
    assert all(int(server.command("PTTL", name)) > 0 for name in names)
    assert call.limiter.peek("both on redis").remaining <= 97


def _ten(*_: object, **__: object) -> int:
    return 10

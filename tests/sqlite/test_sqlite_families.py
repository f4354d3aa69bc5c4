"""Everything that takes a limit by key takes a SQLiteStore, by object and by URL."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from headway import LimitedError, RateLimitResult, SQLiteStore, Throttled, VirtualClock
from headway.asyncio import Throttled as AsyncThrottled
from headway.choked import Choked, choked
from headway.exceptions import SetUpError
from headway.hooks import Hook, HookContext
from headway.limiters import (
    AsyncTokenBucket,
    MaxSleepExceededError,
    SyncTokenBucket,
)
from headway.store import AtomicStore, BaseStore, from_env, from_url

SLACK_S = 15.0


@pytest.fixture
def url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path}/limits.db"


def test_a_store_is_known_by_its_names(url: str) -> None:
    import headway.throttled.store

    assert headway.throttled.store.SQLiteStore is headway.store.SQLiteStore is SQLiteStore
    store = SQLiteStore(url)
    assert isinstance(store, BaseStore)
    assert isinstance(store, AtomicStore)
    assert store.TYPE == "sqlite"
    assert issubclass(SQLiteStore, BaseStore)


def test_all_who_name_a_file_share_one_store(
    url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LIMITS", url)
    store: Any = from_url(url)
    assert from_url("sqlite:///limits.db") is store
    assert from_env("LIMITS") is store
    assert Throttled(store=url).store is store
    assert store.path == str(tmp_path / "limits.db")
    memory = from_url("sqlite:///:memory:")
    assert from_url("sqlite://") is memory


@pytest.mark.parametrize(
    ("wrong", "why"),
    [
        ("sqlite:limits.db", "must be a store, or a URL"),
        ("sqlite://host/x.db", "must be 'sqlite:///relative/path'"),
        ("sqlite:///x.db?mode=ro", "must be 'sqlite:///relative/path'"),
        ("sqlite:////nowhere/at/all/x.db", "there is no directory '/nowhere/at/all'"),
        (object(), "a SQLiteStore"),
    ],
)
def test_what_names_no_file_says_what_would(wrong: Any, why: str) -> None:
    with pytest.raises(SetUpError, match=why):
        Throttled(store=wrong)


def test_a_clock_must_be_virtual() -> None:
    with pytest.raises(SetUpError, match="Invalid clock: 3, must be a VirtualClock"):
        SQLiteStore(":memory:", clock=3)  # type: ignore[arg-type]


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


class Notes(Hook):
    def __init__(self) -> None:
        self.seen: list[tuple[HookContext, bool]] = []

    def on_limit(
        self, call_next: Callable[[], RateLimitResult], context: HookContext
    ) -> RateLimitResult:
        result = call_next()
        self.seen.append((context, bool(result)))
        return result


def test_a_hook_sees_each_decision_once(url: str) -> None:
    notes = Notes()
    limiter = Throttled("key", using="gcra", quota="3/h", store=url, hooks=[notes])
    limiter.limit(cost=2)
    limiter.limit(cost=2)
    context = HookContext(key="key", cost=2, algorithm="gcra", store_type="sqlite")
    assert notes.seen == [(context, True), (context, False)]


@pytest.mark.parametrize("connection", ["store", "url", "environment"])
def test_a_token_bucket_is_shared_by_name(
    connection: str, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("REDIS_URL", url)
    how: dict[str, Any] = {"capacity": 3, "refill_frequency": 3600, "refill_amount": 1}
    if connection != "environment":
        how["connection"] = SQLiteStore(url) if connection == "store" else url
    for _ in range(3):
        with SyncTokenBucket("bucket", max_sleep=1, **how):
            pass

    async def main() -> None:
        async with AsyncTokenBucket("bucket", max_sleep=1, **how):
            pytest.fail("the block ran")

    with pytest.raises(MaxSleepExceededError):
        asyncio.run(main())
    assert SQLiteStore(url).keys() == [b"limiters:v1:token_bucket:{bucket}"]


def test_a_token_bucket_starts_with_what_it_is_told(clock: VirtualClock) -> None:
    store = SQLiteStore(":memory:", clock=clock)
    bucket = SyncTokenBucket("b", 10, 3600, 1, connection=store, initial_tokens=1, max_sleep=1)
    with bucket:
        pass
    with pytest.raises(MaxSleepExceededError), bucket:
        pytest.fail("the block ran")


def test_choked_waits_for_its_turn(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REDIS_URL", url)

    @choked(key="choked in a file", max_tokens=2, refill_period=0.2)
    def call() -> float:
        return time.monotonic()

    since = time.monotonic()
    instants = [call() for _ in range(4)]
    assert 0.15 < instants[-1] - since < 0.4 + SLACK_S
    assert SQLiteStore(url).keys() == [b"choked:v1:token_bucket:{choked in a file}"]


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


def test_importing_the_stores_does_not_load_sqlite(run_python: Callable[..., str]) -> None:
    said = run_python(
        """
        import sys
        import headway.throttled.asyncio, headway.choked, headway.limiters
        print("sqlite3" in sys.modules)
        """
    )
    assert said == "False\n"


def test_a_limiter_of_a_file_crosses_a_fork(url: str) -> None:
    limiter = Throttled("key", quota="5/h", store=url)
    assert limiter.limit(cost=2)
    child = os.fork()
    if child == 0:
        os._exit(0 if limiter.limit(cost=2) and not limiter.limit(cost=2) else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert limiter.peek().remaining == 1

"""`headway.asyncio` is the synchronous package awaited: the same names, the same answers.

`headway.throttled.asyncio` is the same package under the name that throttled.md gives it.
"""

from __future__ import annotations

import asyncio
import importlib
import math

import pytest

import headway.asyncio
import headway.throttled
import headway.throttled.asyncio
from headway import MemoryStore, VirtualClock, per_sec
from headway import Throttled as SyncThrottled
from headway.algorithms import ALGORITHMS
from headway.asyncio import BaseRateLimiter, RateLimiterRegistry, RateLimiterType, Throttled
from headway.exceptions import DataError, LimitedError, SetUpError

SUBMODULES = ("constants", "exceptions", "hooks", "rate_limiter", "store", "types", "utils")
OF_THE_SYNC_PACKAGE = sorted(headway.throttled.__all__)


@pytest.mark.parametrize("name", OF_THE_SYNC_PACKAGE)
def test_every_name_of_the_sync_package_is_in_the_awaited_one(name: str) -> None:
    assert name in headway.asyncio.__all__
    assert hasattr(headway.asyncio, name)
    assert getattr(headway.throttled.asyncio, name) is getattr(headway.asyncio, name)


@pytest.mark.parametrize("name", SUBMODULES)
def test_a_submodule_is_one_module_under_both_names(name: str) -> None:
    here = importlib.import_module(f"headway.asyncio.{name}")
    there = importlib.import_module(f"headway.throttled.asyncio.{name}")
    assert here is there


@pytest.mark.parametrize("name", [name for name in SUBMODULES if name != "hooks"])
def test_a_submodule_has_every_name_of_the_sync_one(name: str) -> None:
    sync = importlib.import_module(f"headway.throttled.{name}")
    awaited = importlib.import_module(f"headway.asyncio.{name}")
    assert [name for name in sync.__all__ if not hasattr(awaited, name)] == []


@pytest.mark.parametrize(
    "name",
    ["MemoryStore", "Quota", "Rate", "RateLimitResult", "RateLimitState", "RateLimiterType"],
)
def test_values_are_of_the_same_types_in_both_packages(name: str) -> None:
    assert getattr(headway.asyncio, name) is getattr(headway.throttled, name)


def test_an_awaited_answer_equals_the_answer_of_the_sync_package() -> None:
    async def main() -> None:
        for using in ALGORITHMS:
            clock = VirtualClock(now_ns=10**18)
            awaited = Throttled(using=using, quota="5/m", store=MemoryStore(clock=clock))
            direct = SyncThrottled(using=using, quota="5/m", store=MemoryStore(clock=clock))
            for cost in (1, 3, 0, 2, 6, 1):
                assert await awaited.limit("key", cost) == direct.limit("key", cost)
                assert await awaited.peek("key") == direct.peek("key")
                clock.advance(7)

    asyncio.run(main())


def test_a_limit_is_shared_with_the_sync_package_by_the_store(store: MemoryStore) -> None:
    async def main() -> None:
        awaited = Throttled(quota=per_sec(2), store=store)
        direct = SyncThrottled(quota=per_sec(2), store=store)
        assert await awaited.limit("key")
        assert direct.limit("key")
        assert not await awaited.limit("key")

    asyncio.run(main())


def test_peek_changes_nothing(store: MemoryStore) -> None:
    async def main() -> None:
        throttle = Throttled("key", quota=per_sec(2), store=store)
        await throttle.limit()
        assert (await throttle.peek()).remaining == 1
        assert (await throttle.peek("key")).remaining == 1

    asyncio.run(main())


def test_reset_makes_a_key_as_good_as_new(store: MemoryStore) -> None:
    async def main() -> None:
        throttle = Throttled("key", quota=per_sec(2), store=store)
        await throttle.limit(cost=2)
        assert await throttle.reset() is None
        assert (await throttle.peek()).remaining == 2

    asyncio.run(main())


def test_async_with_gives_the_result(store: MemoryStore) -> None:
    async def main() -> None:
        async with Throttled("key", quota=per_sec(2), store=store) as result:
            assert not result.limited
            assert result.state.remaining == 1

    asyncio.run(main())


def test_async_with_raises_when_denied_and_does_not_enter(store: MemoryStore) -> None:
    async def main() -> None:
        throttle = Throttled("key", quota="1/m", store=store)
        await throttle.limit()
        with pytest.raises(LimitedError) as caught:
            async with throttle:
                pytest.fail("entered")
        assert caught.value.rate_limit_result.state.retry_after == 60

    asyncio.run(main())


def test_async_with_lets_an_error_of_its_body_pass(store: MemoryStore) -> None:
    async def main() -> None:
        with pytest.raises(KeyError):
            async with Throttled("key", quota=per_sec(2), store=store):
                raise KeyError("of the body")

    asyncio.run(main())


def test_a_sync_throttled_can_be_entered_by_a_task(store: MemoryStore) -> None:
    async def main() -> None:
        async with SyncThrottled("key", quota=per_sec(2), store=store) as result:
            assert result.state.remaining == 1

    asyncio.run(main())


@pytest.mark.parametrize(
    ("call", "named"),
    [
        ({"key": ""}, "key"),
        ({"key": "k", "cost": -1}, "-1"),
        ({"key": "k", "timeout": 0}, "timeout: 0"),
        ({"key": "k", "timeout": -2}, "timeout: -2"),
        ({"key": "k", "timeout": math.nan}, "timeout: nan"),
    ],
)
def test_bad_input_is_refused_with_its_value(call: dict[str, object], named: str) -> None:
    async def main() -> None:
        with pytest.raises(DataError, match=named):
            await Throttled(quota=per_sec(1)).limit(**call)  # type: ignore[arg-type]

    asyncio.run(main())


@pytest.mark.parametrize("using", ALGORITHMS)
def test_the_registry_has_an_awaited_class_for_every_algorithm(
    using: str, store: MemoryStore
) -> None:
    async def main() -> None:
        made = RateLimiterRegistry.get(using)
        assert issubclass(made, BaseRateLimiter)
        limiter = made(per_sec(2), store)
        assert await limiter.limit("key", 2)
        assert (await limiter.limit("key")).limited
        assert (await limiter.peek("key")).remaining == 0

    asyncio.run(main())


def test_the_registry_takes_the_enumeration_and_names_the_unknown() -> None:
    assert RateLimiterRegistry.get(RateLimiterType.GCRA) is RateLimiterRegistry.get("gcra")
    with pytest.raises(SetUpError, match=r"'nonsense'.*gcra"):
        RateLimiterRegistry.get("nonsense")


def test_the_awaited_classes_are_not_the_direct_ones() -> None:
    assert RateLimiterRegistry.get("gcra") is not headway.throttled.RateLimiterRegistry.get("gcra")

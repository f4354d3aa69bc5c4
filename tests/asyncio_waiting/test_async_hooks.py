"""Awaited hooks are an onion around the limiter, and no hook can make it consume twice.

How much was consumed is read from the limiter, not from the hooks.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from task_lines import turns

from headway import Hook as SyncHook
from headway import MemoryStore, RateLimitResult, RateLimitState
from headway import Throttled as SyncThrottled
from headway.asyncio import Hook, HookContext, Throttled
from headway.exceptions import LimitedError
from headway.hooks import AsyncHook

Next = Callable[[], Awaitable[RateLimitResult]]
OF_THE_HOOK = RateLimitResult(True, RateLimitState(5, 0, 9, 9))


class Acting(Hook):
    """A hook that does what the test says."""

    def __init__(self, act: Callable[[Next], Awaitable[Any]]) -> None:
        self.act = act
        self.seen: list[HookContext] = []

    async def on_limit(self, call_next: Next, context: HookContext) -> RateLimitResult:
        self.seen.append(context)
        return await self.act(call_next)  # type: ignore[no-any-return]


async def passing(call_next: Next) -> RateLimitResult:
    return await call_next()


async def raising_before(call_next: Next) -> RateLimitResult:
    raise ValueError("before")


async def raising_after(call_next: Next) -> RateLimitResult:
    await call_next()
    raise ValueError("after")


async def calling_twice(call_next: Next) -> RateLimitResult:
    first = await call_next()
    assert await call_next() is first
    return first


async def returning_nothing(call_next: Next) -> None:
    await call_next()


async def returning_nonsense(call_next: Next) -> str:
    return "nonsense"


MISBEHAVING = [
    raising_before,
    raising_after,
    calling_twice,
    returning_nothing,
    returning_nonsense,
]


class DirectHook(SyncHook):
    """A hook of the synchronous package."""

    def on_limit(
        self, call_next: Callable[[], RateLimitResult], context: HookContext
    ) -> RateLimitResult:
        return call_next()


def hooked(store: MemoryStore, *acts: Callable[[Next], Awaitable[Any]], **more: Any) -> Throttled:
    hooks = [Acting(act) for act in acts]
    return Throttled("key", quota="5/m", using="gcra", store=store, hooks=hooks, **more)


def test_the_hook_of_the_awaited_package_is_async_hook() -> None:
    assert Hook is AsyncHook


def test_awaited_hooks_run_as_an_onion(store: MemoryStore) -> None:
    events: list[str] = []

    def named(name: str) -> Callable[[Next], Awaitable[RateLimitResult]]:
        async def act(call_next: Next) -> RateLimitResult:
            events.append(f"{name} before")
            await turns(1)
            result = await call_next()
            await turns(1)
            events.append(f"{name} after")
            return result

        return act

    async def main() -> None:
        assert await hooked(store, named("A"), named("B")).limit()

    asyncio.run(main())
    assert events == ["A before", "B before", "B after", "A after"]


def test_an_awaited_hook_sees_key_cost_algorithm_and_store(store: MemoryStore) -> None:
    hook = Acting(passing)

    async def main() -> None:
        await Throttled(quota="5/m", using="gcra", store=store, hooks=[hook]).limit("k", 2)

    asyncio.run(main())
    assert hook.seen == [HookContext("k", 2, "gcra", "memory")]


@pytest.mark.parametrize("act", MISBEHAVING)
def test_a_hook_that_misbehaves_consumes_once(
    act: Callable[[Next], Awaitable[Any]], store: MemoryStore
) -> None:
    async def main() -> None:
        throttle = hooked(store, passing, act, passing)
        result = await throttle.limit()
        assert result
        assert result.state.remaining == 4
        assert (await throttle.peek()).remaining == 4

    asyncio.run(main())


@pytest.mark.parametrize("act", [raising_before, raising_after])
def test_a_hook_that_raises_is_logged(
    act: Callable[[Next], Awaitable[Any]], store: MemoryStore, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.ERROR, logger="headway.hooks"):
        asyncio.run(_limit_once(hooked(store, act)))
    assert [record.exc_info[0] for record in caplog.records if record.exc_info] == [ValueError]


@pytest.mark.parametrize(
    ("act", "shown"), [(returning_nothing, "None"), (returning_nonsense, "'nonsense'")]
)
def test_a_hook_that_returns_nonsense_is_logged_with_it(
    act: Callable[[Next], Awaitable[Any]],
    shown: str,
    store: MemoryStore,
    caplog: pytest.LogCaptureFixture,
) -> None:
    with caplog.at_level(logging.ERROR, logger="headway.hooks"):
        asyncio.run(_limit_once(hooked(store, act)))
    assert [shown in record.getMessage() for record in caplog.records] == [True]


async def _limit_once(throttle: Throttled) -> None:
    assert await throttle.limit()


def test_a_hook_may_answer_in_place_of_the_limiter(store: MemoryStore) -> None:
    async def denying(call_next: Next) -> RateLimitResult:
        return OF_THE_HOOK

    async def main() -> None:
        throttle = hooked(store, denying)
        assert await throttle.limit() is OF_THE_HOOK
        with pytest.raises(LimitedError):
            async with throttle:
                pytest.fail("entered")
        assert (await throttle.peek()).remaining == 5

    asyncio.run(main())


def test_hooks_run_around_contexts_and_decorated_functions(store: MemoryStore) -> None:
    hook = Acting(passing)
    throttle = Throttled("key", quota="5/m", store=store, hooks=[hook])

    @throttle
    async def work() -> None:
        pass

    async def main() -> None:
        await work()
        async with throttle:
            pass

    asyncio.run(main())
    assert len(hook.seen) == 2


def test_a_wait_happens_inside_the_hooks(store: MemoryStore) -> None:
    events: list[str] = []

    async def noting(call_next: Next) -> RateLimitResult:
        events.append("before")
        result = await call_next()
        events.append("after")
        return result

    async def main() -> None:
        throttle = hooked(store, noting, timeout=100)
        await Throttled(quota="5/m", using="gcra", store=store).limit("key", 5)
        task = asyncio.ensure_future(throttle.limit())
        await turns()
        assert events == ["before"]
        assert store.clock is not None
        store.clock.advance(12)
        await turns()
        assert events == ["before", "after"]
        assert task.result()

    asyncio.run(main())


def test_cancelling_a_hooked_wait_ends_it_and_loses_no_token(store: MemoryStore) -> None:
    async def main() -> None:
        throttle = hooked(store, passing, timeout=100)
        await Throttled(quota="5/m", using="gcra", store=store).limit("key", 5)
        task = asyncio.ensure_future(throttle.limit())
        await turns()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert store.clock is not None
        store.clock.advance(12)
        assert (await throttle.peek()).remaining == 1

    asyncio.run(main())


def test_a_direct_hook_on_an_awaited_limiter_is_refused() -> None:
    with pytest.raises(TypeError, match=r"DirectHook.*AsyncHook"):
        Throttled("key", hooks=[DirectHook()])  # type: ignore[list-item]


def test_an_awaited_hook_on_a_direct_limiter_is_refused() -> None:
    with pytest.raises(TypeError, match=r"Acting.*Expected: Hook"):
        SyncThrottled("key", hooks=[Acting(passing)])


def test_what_is_no_hook_is_refused_by_its_type() -> None:
    with pytest.raises(TypeError, match="str"):
        Throttled("key", hooks=["nonsense"])  # type: ignore[list-item]

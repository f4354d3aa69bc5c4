"""Hooks are an onion around the limiter, and no hook can make it consume twice."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Any

import pytest

from headway import (
    AsyncHook,
    Hook,
    HookContext,
    MemoryStore,
    RateLimitResult,
    RateLimitState,
    Throttled,
)
from headway.hooks import build_hook_chain, run_chain, run_chain_async

Next = Callable[[], RateLimitResult]
ADMITTED = RateLimitResult(False, RateLimitState(5, 4, 1, 0))
OF_THE_HOOK = RateLimitResult(True, RateLimitState(5, 0, 9, 9))
CONTEXT = HookContext("k", 2, "gcra", "memory")


class Limiter:
    """Counts how often it was asked, and answers or raises."""

    def __init__(self, error: BaseException | None = None) -> None:
        self.calls = 0
        self.error = error

    def __call__(self) -> RateLimitResult:
        self.calls += 1
        if self.error is not None:
            raise self.error
        return ADMITTED


class Acting(Hook):
    """A hook that does what the test says."""

    def __init__(self, act: Callable[[Next], Any]) -> None:
        self.act = act
        self.seen: list[HookContext] = []

    def on_limit(self, call_next: Next, context: HookContext) -> RateLimitResult:
        self.seen.append(context)
        return self.act(call_next)  # type: ignore[no-any-return]


def passing(call_next: Next) -> RateLimitResult:
    return call_next()


def raising_before(call_next: Next) -> RateLimitResult:
    raise ValueError("before")


def raising_after(call_next: Next) -> RateLimitResult:
    call_next()
    raise ValueError("after")


def chain(limiter: Limiter, *acts: Callable[[Next], Any]) -> RateLimitResult:
    hooks = [Acting(act) for act in acts]
    return run_chain(hooks, limiter, "k", 2, "gcra", "memory")


def test_hooks_run_as_an_onion() -> None:
    events: list[str] = []

    def named(name: str) -> Callable[[Next], RateLimitResult]:
        def act(call_next: Next) -> RateLimitResult:
            events.append(f"{name} before")
            result = call_next()
            events.append(f"{name} after")
            return result

        return act

    def limit() -> RateLimitResult:
        events.append("limit")
        return ADMITTED

    hooks = [Acting(named("A")), Acting(named("B"))]
    run_chain(hooks, limit, "k", 1, "gcra", "memory")

    assert events == ["A before", "B before", "limit", "B after", "A after"]


def test_a_hook_sees_key_cost_algorithm_and_store() -> None:
    hook = Acting(passing)

    run_chain([hook], Limiter(), "k", 2, "gcra", "memory")

    assert hook.seen == [CONTEXT]


def test_a_context_cannot_be_changed() -> None:
    with pytest.raises(AttributeError):
        CONTEXT.cost = 0  # type: ignore[misc]


@pytest.mark.parametrize("act", [raising_before, raising_after])
def test_a_hook_that_raises_is_logged_and_the_limit_counts_once(
    act: Callable[[Next], Any], caplog: pytest.LogCaptureFixture
) -> None:
    limiter = Limiter()

    with caplog.at_level(logging.ERROR, "headway.hooks"):
        result = chain(limiter, act)

    assert result is ADMITTED
    assert limiter.calls == 1
    assert "raised during on_limit" in caplog.text
    assert "ValueError" in caplog.text


@pytest.mark.parametrize("act", [raising_before, raising_after])
def test_hooks_around_and_below_one_that_raises_still_run(act: Callable[[Next], Any]) -> None:
    limiter, outer, inner = Limiter(), Acting(passing), Acting(passing)

    result = run_chain([outer, Acting(act), inner], limiter, "k", 1, "gcra", "memory")

    assert result is ADMITTED
    assert (limiter.calls, len(outer.seen), len(inner.seen)) == (1, 1, 1)


def test_calling_next_twice_gives_the_same_result_and_consumes_once() -> None:
    limiter = Limiter()
    results: list[RateLimitResult] = []

    def twice(call_next: Next) -> RateLimitResult:
        results.extend([call_next(), call_next()])
        return results[0]

    chain(limiter, twice)

    assert results[0] is results[1]
    assert limiter.calls == 1


@pytest.mark.parametrize("calls_next", [True, False])
def test_a_hook_that_returns_no_result_is_logged_and_the_real_one_counts(
    calls_next: bool, caplog: pytest.LogCaptureFixture
) -> None:
    limiter = Limiter()

    result = chain(limiter, lambda call_next: call_next() and None if calls_next else None)

    assert result is ADMITTED
    assert limiter.calls == 1
    assert "must be a RateLimitResult" in caplog.text


def test_a_hook_may_answer_without_asking_the_limiter() -> None:
    limiter = Limiter()

    assert chain(limiter, lambda call_next: OF_THE_HOOK) is OF_THE_HOOK
    assert limiter.calls == 0


def test_an_error_of_the_limiter_reaches_the_caller_without_a_second_try(
    caplog: pytest.LogCaptureFixture,
) -> None:
    limiter = Limiter(ConnectionError("store gone"))

    with pytest.raises(ConnectionError, match="store gone"):
        chain(limiter, passing, passing)

    assert limiter.calls == 1
    assert caplog.text == ""


def test_an_error_of_the_limiter_wins_over_what_a_hook_makes_of_it() -> None:
    limiter = Limiter(ConnectionError("store gone"))

    def translating(call_next: Next) -> RateLimitResult:
        try:
            return call_next()
        except ConnectionError as error:
            raise ValueError("of the hook") from error

    with pytest.raises(ConnectionError, match="store gone"):
        chain(limiter, translating)

    assert limiter.calls == 1


def test_a_hook_may_answer_for_a_limiter_that_fails() -> None:
    def forgiving(call_next: Next) -> RateLimitResult:
        try:
            return call_next()
        except ConnectionError:
            return OF_THE_HOOK

    assert chain(Limiter(ConnectionError()), forgiving) is OF_THE_HOOK


def test_an_interrupt_passes_through_the_hooks() -> None:
    with pytest.raises(KeyboardInterrupt):
        chain(Limiter(KeyboardInterrupt()), passing)


def test_a_built_chain_takes_a_new_decision_at_each_call() -> None:
    limiter = Limiter()
    ask = build_hook_chain([Acting(passing)], limiter, CONTEXT)

    ask()
    ask()

    assert limiter.calls == 2


def test_a_limiter_asks_its_hooks_at_limit_at_with_and_when_decorated(store: MemoryStore) -> None:
    hook = Acting(passing)
    throttled = Throttled(key="k", using="gcra", quota="5/min", store=store, hooks=[hook], cost=1)

    @throttled
    def call() -> None: ...

    throttled.limit("other", 2)
    with throttled:
        call()

    assert hook.seen == [
        HookContext("other", 2, "gcra", "memory"),
        HookContext("k", 1, "gcra", "memory"),
        HookContext("k", 1, "gcra", "memory"),
    ]


def test_a_limiter_consumes_once_although_its_hook_raises(store: MemoryStore) -> None:
    throttled = Throttled(quota="5/min", store=store, hooks=[Acting(raising_after)])

    result = throttled.limit("k")

    assert (result.limited, result.state.remaining) == (False, 4)
    assert throttled.peek("k").remaining == 4


def test_something_else_than_a_hook_is_refused() -> None:
    with pytest.raises(TypeError, match="Hook"):
        Throttled(hooks=[print])  # type: ignore[list-item]


@pytest.mark.parametrize(
    ("quota", "told"),
    [
        ("5/s", ["5/s"]),
        ("5/s; 100/h", ["5/s", "100/h"]),
        (lambda key: "5/s", []),
    ],
    ids=["one rule", "two rules", "found by the key"],
)
def test_a_hook_is_told_the_quota(quota: Any, told: list[str]) -> None:
    seen: list[Any] = []

    class Look(Hook):
        def on_limit(self, call_next: Any, context: HookContext) -> Any:
            seen.append(context.quota)
            return call_next()

    Throttled(key="told", quota=quota, hooks=[Look()]).limit("told")
    (found,) = seen
    rules = found if isinstance(found, tuple) else [] if found is None else [found]
    assert [str(rule) for rule in rules] == told


class Awaiting(AsyncHook):
    def __init__(self, act: Callable[[Any], Any]) -> None:
        self.act = act

    async def on_limit(self, call_next: Any, context: HookContext) -> RateLimitResult:
        return await self.act(call_next)  # type: ignore[no-any-return]


def awaited(act: Callable[[Any], Any], *inner: Callable[[Any], Any]) -> tuple[Any, int]:
    """Take a decision through awaited hooks; its result, and how often the limiter was asked."""
    limiter = Limiter()

    async def limit() -> RateLimitResult:
        return limiter()

    async def run() -> Any:
        hooks = [Awaiting(act), *map(Awaiting, inner)]
        task = asyncio.ensure_future(run_chain_async(hooks, limit, "k", 2, "gcra", "memory"))
        await asyncio.wait([task], timeout=30)
        assert not task.cancelled(), "cancelled, and nobody has cancelled it"
        return task.result()

    return asyncio.run(run()), limiter.calls


def test_a_timeout_in_a_hook_cancels_no_request_and_counts_once() -> None:
    slept: list[int] = []

    async def impatient(call_next: Any) -> Any:
        return await asyncio.wait_for(call_next(), 0.01)

    async def slow(call_next: Any) -> Any:
        result = await call_next()
        slept.append(1)
        if len(slept) == 1:
            await asyncio.sleep(60)
        return result

    assert awaited(impatient, slow) == (ADMITTED, 1)


def test_calling_next_twice_at_once_consumes_once() -> None:
    async def twice(call_next: Any) -> Any:
        first, second = await asyncio.gather(call_next(), call_next())
        assert first is second
        return first

    async def slow(call_next: Any) -> Any:
        await asyncio.sleep(0)
        return await call_next()

    assert awaited(twice, slow) == (ADMITTED, 1)


def test_a_request_that_is_cancelled_stays_cancelled() -> None:
    async def waiting(call_next: Any) -> Any:
        await asyncio.sleep(60)

    async def run() -> bool:
        async def limit() -> RateLimitResult:
            return ADMITTED

        chained = run_chain_async([Awaiting(waiting)], limit, "k", 2, "gcra", "memory")
        task = asyncio.ensure_future(chained)
        await asyncio.sleep(0)
        task.cancel()
        await asyncio.wait([task], timeout=30)
        return task.cancelled()

    assert asyncio.run(run())

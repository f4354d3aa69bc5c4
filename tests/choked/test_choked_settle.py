"""Settling: what a call really took replaces what was estimated. A surplus comes back, a shortfall
is charged, and each context settles its own calls.

The estimator of these tests is the call's own argument; the bucket holds 100 and fills in a minute.
"""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from headway import MemoryStore, VirtualClock
from headway.choked import Choked, settle

Start = Callable[[Callable[[], Any]], Any]
Asleep = Callable[[Any], None]
Turns = Callable[[], Awaitable[None]]


@pytest.fixture(autouse=True)
def nothing_called_here() -> Any:
    """Nothing that earlier tests have called is there to be settled."""
    from headway.choked import dual

    token = dual._admitted.set({})
    yield
    dual._admitted.reset(token)


@pytest.fixture
def choke(virtual: MemoryStore) -> Choked:
    return Choked()


@pytest.fixture
def call(choke: Choked, key: str) -> Any:
    @choke(key=key, token_limit="100/m", token_estimator=lambda tokens: tokens)
    def call(tokens: int) -> int:
        return tokens

    return call


def left(function: Any) -> int:
    """How many tokens the bucket of a function holds."""
    remaining: int = function.limiter.peek().remaining
    return remaining


class TestWhatItDoes:
    def test_a_surplus_comes_back(self, call: Any) -> None:
        call(60)
        settle(10)
        assert left(call) == 90

    def test_a_shortfall_is_charged(self, call: Any) -> None:
        call(60)
        settle(90)
        assert left(call) == 10

    def test_the_exact_count_changes_nothing(self, call: Any) -> None:
        call(60)
        settle(60)
        assert left(call) == 40

    def test_nothing_taken_gives_all_back(self, call: Any) -> None:
        call(60)
        settle(0)
        assert left(call) == 100

    def test_settling_again_corrects(self, call: Any) -> None:
        call(60)
        for actual in (10, 80, 25):
            settle(actual)
            assert left(call) == 100 - actual

    def test_a_debt_is_paid_off_before_the_next_call(
        self, call: Any, clock: VirtualClock, start: Start, asleep: Asleep
    ) -> None:
        """150 of 100 were taken: 50 must come back, and 10 more for the next, at 0.6 s each."""
        call(100)
        settle(150)
        assert left(call) == 0
        worker = start(lambda: call(10))
        asleep(worker)
        clock.advance(ns=36 * 10**9 - 1)
        worker.join(0.05)
        assert worker.is_alive()
        clock.advance(ns=1)
        assert worker.result() == 10

    def test_a_bucket_that_is_full_again_does_not_overflow(
        self, call: Any, clock: VirtualClock
    ) -> None:
        call(60)
        clock.advance(60)
        settle(10)
        assert left(call) == 100
        call(100)
        assert call.limiter.limit(cost=1, timeout=-1).limited

    def test_a_surplus_lets_the_next_in_line_go_at_once(
        self, choke: Choked, key: str, turns: Turns
    ) -> None:
        served = []

        @choke(key=key, token_limit="100/m", token_estimator=lambda tokens: tokens)
        async def ask(tokens: int) -> None:
            served.append(tokens)

        async def main() -> None:
            await ask(100)
            waiting = asyncio.ensure_future(ask(30))
            await turns()
            assert served == [100]
            settle(71)
            await turns()
            assert served == [100]
            settle(70)
            await waiting

        asyncio.run(main())
        assert served == [100, 30]

    def test_a_shortfall_makes_those_in_line_wait_longer(
        self, choke: Choked, key: str, clock: VirtualClock, turns: Turns
    ) -> None:
        served = []

        @choke(key=key, token_limit="100/m", token_estimator=lambda tokens: tokens)
        async def ask(tokens: int) -> None:
            served.append(tokens)

        async def main() -> None:
            await ask(100)
            waiting = asyncio.ensure_future(ask(50))
            await turns()
            settle(150)
            clock.advance(59)
            await turns()
            assert served == [100]
            clock.advance(1)
            await waiting

        asyncio.run(main())

    def test_the_limit_of_calls_is_not_touched(self, choke: Choked, key: str) -> None:
        @choke(
            key=key,
            request_limit="2/h",
            token_limit="100/m",
            token_estimator=lambda tokens: tokens,
        )
        def call(tokens: int) -> None: ...

        call(60)
        settle(0)
        assert left(call) == 1  # of two calls


class TestWhoseCall:
    def test_in_the_function_itself(self, choke: Choked, key: str) -> None:
        @choke(key=key, token_limit="100/m", token_estimator=lambda tokens: tokens)
        def call(tokens: int) -> None:
            settle(10)

        call(60)
        assert left(call) == 90

    def test_in_a_coroutine_function_itself(self, choke: Choked, key: str) -> None:
        @choke(key=key, token_limit="100/m", token_estimator=lambda tokens: tokens)
        async def call(tokens: int) -> None:
            await asyncio.sleep(0)
            settle(10)

        asyncio.run(call(60))
        assert left(call) == 90

    def test_after_an_awaited_call_in_the_same_task(self, choke: Choked, key: str) -> None:
        @choke(key=key, token_limit="100/m", token_estimator=lambda tokens: tokens)
        async def call(tokens: int) -> None: ...

        async def main() -> None:
            await call(60)
            settle(10)

        asyncio.run(main())
        assert left(call) == 90

    def test_after_a_call_that_had_to_wait(
        self, choke: Choked, key: str, clock: VirtualClock, turns: Turns
    ) -> None:
        @choke(key=key, token_limit="100/m", token_estimator=lambda tokens: tokens)
        async def call(tokens: int) -> None: ...

        async def waits() -> None:
            await call(50)
            settle(20)

        async def main() -> None:
            await call(100)
            task = asyncio.ensure_future(waits())
            await turns()
            clock.advance(30)
            await task

        asyncio.run(main())
        assert left(call) == 30

    def test_the_class_has_it_too(self, choke: Choked, call: Any) -> None:
        call(60)
        choke.settle(10)
        assert left(call) == 90

    def test_the_latest_call_is_settled(self, choke: Choked, call: Any, key: str) -> None:
        @choke(key=key + "'", token_limit="100/m", token_estimator=lambda tokens: tokens)
        def other(tokens: int) -> None: ...

        call(10)
        other(20)
        call(30)
        settle(0)
        assert (left(call), left(other)) == (90, 80)

    def test_a_function_settles_its_own_latest_call(
        self, choke: Choked, call: Any, key: str
    ) -> None:
        @choke(key=key + "'", token_limit="100/m", token_estimator=lambda tokens: tokens)
        def other(tokens: int) -> None: ...

        call(10)
        other(20)
        call.settle(5)
        assert (left(call), left(other)) == (95, 80)
        settle(0)
        assert (left(call), left(other)) == (95, 100)

    def test_tasks_settle_their_own_calls(self, choke: Choked, key: str) -> None:
        @choke(key=key, token_limit="100/m", token_estimator=lambda tokens: tokens)
        async def call(tokens: int) -> None:
            await asyncio.sleep(0)

        async def one(tokens: int, actual: int) -> None:
            await call(tokens)
            for _ in range(tokens):  # they finish in another order than they began
                await asyncio.sleep(0)
            settle(actual)

        async def main() -> None:
            await asyncio.gather(one(30, 3), one(20, 20), one(10, 1))

        asyncio.run(main())
        assert left(call) == 100 - 3 - 20 - 1

    def test_threads_settle_their_own_calls(self, call: Any, start: Start) -> None:
        call(40)

        def other() -> None:
            with pytest.raises(LookupError):
                settle(1)
            call(20)
            settle(2)

        start(other).result()
        settle(4)
        assert left(call) == 100 - 2 - 4

    def test_a_task_that_was_started_after_a_call_may_settle_it(self, call: Any) -> None:
        """It has a copy of the context: the call of who started it is the latest that it knows."""

        async def main() -> None:
            call(60)

            async def child() -> None:
                settle(10)

            await asyncio.create_task(child())

        asyncio.run(main())
        assert left(call) == 90


class TestRefused:
    def test_without_a_call_there_is_nothing_to_settle(self) -> None:
        with pytest.raises(LookupError, match="token limit"):
            contextvars.Context().run(settle, 5)

    def test_a_function_that_was_not_called_here_has_nothing_to_settle(
        self, call: Any, key: str
    ) -> None:
        with pytest.raises(LookupError) as caught:
            call.settle(5)
        assert key in str(caught.value)

    def test_a_call_that_was_denied_has_nothing_to_settle(self, call: Any) -> None:
        with pytest.raises(Exception, match="more tokens"):
            call(101)
        with pytest.raises(LookupError):
            settle(5)

    def test_a_call_without_a_limit_of_tokens_has_nothing_to_settle(
        self, choke: Choked, key: str
    ) -> None:
        @choke(key=key, request_limit="10/m")
        def call() -> None: ...

        call()
        with pytest.raises(LookupError):
            settle(5)

    @pytest.mark.parametrize("actual", [-1, 1.5, "3", None, True])
    def test_a_count_that_is_none_is_named_and_changes_nothing(
        self, call: Any, actual: Any
    ) -> None:
        call(60)
        for settling in (settle, call.settle):
            with pytest.raises(ValueError, match="actual") as caught:
                settling(actual)
            assert repr(actual) in str(caught.value)
        assert left(call) == 40

    def test_a_count_that_no_bucket_could_hold_leaves_it_empty(self, call: Any) -> None:
        call(60)
        settle(10**12)
        assert left(call) == 0

    def test_a_count_beyond_all_bounds_is_named_and_changes_nothing(self, call: Any) -> None:
        call(60)
        with pytest.raises(ValueError, match="actual"):
            settle(10**30)
        assert left(call) == 40
        settle(10)
        assert left(call) == 90

"""`Choked`: a limit of calls and a limit of tokens, both taken in one step or neither.

The estimator of these tests is the call's own argument: `call(40)` asks for 40 tokens.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from headway import MemoryStore, VirtualClock
from headway.choked import Choked
from headway.exceptions import DataError, LimitedError

Start = Callable[[Callable[[], Any]], Any]
Asleep = Callable[[Any], None]
Turns = Callable[[], Awaitable[None]]
Make = Callable[..., Callable[[int], int]]
MakeAsync = Callable[..., Callable[[int], Awaitable[None]]]


@pytest.fixture
def choke(virtual: MemoryStore) -> Choked:
    return Choked()


@pytest.fixture
def make(choke: Choked, key: str) -> Make:
    """Makes a function under the limits, which returns its argument."""

    def limited(**limits: str) -> Callable[[int], int]:
        @choke(key=key, token_estimator=lambda tokens: tokens, **limits)
        def call(tokens: int) -> int:
            return tokens

        return call

    return limited


@pytest.fixture
def served() -> list[int]:
    """What the functions of `make_async` were called with, in the order in which they ran."""
    return []


@pytest.fixture
def make_async(choke: Choked, key: str, served: list[int]) -> MakeAsync:
    """Makes a coroutine function under the limits, which notes its argument."""

    def limited(**limits: str) -> Callable[[int], Awaitable[None]]:
        @choke(key=key, token_estimator=lambda tokens: tokens, **limits)
        async def call(tokens: int) -> None:
            served.append(tokens)

        return call

    return limited


def test_a_limit_of_calls_alone_counts_calls(choke: Choked, key: str) -> None:
    @choke(key=key, request_limit="10/m")
    def call(text: str) -> str:
        return text

    assert call("x" * 1000) == "x" * 1000
    assert call.limiter.peek().remaining == 9  # type: ignore[attr-defined]


def test_a_limit_of_tokens_alone_counts_tokens(make: Make) -> None:
    call: Any = make(token_limit="100/m")
    assert call(40) == 40
    assert call.limiter.peek().remaining == 60
    call(60)
    assert call.limiter.peek().remaining == 0


def test_the_tighter_limit_makes_a_call_wait_for_its_instant(
    make: Make, clock: VirtualClock, start: Start, asleep: Asleep
) -> None:
    """After 2 calls the third waits a second, after 60 tokens and 50 more it waits six."""
    call = make(request_limit="1/s burst 2", token_limit="100/m")
    call(30)
    call(30)
    worker = start(lambda: call(50))
    asleep(worker)
    clock.advance(ns=6 * 10**9 - 1)
    worker.join(0.05)
    assert worker.is_alive()
    clock.advance(ns=1)
    assert worker.result() == 50


def test_a_call_that_waits_for_tokens_takes_no_request(
    make_async: MakeAsync, served: list[int], clock: VirtualClock, turns: Turns
) -> None:
    """Two calls an hour. The one that is cancelled leaves the second to another."""
    call = make_async(request_limit="2/h", token_limit="10/s")

    async def main() -> None:
        await call(10)
        waiting = asyncio.ensure_future(call(10))
        await turns()
        waiting.cancel()
        await turns()
        clock.advance(1)
        await asyncio.wait_for(call(9), 10)

    asyncio.run(main())
    assert served == [10, 9]


def test_a_call_that_waits_for_its_turn_takes_no_tokens(
    make_async: MakeAsync, served: list[int], clock: VirtualClock, turns: Turns
) -> None:
    """A hundred tokens an hour. The one that is cancelled leaves its fifty to another."""
    call = make_async(request_limit="1/s", token_limit="100/h")

    async def main() -> None:
        await call(50)
        waiting = asyncio.ensure_future(call(50))
        await turns()
        waiting.cancel()
        await turns()
        clock.advance(1)
        await asyncio.wait_for(call(49), 10)

    asyncio.run(main())
    assert served == [50, 49]


def test_a_call_that_can_never_fit_raises_at_once_and_takes_nothing(make: Make) -> None:
    call: Any = make(request_limit="1/h", token_limit="10/m")
    with pytest.raises(LimitedError, match="10"):
        call(11)
    assert call(10) == 10


def test_a_call_that_can_never_fit_does_not_stand_in_line(
    make_async: MakeAsync, served: list[int], clock: VirtualClock, turns: Turns
) -> None:
    call = make_async(token_limit="10/m")

    async def main() -> None:
        await call(10)
        waiting = asyncio.ensure_future(call(5))
        await turns()
        with pytest.raises(LimitedError):
            await asyncio.wait_for(call(11), 10)
        assert not waiting.done()
        clock.advance(30)
        await waiting

    asyncio.run(main())
    assert served == [10, 5]


def test_a_small_call_does_not_overtake_a_large_one(
    make_async: MakeAsync, served: list[int], clock: VirtualClock, turns: Turns
) -> None:
    call = make_async(request_limit="100/s", token_limit="60/m")

    async def main() -> None:
        await call(60)
        tasks = [asyncio.ensure_future(call(tokens)) for tokens in (30, 1, 2)]
        await turns()
        for seconds, expected in [(29, [60]), (1, [60, 30]), (1, [60, 30, 1]), (2, [60, 30, 1, 2])]:
            clock.advance(seconds)
            await turns()
            assert served == expected
        await asyncio.gather(*tasks)

    asyncio.run(main())


def test_several_rules_in_one_limit_all_hold(make: Make, clock: VirtualClock) -> None:
    call: Any = make(request_limit="5/s; 6/h", token_limit="50/s, 80/m")
    call(50)
    clock.advance(1)
    call(30)
    assert call.limiter.peek().remaining == 1  # 80 a minute, and a second has passed
    with pytest.raises(LimitedError):
        call(51)  # fits 80 a minute, never 50 a second


def test_functions_of_one_key_share_both_limits(make: Make) -> None:
    limits = {"request_limit": "10/m", "token_limit": "100/m"}
    one: Any = make(**limits)
    other: Any = make(**limits)
    one(40)
    other(60)
    assert one.limiter.peek().remaining == other.limiter.peek().remaining == 0


def test_each_function_counts_with_its_own_estimator(choke: Choked, key: str) -> None:
    @choke(key=key, token_limit="100/m", token_estimator=lambda text: len(text))
    def one(text: str) -> None: ...

    @choke(key=key, token_limit="100/m", token_estimator=lambda first, second: first + second)
    def other(first: int, second: int) -> None: ...

    one("four")
    other(30, second=3)
    assert other.limiter.peek().remaining == 100 - 4 - 33  # type: ignore[attr-defined]


def test_a_call_of_no_tokens_counts_as_one(make: Make) -> None:
    call: Any = make(token_limit="10/m")
    call(0)
    assert call.limiter.peek().remaining == 9


@pytest.mark.parametrize("tokens", [-1, 1.5, "3", None, True])
def test_an_estimate_that_is_no_count_is_named_and_takes_nothing(make: Make, tokens: Any) -> None:
    call: Any = make(token_limit="10/m")
    with pytest.raises(DataError, match="token_estimator") as caught:
        call(tokens)
    assert repr(tokens) in str(caught.value)
    assert call.limiter.peek().remaining == 10


def test_an_estimator_that_raises_takes_nothing(choke: Choked, key: str) -> None:
    def broken(text: str) -> int:
        raise LookupError

    @choke(key=key, token_limit="10/m", token_estimator=broken)
    def call(text: str) -> None: ...

    with pytest.raises(LookupError):
        call("text")
    assert call.limiter.peek().remaining == 10  # type: ignore[attr-defined]


def test_methods_are_estimated_without_counting_the_instance(choke: Choked, key: str) -> None:
    class Client:
        @choke(key=key, token_limit="100/m")
        def ask(self, prompt: str) -> str:
            return prompt

    Client().ask("x" * 40)
    assert Client.ask.limiter.peek().remaining == 90  # type: ignore[attr-defined]


def test_a_generator_is_choked_when_it_starts(choke: Choked, key: str) -> None:
    @choke(key=key, token_limit="100/m", token_estimator=lambda n: 10 * n)
    def stream(n: int) -> Any:
        yield from range(n)

    values = stream(3)
    assert stream.limiter.peek().remaining == 100  # type: ignore[attr-defined]
    assert list(values) == [0, 1, 2]
    assert stream.limiter.peek().remaining == 70  # type: ignore[attr-defined]

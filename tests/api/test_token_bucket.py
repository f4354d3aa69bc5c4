"""TokenBucket of token-bucket.md: float tokens, exact waits, first come first served, at most 96
bytes.
"""

from __future__ import annotations

import gc
import math
import sys
import time
import weakref
from collections.abc import Callable
from fractions import Fraction
from functools import partial
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headway import TokenBucket, VirtualClock


def test_a_bucket_starts_full_and_refills_as_the_document_draws_it() -> None:
    clock = VirtualClock()
    bucket = TokenBucket(capacity=5, tokens_per_second=2, clock=clock)
    assert bucket.tokens == 5
    assert bucket.allow(3)
    assert bucket.tokens == 2
    clock.advance(1)
    assert bucket.tokens == 4
    clock.advance(2)
    assert bucket.tokens == 5
    assert (bucket.capacity, bucket.tokens_per_second) == (5, 2)


def test_allow_takes_all_or_nothing() -> None:
    bucket = TokenBucket(10, 5, clock=VirtualClock())
    assert bucket.allow(7) is True
    assert bucket.allow(4) is False
    assert bucket.tokens == 3
    assert bucket.try_consume(3) is True
    assert bucket.try_consume() is False
    assert bucket.tokens == 0


def test_fractions_of_tokens_are_tokens() -> None:
    clock = VirtualClock()
    bucket = TokenBucket(2.5, 0.5, clock=clock)
    assert [bucket.allow(0.5) for _ in range(6)] == [True] * 5 + [False]
    clock.advance(0.999_999)
    assert not bucket.allow(0.5)
    clock.advance(0.000_001)
    assert bucket.allow(tokens=0.5)


def test_more_than_the_capacity_is_never_allowed_at_once() -> None:
    clock = VirtualClock()
    bucket = TokenBucket(5, 5, clock=clock)
    assert not bucket.allow(10)
    clock.advance(1000)
    assert not bucket.allow(5.000_001)
    assert bucket.allow(5)


@given(
    capacity=st.floats(0.1, 1000),
    rate=st.floats(0.001, 1000),
    calls=st.lists(
        st.tuples(st.integers(0, 5 * 10**9), st.floats(0.01, 50)), min_size=1, max_size=50
    ),
)
def test_a_bucket_follows_its_definition_to_the_nanosecond(
    capacity: float, rate: float, calls: list[tuple[int, float]]
) -> None:
    """Wherever the exact model is not within a hair of the boundary, the answers are the same."""
    clock = VirtualClock()
    bucket = TokenBucket(capacity, rate, clock=clock)
    level = Fraction(capacity)
    for wait_ns, tokens in calls:
        clock.advance(ns=wait_ns)
        level = min(Fraction(capacity), level + Fraction(rate) * wait_ns / 10**9)
        near = abs(level - Fraction(tokens)) < Fraction(1, 10**6) * (1 + Fraction(rate))
        got = bucket.allow(tokens)
        if not near:
            assert got is (Fraction(tokens) <= level)
        if got:
            level = max(Fraction(0), level - Fraction(tokens))
        assert bucket.tokens == pytest.approx(float(level), abs=1e-5 * (1 + rate))
        assert 0 <= bucket.tokens <= capacity


def test_a_wait_ends_at_its_instant_and_not_before(
    start: Callable[[Callable[[], Any]], Any], asleep: Callable[[Any], None]
) -> None:
    clock = VirtualClock()
    bucket = TokenBucket(5, 10, clock=clock)
    bucket.wait(5)
    worker = start(partial(bucket.wait, 5))
    asleep(worker)
    clock.advance(ns=499_999_999)
    worker.join(0.05)
    assert worker.is_alive()
    clock.advance(ns=1)
    worker.result()
    assert bucket.tokens == 0


def test_waiting_for_more_than_the_capacity_takes_as_long_as_the_tokens_need() -> None:
    """wait(10) on a capacity of 5 that is full: the bucket gives its 5 and 5 more at the rate."""
    bucket = TokenBucket(5, 100)
    began = time.monotonic()
    bucket.wait(10)
    assert 0.049 <= time.monotonic() - began < 30
    bucket.wait(10)  # what has come meanwhile counts: 15 tokens since the beginning
    assert 0.149 <= time.monotonic() - began < 60


def test_waiting_for_what_is_there_does_not_wait() -> None:
    clock = VirtualClock()
    bucket = TokenBucket(5, 0.001, clock=clock)
    bucket.wait()
    bucket.wait(4)
    assert bucket.tokens == 0
    assert clock.now_ns == 0


def test_a_real_wait_is_never_early_and_the_rate_holds() -> None:
    bucket = TokenBucket(1, 200)
    began = time.monotonic()
    for _ in range(21):
        bucket.wait()
    took = time.monotonic() - began
    assert took >= 20 / 200 - 0.000_1
    assert took < 30


def test_waiters_are_served_first_come_first_served_and_the_large_one_is_not_starved(
    start: Callable[[Callable[[], Any]], Any], asleep: Callable[[Any], None]
) -> None:
    """Each waiter comes when the one before is asleep; allow() cannot overtake the line."""
    clock = VirtualClock()
    bucket = TokenBucket(8, 1, clock=clock)
    bucket.wait(8)
    served: list[int] = []

    def work(number: int, cost: int) -> None:
        bucket.wait(cost)
        served.append(number)

    workers = []
    for number, cost in enumerate((8, 1, 4, 1)):
        workers.append(start(partial(work, number, cost)))
        asleep(workers[-1])
    clock.advance(7.5)
    assert not bucket.allow(1), "allow() overtook the line"
    for number, wait in enumerate((0.5, 1, 4, 1)):
        clock.advance(wait)
        workers[number].result()
        assert served == list(range(number + 1))
    assert not bucket.allow(1)


@pytest.mark.parametrize("name", ["capacity", "tokens_per_second"])
@pytest.mark.parametrize("value", [0, -1, -0.5, 0.0, math.nan, math.inf, -math.inf])
def test_a_bucket_that_cannot_be_is_a_value_error_that_names_the_field(
    name: str, value: float
) -> None:
    arguments: dict[str, Any] = {"capacity": 1, "tokens_per_second": 1, name: value}
    with pytest.raises(ValueError, match=name) as caught:
        TokenBucket(**arguments)
    assert str(value) in str(caught.value)


@pytest.mark.parametrize("call", ["allow", "try_consume", "wait"])
@pytest.mark.parametrize("tokens", [0, -1, -0.5, math.nan, math.inf, -math.inf])
def test_a_number_of_tokens_that_is_not_positive_is_a_value_error(call: str, tokens: float) -> None:
    bucket = TokenBucket(5, 5, clock=VirtualClock())
    with pytest.raises(ValueError, match="tokens") as caught:
        getattr(bucket, call)(tokens)
    assert str(tokens) in str(caught.value)
    assert bucket.tokens == 5


@pytest.mark.parametrize("bad", ["1", None, [], b"1"])
def test_what_is_no_number_is_a_type_error(bad: Any) -> None:
    bucket = TokenBucket(5, 5)
    for call in (
        lambda: TokenBucket(bad, 1),
        lambda: TokenBucket(1, bad),
        lambda: bucket.allow(bad),
        lambda: bucket.wait(bad),
        lambda: bucket.allow(1, 2),  # type: ignore[call-arg]
        lambda: bucket.allow(token=1),  # type: ignore[call-arg]
        lambda: TokenBucket(1),  # type: ignore[call-arg]
    ):
        with pytest.raises((TypeError, ValueError)):
            call()


@pytest.mark.parametrize(
    ("capacity", "rate", "tokens"), [(1, 1e20, 1e17), (1e-300, 1e300, 1), (5e-324, 1e308, 1e-5)]
)
def test_a_wait_for_vastly_more_than_the_capacity_ends_when_it_has_arrived(
    capacity: float, rate: float, tokens: float, run_python: Callable[..., str]
) -> None:
    program = f"""
    from headway import TokenBucket
    TokenBucket({capacity!r}, {rate!r}).wait({tokens!r})
    print("served")
    """
    assert run_python(program) == "served\n"


def test_a_signal_handler_ends_a_wait_for_vastly_more_than_the_capacity(
    run_python: Callable[..., str],
) -> None:
    program = """
    import signal
    from headway import TokenBucket
    bucket = TokenBucket(1e-300, 1e-3)
    signal.signal(signal.SIGALRM, signal.default_int_handler)
    signal.setitimer(signal.ITIMER_REAL, 0.1)
    try:
        bucket.wait(1e6)
    except KeyboardInterrupt:
        print("interrupted", bucket.allow(1e-300))
    """
    assert run_python(program) == "interrupted True\n"


def test_more_than_the_capacity_comes_at_the_instant_at_which_it_has_arrived(
    start: Callable[..., Any], eventually: Callable[..., None]
) -> None:
    clock = VirtualClock()
    bucket = TokenBucket(capacity=5, tokens_per_second=1, clock=clock)
    waiter = start(lambda: bucket.wait(100))
    eventually(lambda: bucket.tokens == 0, "the waiter takes what is there")
    clock.advance(94.999)
    assert waiter.is_alive()
    clock.advance(0.001)
    waiter.result()
    assert bucket.tokens == 0
    clock.advance(5)
    assert bucket.tokens == 5


def test_a_bucket_takes_at_most_80_bytes_beside_an_object_s_head() -> None:
    """The head is 16 bytes; without a GIL it is 32."""
    assert sys.getsizeof(TokenBucket(1, 1)) <= 80 + object.__basicsize__


def test_a_bucket_can_be_subclassed_with_a_constructor_of_its_own() -> None:
    class Named(TokenBucket):
        def __init__(self, name: str) -> None:
            super().__init__(capacity=2, tokens_per_second=0.001)
            self.name = name
            self.denied = 0

        def allow(self, tokens: float = 1) -> bool:
            allowed = super().allow(tokens)
            self.denied += not allowed
            return allowed

    bucket = Named("api")
    assert [bucket.allow() for _ in range(3)] == [True, True, False]
    assert (bucket.name, bucket.denied, bucket.capacity) == ("api", 1, 2)
    assert isinstance(bucket, TokenBucket)


def test_a_bucket_whose_constructor_was_skipped_says_so_or_works() -> None:
    class Lazy(TokenBucket):
        def __init__(self) -> None:
            pass

    try:
        bucket = Lazy()
        bucket.allow()
    except (TypeError, ValueError, RuntimeError):
        return
    assert 0 <= bucket.tokens <= bucket.capacity


def test_a_bucket_can_be_weakly_referenced_and_is_freed_with_its_last_user() -> None:
    class Named(TokenBucket):
        pass

    for kind in (TokenBucket, Named):
        bucket = kind(1, 1)
        seen = weakref.ref(bucket)
        assert seen() is bucket
        del bucket
        gc.collect()
        assert seen() is None


def test_a_bucket_says_what_it_is() -> None:
    assert "TokenBucket" in repr(TokenBucket(5, 2.5))


def test_the_document_s_import_paths_give_this_class() -> None:
    from headway.rate_limiter.exceptions import RateLimitExceeded
    from headway.rate_limiter.token_bucket import TokenBucket as Mirrored

    assert Mirrored is TokenBucket
    with pytest.raises(RateLimitExceeded, match="Rate limit exceeded"):
        raise RateLimitExceeded("Rate limit exceeded")

"""Throttled: its calls, what each argument means, and what its defaults are."""

from __future__ import annotations

import gc
import weakref
from typing import Any

import pytest

from headway import (
    MemoryStore,
    Quota,
    RateLimiterType,
    RateLimitResult,
    RateLimitState,
    Throttled,
    VirtualClock,
    per_min,
    per_sec,
)
from headway.algorithms import ALGORITHMS
from headway.exceptions import DataError, LimitedError, SetUpError


def test_the_defaults_are_those_of_the_document() -> None:
    throttle = Throttled()
    assert throttle.using == "token_bucket"
    assert throttle.quota == per_min(60)
    assert throttle.timeout == -1
    assert throttle.cost == 1
    assert throttle.hooks == ()
    assert throttle.key is None
    assert throttle.key_prefix == "headway"
    assert isinstance(throttle.store, MemoryStore)


def test_the_document_s_first_example_prints_what_it_prints_there(store: MemoryStore) -> None:
    throttle = Throttled(store=store)
    assert repr(throttle.limit("key", 1)) == (
        "RateLimitResult(limited=False, "
        "state=RateLimitState(limit=60, remaining=59, reset_after=1, retry_after=0))"
    )
    assert repr(throttle.peek("key")) == (
        "RateLimitState(limit=60, remaining=59, reset_after=1, retry_after=0)"
    )
    denied = throttle.limit("key", 60)
    assert denied.limited
    assert denied.state.remaining == 59
    assert denied.state.reset_after == 1


@pytest.mark.parametrize("using", list(RateLimiterType))
def test_an_algorithm_is_taken_as_a_name_or_as_an_enum_member(using: RateLimiterType) -> None:
    assert Throttled(using=using).using == using.value
    assert Throttled(using=using.value).using == using.value


def test_an_unknown_algorithm_is_a_set_up_error_that_lists_those_known() -> None:
    with pytest.raises(SetUpError) as caught:
        Throttled(using="leaky")
    for name in ("leaky", *ALGORITHMS):
        assert name in str(caught.value)
    assert sorted(ALGORITHMS) == sorted(kind.value for kind in RateLimiterType)


def test_a_quota_is_taken_as_a_value_as_text_or_as_a_list(store: MemoryStore) -> None:
    assert Throttled(quota=per_sec(5)).quota == per_sec(5)
    assert Throttled(quota="5/s").quota == per_sec(5)
    both = (per_sec(5), per_min(60, burst=90))
    assert Throttled(quota="5/s; 60/min burst 90").quota == both
    assert Throttled(quota=[per_sec(5), "60/min burst 90"]).quota == both
    assert Throttled(quota=(per_sec(5),)).quota in (per_sec(5), (per_sec(5),))
    throttle = Throttled(quota="5/s; 60/min", store=store)
    assert throttle.limit("key").state == RateLimitState(5, 4, 0.2, 0)


def test_peek_reads_the_state_and_takes_nothing(store: MemoryStore) -> None:
    throttle = Throttled(quota=per_min(5), store=store)
    fresh = throttle.peek("key")
    assert fresh == RateLimitState(5, 5, 0, 0)
    assert len(store) == 0
    throttle.limit("key", 2)
    assert [throttle.peek("key").remaining for _ in range(10)] == [3] * 10


def test_a_cost_of_zero_is_always_allowed_and_takes_nothing(store: MemoryStore) -> None:
    throttle = Throttled(quota=per_min(1), store=store)
    throttle.limit("key")
    for _ in range(10):
        result = throttle.limit("key", 0)
        assert result
        assert result.state == throttle.peek("key")
    assert Throttled(quota=per_min(1, burst=0), store=store).limit("other", 0)


def test_reset_makes_a_key_as_good_as_new_and_leaves_the_others(store: MemoryStore) -> None:
    throttle = Throttled(quota=per_min(1), store=store)
    throttle.limit("a")
    throttle.limit("b")
    throttle.reset("a")
    throttle.reset("never seen")
    assert throttle.limit("a")
    assert not throttle.limit("b")


def test_the_key_of_the_call_goes_before_the_key_of_the_limiter(store: MemoryStore) -> None:
    throttle = Throttled(key="own", quota=per_min(1), store=store)
    assert throttle.limit()
    assert not throttle.limit()
    assert not throttle.limit("own")
    assert throttle.limit("another")
    assert throttle.peek().remaining == 0
    throttle.reset()
    assert throttle.peek().remaining == 1


def test_the_cost_of_the_limiter_is_that_of_its_decorator_and_context(store: MemoryStore) -> None:
    throttle = Throttled(key="key", quota=per_min(10), store=store, cost=4)
    with throttle:
        pass
    assert throttle.peek().remaining == 6
    assert throttle(lambda: "done")() == "done"
    assert throttle.peek().remaining == 2


def test_a_context_gives_the_result_or_raises_limited_error(store: MemoryStore) -> None:
    throttle = Throttled(key="key", quota=per_min(1), store=store)
    with throttle as result:
        assert isinstance(result, RateLimitResult)
        assert result
    with pytest.raises(LimitedError) as caught:
        with throttle:
            pytest.fail("the body ran although the key is at its limit")
    text = "Rate limit exceeded: remaining=0, reset_after=60, retry_after=60."
    assert str(caught.value) == text
    assert caught.value.rate_limit_result == RateLimitResult(True, RateLimitState(1, 0, 60, 60))


def test_a_context_lets_the_body_s_exception_through(store: MemoryStore) -> None:
    throttle = Throttled(key="key", store=store)
    with pytest.raises(ZeroDivisionError):
        with throttle:
            _ = 1 / 0
    assert throttle.peek().remaining == 59


def test_limiters_that_share_a_store_and_a_quota_share_their_keys(store: MemoryStore) -> None:
    one, two = (Throttled(quota=per_min(1), store=store) for _ in range(2))
    assert one.limit("key")
    assert not two.limit("key")


def test_keys_of_different_algorithms_and_prefixes_do_not_meet(store: MemoryStore) -> None:
    for using in ALGORITHMS:
        for prefix in (None, "mine", "mine:too"):
            throttle = Throttled(quota=per_min(1), store=store, using=using, key_prefix=prefix)
            assert throttle.limit("key"), (using, prefix)
            assert not throttle.limit("key"), (using, prefix)


def test_limiters_without_a_store_of_their_own_share_what_the_document_says() -> None:
    first, second = Throttled(quota=per_min(1)), Throttled(quota=per_min(1))
    name = f"key of {id(first)}"
    assert first.limit(name)
    assert bool(second.limit(name)) is (first.store is not second.store)


def test_a_store_may_be_given_as_a_url() -> None:
    throttle = Throttled(quota=per_min(1), store="memory://")
    assert isinstance(throttle.store, MemoryStore)
    assert throttle.limit("key")
    assert not throttle.limit("key")


def test_a_key_may_be_made_from_the_call_s_arguments(store: MemoryStore) -> None:
    @Throttled(key=lambda user, **_: f"user:{user}", quota=per_min(1), store=store)
    def greet(user: str, loud: bool = False) -> str:
        return user.upper() if loud else user

    assert greet("ann", loud=True) == "ANN"
    assert greet("bob") == "bob"
    with pytest.raises(LimitedError):
        greet("ann")
    assert Throttled(quota=per_min(1), store=store).peek("user:ann").remaining == 0


def test_a_cost_may_be_made_from_the_call_s_arguments(store: MemoryStore) -> None:
    throttle = Throttled(key="rows", cost=lambda rows: len(rows), quota=per_min(10), store=store)

    @throttle
    def insert(rows: list[int]) -> int:
        return len(rows)

    insert([1, 2, 3])
    assert throttle.peek().remaining == 7
    with pytest.raises(LimitedError):
        insert(list(range(8)))
    insert([])
    assert throttle.peek().remaining == 7


def test_a_quota_may_depend_on_the_key(store: MemoryStore) -> None:
    def tier(key: Any) -> Quota | str:
        return per_min(3) if key.startswith("paid:") else "1/min"

    throttle = Throttled(quota=tier, store=store)
    assert [bool(throttle.limit("free:ann")) for _ in range(4)] == [True, False, False, False]
    assert [bool(throttle.limit("paid:bob")) for _ in range(4)] == [True, True, True, False]
    assert throttle.peek("paid:eve").limit == 3
    assert throttle.peek("free:eve").limit == 1


@pytest.mark.parametrize("made", ["", None, 5])
def test_a_key_function_that_gives_no_key_is_a_data_error(store: MemoryStore, made: Any) -> None:
    ran = []
    wrapped = Throttled(key=lambda: made, store=store)(lambda: ran.append(1))
    with pytest.raises(DataError, match="key"):
        wrapped()
    assert ran == []


@pytest.mark.parametrize("made", [-1, 1.5, "1", None])
def test_a_cost_function_that_gives_no_cost_is_a_data_error(store: MemoryStore, made: Any) -> None:
    ran = []
    wrapped = Throttled(key="key", cost=lambda: made, store=store)(lambda: ran.append(1))
    with pytest.raises(DataError, match="cost"):
        wrapped()
    assert ran == []
    assert len(store) == 0


def test_the_exception_of_a_callable_comes_through_and_nothing_is_taken(store: MemoryStore) -> None:
    def broken(*args: Any) -> Any:
        raise LookupError("no such user")

    for options in ({"key": broken}, {"key": "k", "cost": broken}, {"key": "k", "quota": broken}):
        with pytest.raises(LookupError):
            Throttled(store=store, **options)(lambda: pytest.fail("ran"))()
    assert len(store) == 0


def test_a_limiter_can_be_weakly_referenced_and_is_freed_with_its_last_user() -> None:
    throttle = Throttled(key=lambda: "key", store=MemoryStore())
    seen, wrapped = weakref.ref(throttle), throttle(lambda: None)
    del throttle
    gc.collect()
    assert seen() is not None, "the decorated function needs its limiter"
    del wrapped
    gc.collect()
    assert seen() is None


def test_a_cycle_through_a_key_function_is_collected() -> None:
    class Owner:
        def __init__(self) -> None:
            self.throttle = Throttled(key=self.name, cost=self.cost, quota=self.quota)
            self.call = self.throttle(self.name)

        def name(self) -> str:
            return "owner"

        def cost(self) -> int:
            return 1

        def quota(self, key: Any) -> Quota:
            return per_min(5)

    owner = Owner()
    owner.call()
    seen = weakref.ref(owner)
    del owner
    gc.collect()
    assert seen() is None


def test_time_moves_only_when_the_virtual_clock_does() -> None:
    clock = VirtualClock(now_ns=5)
    throttle = Throttled(quota=per_sec(1), store=MemoryStore(clock=clock))
    assert throttle.limit("key")
    assert not throttle.limit("key")
    clock.advance(0.999_999_999)
    assert not throttle.limit("key")
    clock.advance(ns=1)
    assert clock.now_ns == 1_000_000_005
    assert throttle.limit("key")
    clock.set(2_000_000_005)
    assert throttle.limit("key")

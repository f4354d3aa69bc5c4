"""MemoryStore: bounded, and never at the cost of the one who is at a limit.

When a store is full of live keys, the key that has used the smallest share of its quota makes room.
A flood of fresh keys therefore evicts its own kind, where a plain least-recently-used cache would
set a limited key free.
"""

from __future__ import annotations

import logging
from typing import Any

import pytest

from headway import MemoryStore, Throttled, VirtualClock, per_hour, per_min, per_sec
from headway.exceptions import BaseThrottledError, DataError, SetUpError


def limiter(size: int, clock: VirtualClock | None = None, **options: Any) -> Throttled:
    store = MemoryStore(options={"MAX_SIZE": size}, clock=clock or VirtualClock(), **options)
    return Throttled(quota=per_hour(10), store=store)


def test_a_store_is_empty_at_first_and_holds_65536_keys_by_default() -> None:
    store = MemoryStore()
    assert len(store) == 0
    assert store.max_size == 65_536
    assert store.evictions == 0
    assert store.clock is None
    assert store.TYPE == "memory"


def test_the_options_are_kept_as_given() -> None:
    clock = VirtualClock()
    store = MemoryStore(server=None, options={"MAX_SIZE": 10}, clock=clock)
    assert store.options == {"MAX_SIZE": 10}
    assert store.max_size == 10
    assert store.clock is clock
    assert store.server is None


@pytest.mark.parametrize("size", [1, 2, 3, 10, 100, 1000, 4097])
def test_a_store_never_holds_more_than_max_size(size: int) -> None:
    throttle = limiter(size)
    for number in range(3 * size + 100):
        assert throttle.limit(f"key {number}")
        assert len(throttle.store) <= size
    assert throttle.store.evictions >= 2 * size
    assert len(throttle.store) + throttle.store.evictions == 3 * size + 100


@pytest.mark.parametrize("key", ["tenant:customer:account:{:06}", "k" * 60_000 + "{:06}"])
def test_keys_that_begin_alike_and_are_equally_long_make_room_for_each_other(key: str) -> None:
    throttle = limiter(50)
    for number in range(300):
        assert throttle.limit(key.format(number))
        assert len(throttle.store) <= 50
    assert throttle.store.stats()["bytes"] < 50 * 60_000


@pytest.mark.parametrize("size", [1, 16, 1000])
def test_a_store_holds_as_many_keys_as_max_size_says_before_any_is_evicted(size: int) -> None:
    throttle = limiter(size)
    for number in range(size):
        throttle.limit(f"key {number}")
    assert len(throttle.store) == size
    assert throttle.store.evictions == 0


def test_an_expired_key_makes_room_before_a_live_one() -> None:
    clock = VirtualClock()
    throttle = limiter(100, clock)
    for number in range(90):
        throttle.limit(f"old {number}")
    clock.advance(7200)
    for number in range(10):
        throttle.limit(f"live {number}", 10)
    for number in range(90):
        throttle.limit(f"new {number}")
    assert throttle.store.evictions == 0
    assert all(not throttle.limit(f"live {number}") for number in range(10))


def test_a_flood_of_foreign_keys_does_not_free_a_limited_key() -> None:
    throttle = limiter(64)
    limited = [f"limited {number}" for number in range(8)]
    for key in limited:
        assert throttle.limit(key, 10)
    for number in range(20_000):
        throttle.limit(f"foreign {number}")
    assert [key for key in limited if throttle.limit(key)] == []


def test_a_full_store_that_denies_keeps_every_key_it_has() -> None:
    throttle = limiter(10, on_full="deny")
    assert all(throttle.limit(f"key {number}") for number in range(10))
    result = throttle.limit("one too many")
    assert not result
    assert result.state.retry_after > 0
    assert len(throttle.store) == 10
    assert throttle.store.evictions == 0
    assert throttle.limit("key 3").state.remaining == 8
    assert throttle.peek("one too many").remaining == 10


def test_a_full_store_that_raises_says_so() -> None:
    throttle = limiter(2, on_full="raise")
    throttle.limit("a")
    throttle.limit("b")
    with pytest.raises(BaseThrottledError) as caught:
        throttle.limit("c")
    assert "MAX_SIZE" in str(caught.value)
    assert "2" in str(caught.value)
    assert throttle.limit("a")
    throttle.reset("a")
    assert throttle.limit("c")


def test_a_full_store_that_denies_takes_new_keys_again_once_old_ones_expire() -> None:
    clock = VirtualClock()
    throttle = limiter(4, clock, on_full="deny")
    assert all(throttle.limit(f"key {number}") for number in range(4))
    assert not throttle.limit("new")
    clock.advance(3600)
    assert throttle.limit("new")


def test_the_first_eviction_of_a_live_key_is_logged_and_no_other(
    caplog: pytest.LogCaptureFixture,
) -> None:
    throttle = limiter(4)
    with caplog.at_level(logging.DEBUG):
        for number in range(100):
            throttle.limit(f"key {number}")
    warnings = [r for r in caplog.records if r.name.startswith("headway")]
    assert len(warnings) == 1
    assert "MAX_SIZE" in warnings[0].getMessage()
    assert throttle.store.evictions == 96


def test_a_key_whose_debt_is_less_than_a_nanosecond_is_not_expired() -> None:
    """Counting the keys drops expired ones; a quota of 10^12 a second lives in fractions of one."""
    store = MemoryStore(clock=VirtualClock())
    throttle = Throttled(quota="1000000000000/s burst 500", store=store)
    assert throttle.limit("key", 500)
    assert not throttle.limit("key")
    assert len(store) == 1
    assert not throttle.limit("key")


def test_clear_forgets_every_key() -> None:
    throttle = limiter(100)
    for number in range(50):
        throttle.limit(f"key {number}", 10)
    throttle.store.clear()
    assert len(throttle.store) == 0
    assert throttle.limit("key 1").state.remaining == 9


def test_a_denied_call_and_a_peek_leave_no_key_behind() -> None:
    throttle = limiter(100)
    throttle.peek("peeked")
    throttle.limit("never fits", 11)
    throttle.limit("reads", 0)
    throttle.reset("reset")
    assert len(throttle.store) == 0


def test_stats_count_what_the_store_holds() -> None:
    throttle = limiter(4)
    for number in range(10):
        throttle.limit(f"key {number}")
    stats = throttle.store.stats()
    assert all(isinstance(name, str) and isinstance(n, int) for name, n in stats.items())
    assert stats["keys"] == 4
    assert stats["evictions"] == 6
    assert stats["max_size"] == 4


def test_one_store_serves_limiters_of_all_kinds_and_quotas() -> None:
    store = MemoryStore(clock=VirtualClock())
    second, minute = (Throttled(quota=q, store=store) for q in (per_sec(1), per_min(2)))
    assert second.limit("a")
    assert minute.limit("b")
    assert minute.limit("b")
    assert not second.limit("a")
    assert not minute.limit("b")
    assert len(store) == 2


def test_a_quota_of_many_rules_is_evicted_and_expires_as_a_whole() -> None:
    clock = VirtualClock()
    store = MemoryStore(options={"MAX_SIZE": 12}, clock=clock)
    throttle = Throttled(quota="2/s; 5/min; 100/h", store=store)
    for number in range(100):
        assert throttle.limit(f"key {number}")
        assert len(store) <= 12
    for number in range(100):
        state = throttle.peek(f"key {number}")
        assert (state.limit, state.remaining) in {(2, 1), (2, 2)}


def test_one_key_under_many_prefixes_is_bounded_as_many_keys_are() -> None:
    store = MemoryStore(options={"MAX_SIZE": 10}, clock=VirtualClock())
    for number in range(500):
        throttle = Throttled(quota=per_hour(10), store=store, key_prefix=f"tenant{number}")
        assert throttle.limit("k")
        assert len(store) <= 10
    assert store.evictions == 490


def test_one_key_whose_quota_keeps_changing_is_bounded_too() -> None:
    store = MemoryStore(options={"MAX_SIZE": 10}, clock=VirtualClock())
    seconds = iter(range(1, 1000))

    def quota(key: str) -> str:
        period = next(seconds)
        return f"10/{period}s; 100/{period}m"

    throttle = Throttled(quota=quota, store=store)
    for _ in range(300):
        assert throttle.limit("k")
        assert len(store) <= 10


@pytest.mark.parametrize("size", [400, 4000])
def test_a_flood_of_prefixes_does_not_free_a_limited_key(size: int) -> None:
    store = MemoryStore(options={"MAX_SIZE": size}, clock=VirtualClock())
    throttle = Throttled(quota=per_hour(5), store=store, key_prefix="customers")
    limited = [f"limited {number}" for number in range(size * 3 // 4)]
    for key in limited:
        assert throttle.limit(key, 5)
    for number in range(2 * size):
        flood = Throttled(quota=per_hour(10), store=store, key_prefix=f"flood{number}")
        assert flood.limit("k")
    assert [key for key in limited if throttle.limit(key)] == []
    assert len(store) == size


def test_prefixes_and_periods_that_are_no_longer_used_are_forgotten() -> None:
    store = MemoryStore(options={"MAX_SIZE": 10}, clock=VirtualClock())
    kept = Throttled(quota="3/h", store=store, key_prefix="kept")
    assert kept.limit("k", 3)
    seconds = iter(range(1, 10**6))

    def quota(key: str) -> str:
        period = next(seconds)
        return f"10/{period}s; 100/{period}m"

    changing = Throttled(quota=quota, store=store)

    def flood(count: int) -> None:
        for number in range(count):
            throttle = Throttled(quota="10/s", store=store, key_prefix=f"p{next(seconds)}")
            assert throttle.limit(f"k{number}")
            assert changing.limit("k")

    flood(3000)
    before = store.stats()["bytes"]
    flood(12_000)
    assert store.stats()["bytes"] <= before
    assert not kept.limit("k")
    assert not Throttled(quota="3/h", store=store, key_prefix="kept").limit("k")


def test_a_limiter_that_is_made_anew_finds_its_counts() -> None:
    store = MemoryStore(options={"MAX_SIZE": 10_000}, clock=VirtualClock())
    for number in range(5000):
        assert Throttled(quota="1/h; 5/d", store=store, key_prefix=f"p{number}").limit("k")
    for number in range(5000):
        assert not Throttled(quota="1/h; 5/d", store=store, key_prefix=f"p{number}").limit("k")


def test_a_quota_with_more_rules_than_the_store_holds_keys_is_refused() -> None:
    store = MemoryStore(options={"MAX_SIZE": 2}, clock=VirtualClock())
    with pytest.raises(SetUpError, match=r"3 rules.*MAX_SIZE=2"):
        Throttled(quota="2/s; 5/min; 100/h", store=store)
    throttle = Throttled(quota="2/s; 5/min", store=store)
    assert [bool(throttle.limit(key)) for key in "abab"] == [True] * 4
    assert len(store) == 2
    by_key = Throttled(quota=lambda key: "2/s; 5/min; 100/h", store=store)
    with pytest.raises(SetUpError, match=r"3 rules.*MAX_SIZE=2"):
        by_key.limit("a")


@pytest.mark.parametrize("size", [0, -1, "x", 1.5, None, 2**63, "1"])
def test_a_max_size_that_is_no_positive_integer_is_refused_by_name(size: Any) -> None:
    with pytest.raises((DataError, SetUpError)) as caught:
        MemoryStore(options={"MAX_SIZE": size})
    assert "MAX_SIZE" in str(caught.value)
    assert str(size) in str(caught.value)


def test_an_unknown_option_is_refused_with_those_known() -> None:
    with pytest.raises((DataError, SetUpError)) as caught:
        MemoryStore(options={"MAXSIZE": 5})
    assert "MAXSIZE" in str(caught.value)
    assert "MAX_SIZE" in str(caught.value)


@pytest.mark.parametrize("on_full", ["drop", "", "EVICT", None, 5])
def test_an_unknown_on_full_is_refused_with_those_known(on_full: Any) -> None:
    with pytest.raises((DataError, SetUpError, TypeError)) as caught:
        MemoryStore(on_full=on_full)
    if not isinstance(caught.value, TypeError):
        assert "evict" in str(caught.value)


@pytest.mark.parametrize("options", [5, "MAX_SIZE=5", [("MAX_SIZE", 5)]])
def test_options_that_are_no_dict_are_refused(options: Any) -> None:
    with pytest.raises((DataError, SetUpError, TypeError)):
        MemoryStore(options=options)

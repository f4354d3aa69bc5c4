"""A flood of keys that are used up frees no limited key of another limiter.

A store that is full of keys at their limit has to forget one of them or refuse the new one. Every
limiter (a prefix and a rule) has an equal share of the store: the limiter that holds the most keys
makes room. What the flood's keys have used changes nothing about that.
"""

from __future__ import annotations

import itertools
import os
import secrets
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from headway import MemoryStore, SharedMemoryStore, Throttled, VirtualClock
from headway._shm_store import path_of

SIZE = 4096
USINGS = ["token_bucket", "gcra", "leaking_bucket", "fixed_window", "sliding_window"]
FLOODS = [("1/3650d", 1), ("1/day", 1), ("1/h", 1), ("5/day", 5), ("5/day burst 7", 7), ("1/s", 1)]

MakeStore = Callable[[], Any]


@pytest.fixture(params=["memory", "shm"])
def make_store(request: pytest.FixtureRequest) -> Iterator[MakeStore]:
    made: list[str] = []

    def make() -> Any:
        clock = VirtualClock()
        if request.param == "memory":
            return MemoryStore(options={"MAX_SIZE": SIZE}, clock=clock)
        made.append(f"test-{os.getpid()}-{secrets.token_hex(4)}")
        return SharedMemoryStore(made[-1], size="1M", clock=clock)

    yield make
    for name in made:
        path_of(name).unlink(missing_ok=True)


def capacity(store: Any) -> int:
    return int(store.max_size if isinstance(store, MemoryStore) else store.capacity)


def used_up(store: Any, quota: str, using: str, keys: list[str], cost: int) -> Throttled:
    limiter = Throttled(quota=quota, using=using, store=store, key_prefix="victims")
    for key in keys:
        assert limiter.limit(key, cost)
        assert limiter.limit(key).limited
    return limiter


@pytest.mark.parametrize("using", USINGS)
@pytest.mark.parametrize(("flood_quota", "cost"), FLOODS)
def test_a_flood_of_used_up_keys_frees_no_limited_key_of_another_limiter(
    make_store: MakeStore, using: str, flood_quota: str, cost: int
) -> None:
    store = make_store()
    keys = [f"victim {number}" for number in range(capacity(store) // 64)]
    victims = used_up(store, "5/day", using, keys, 5)
    flood = Throttled(quota=flood_quota, using=using, store=store, key_prefix="flood")
    for number in range(4 * capacity(store)):
        # A window's quota has no burst: a cost above the limit is denied there, and fills nothing.
        flood.limit(f"made up {number}", min(cost, int(flood_quota.split("/")[0])))
    assert store.evictions > capacity(store)
    assert [key for key in keys if victims.limit(key)] == []


@pytest.mark.parametrize("using", USINGS)
def test_a_flood_under_several_rules_frees_no_limited_key(
    make_store: MakeStore, using: str
) -> None:
    store = make_store()
    keys = [f"victim {number}" for number in range(capacity(store) // 64)]
    victims = used_up(store, "5/day; 100/30d", using, keys, 5)
    flood = Throttled(quota="1/day; 1/3650d", using=using, store=store, key_prefix="flood")
    for number in range(2 * capacity(store)):
        flood.limit(f"made up {number}")
    assert [key for key in keys if victims.limit(key)] == []


def test_a_flood_through_another_algorithm_frees_no_limited_key(make_store: MakeStore) -> None:
    for using, other in itertools.product(USINGS, USINGS):
        store = make_store()
        keys = [f"victim {number}" for number in range(capacity(store) // 64)]
        victims = used_up(store, "5/day", using, keys, 5)
        flood = Throttled(quota="1/3650d", using=other, store=store, key_prefix="flood")
        for number in range(2 * capacity(store)):
            flood.limit(f"made up {number}")
        assert [key for key in keys if victims.limit(key)] == [], (using, other)


@pytest.mark.parametrize("using", ["token_bucket", "gcra", "leaking_bucket"])
def test_a_key_is_at_its_limit_until_one_call_fits_again(make_store: MakeStore, using: str) -> None:
    """Of a quota of 1 a day half is free after twelve hours, and no call fits."""
    store = make_store()
    keys = [f"victim {number}" for number in range(capacity(store) // 64)]
    victims = used_up(store, "1/day", using, keys, 1)
    store.clock.advance(23 * 3600)
    flood = Throttled(quota="10/day", using=using, store=store, key_prefix="flood")
    for number in range(4 * capacity(store)):
        flood.limit(f"made up {number}", 5)
    assert [key for key in keys if victims.limit(key)] == []


@pytest.mark.parametrize("size", [16, 1000])
@pytest.mark.parametrize(
    ("prefixes", "quotas"), [("ab", ("1/day",) * 2), ("aa", ("1/day", "5/day"))]
)
def test_two_limits_whose_keys_are_all_used_up_have_half_of_the_store_each(
    prefixes: str, quotas: tuple[str, str], size: int
) -> None:
    store = MemoryStore(options={"MAX_SIZE": size}, clock=VirtualClock())
    first, second = (
        Throttled(quota=quota, store=store, key_prefix=prefix)
        for prefix, quota in zip(prefixes, quotas, strict=True)
    )
    costs = [int(quota.split("/")[0]) for quota in quotas]

    def limited(limiter: Throttled, name: str) -> int:
        return sum(limiter.peek(f"{name} {i}").remaining == 0 for i in range(3 * size))

    def is_half(count: int) -> bool:
        return abs(count - size // 2) <= 1 + size // 64

    for number in range(size * 9 // 10):
        assert first.limit(f"one {number}", costs[0])
    for number in range(3 * size):
        assert second.limit(f"two {number}", costs[1])
    assert is_half(limited(first, "one"))
    for number in range(2 * size):  # the flood goes on at the first one
        first.limit(f"one {size + number}", costs[0])
    assert is_half(limited(second, "two"))


def test_of_one_limiter_the_key_that_was_longest_unused_makes_room() -> None:
    clock = VirtualClock()
    store = MemoryStore(options={"MAX_SIZE": 16}, clock=clock)
    limiter = Throttled(quota="1/day", store=store)
    for number in range(50):
        assert limiter.limit(f"key {number}")
        clock.advance(1)
    free = [number for number in range(50) if limiter.peek(f"key {number}").remaining == 1]
    assert free == list(range(34))


def test_long_keys_do_not_hide_a_flood() -> None:
    """The cells with the rest of long keys are most of the store then."""
    store = MemoryStore(options={"MAX_SIZE": 100}, clock=VirtualClock())
    victims = used_up(store, "5/day", "gcra", ["victim"], 5)
    flood = Throttled(quota="1/3650d", store=store, key_prefix="flood")
    for number in range(1000):
        flood.limit("k" * 60_000 + str(number))
    assert store.evictions > 900
    assert victims.limit("victim").limited


def test_a_client_that_chooses_its_quotas_frees_nothing_under_another_prefix() -> None:
    store = MemoryStore(options={"MAX_SIZE": SIZE}, clock=VirtualClock())
    keys = [f"victim {number}" for number in range(SIZE // 8)]
    victims = used_up(store, "5/day", "gcra", keys, 5)
    for number in range(2000):
        quota = f"1/{number + 1}h; 1/{number + 3000}h"
        flood = Throttled(quota=quota, store=store, key_prefix="flood", using=USINGS[number % 5])
        for key in range(8):
            flood.limit(f"{number} {key}")
    assert [key for key in keys if victims.limit(key)] == []


def test_many_limiters_in_one_full_store_keep_their_few_limited_keys() -> None:
    store = MemoryStore(options={"MAX_SIZE": SIZE}, clock=VirtualClock())
    small = [Throttled(quota="1/day", store=store, key_prefix=f"small {i}") for i in range(300)]
    for limiter in small:
        assert limiter.limit("k")
    flood = Throttled(quota="1/3650d", store=store, key_prefix="flood")
    for number in range(4 * SIZE):
        flood.limit(f"made up {number}")
    assert [limiter.key_prefix for limiter in small if limiter.limit("k")] == []


def test_a_store_that_denies_keeps_every_limited_key_of_the_same_limiter_too() -> None:
    store = MemoryStore(options={"MAX_SIZE": SIZE}, clock=VirtualClock(), on_full="deny")
    limiter = Throttled(quota="5/day", store=store)
    assert limiter.limit("victim", 5)
    results = [limiter.limit(f"made up {number}", 5) for number in range(2 * SIZE)]
    assert limiter.limit("victim").limited
    assert sum(bool(result) for result in results) == SIZE - 1

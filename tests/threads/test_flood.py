"""A flood of foreign keys: the store stays within its bound and no key at its limit is set free."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest

from headway import MemoryStore, Throttled
from headway.algorithms import ALGORITHMS

FOREIGN = 1_000_000
THREADS = 4


def flood(
    throttle: Throttled, start: Callable[[Callable[[], Any]], Any], many: int = FOREIGN
) -> None:
    """`many` calls with as many keys, from several threads."""

    def work(number: int) -> None:
        limit, prefix = throttle.limit, f"foreign {number} "
        for index in range(many // THREADS):
            limit(prefix + str(index))

    workers = [start(partial(work, number)) for number in range(THREADS)]
    for worker in workers:
        worker.result(120)


@pytest.mark.slow
@pytest.mark.parametrize("using", ["token_bucket", "fixed_window"])
def test_a_million_foreign_keys_do_not_free_a_limited_key(
    using: str, start: Callable[..., Any]
) -> None:
    throttle = Throttled(using=using, quota="10/3650d", store=MemoryStore())
    limited = [f"limited {number}" for number in range(100)]
    for key in limited:
        assert throttle.limit(key, 10)
    flood(throttle, start)
    assert [key for key in limited if throttle.limit(key)] == []
    assert len(throttle.store) == throttle.store.max_size == 65_536
    assert throttle.store.evictions == FOREIGN + len(limited) - 65_536


@pytest.mark.parametrize("using", ALGORITHMS)
@pytest.mark.parametrize("size", [64, 5000])
def test_a_flood_of_small_stores_does_not_free_a_limited_key(
    using: str, size: int, start: Callable[..., Any]
) -> None:
    store = MemoryStore(options={"MAX_SIZE": size})
    throttle = Throttled(using=using, quota="10/3650d", store=store)
    limited = [f"limited {number}" for number in range(size // 4)]
    for key in limited:
        assert throttle.limit(key, 10)
    flood(throttle, start, 20 * size)
    assert [key for key in limited if throttle.limit(key)] == []
    assert len(store) == size


def test_a_limited_key_with_several_rules_survives_a_flood(start: Callable[..., Any]) -> None:
    store = MemoryStore(options={"MAX_SIZE": 600})
    throttle = Throttled(quota="10/3650d; 100/3650d", store=store)
    assert throttle.limit("limited", 10)
    flood(throttle, start, 40_000)
    assert not throttle.limit("limited")
    assert len(store) <= 600

"""Many threads at once: what is admitted is exact, on one key and on many, whatever the algorithm.

With a frozen virtual clock the right number is the quota and nothing else. In real time it lies
between two bounds that follow from when the burst was used up and the last call began.
"""

from __future__ import annotations

import random
import threading
from collections import Counter
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest

from headway import MemoryStore, Throttled, VirtualClock, per_sec
from headway.algorithms import ALGORITHMS
from headway.clock import now_ns

THREADS = 16
YEARS = "/3650d"


def all_at_once(start: Callable[[Callable[[], Any]], Any], work: Callable[[int], Any]) -> list[Any]:
    """Runs `work(number)` in 16 threads that begin together."""
    gate = threading.Barrier(THREADS)

    def begin(number: int) -> Any:
        gate.wait()
        return work(number)

    workers = [start(partial(begin, number)) for number in range(THREADS)]
    return [worker.result() for worker in workers]


@pytest.mark.parametrize("using", ALGORITHMS)
@pytest.mark.parametrize("clock", [VirtualClock(10**18), None], ids=["virtual", "real"])
def test_sixteen_threads_on_one_key_are_admitted_exactly(
    using: str, clock: VirtualClock | None, start: Callable[..., Any]
) -> None:
    throttle = Throttled(using=using, quota="1000" + YEARS, store=MemoryStore(clock=clock))

    def work(number: int) -> int:
        return sum(bool(throttle.limit("key")) for _ in range(500))

    assert sum(all_at_once(start, work)) == 1000
    assert throttle.peek("key").remaining == 0


@pytest.mark.parametrize("using", ALGORITHMS)
def test_sixteen_threads_on_many_keys_are_admitted_exactly(
    using: str, start: Callable[..., Any]
) -> None:
    throttle = Throttled(using=using, quota="20" + YEARS, store=MemoryStore())
    keys = [f"key {number}" for number in range(300)]

    def work(number: int) -> Counter[str]:
        order = keys * 3
        random.Random(number).shuffle(order)
        return Counter(key for key in order if throttle.limit(key))

    total = sum(all_at_once(start, work), Counter[str]())
    assert total == dict.fromkeys(keys, 20)
    assert len(throttle.store) == len(keys)


@pytest.mark.parametrize("using", ALGORITHMS)
def test_costs_of_many_sizes_add_up_to_the_quota(using: str, start: Callable[..., Any]) -> None:
    throttle = Throttled(using=using, quota="5000" + YEARS, store=MemoryStore())

    def work(number: int) -> int:
        chance = random.Random(number)
        took = 0
        for _ in range(300):
            cost = chance.randint(0, 20)
            took += cost if throttle.limit("key", cost) else 0
        while throttle.limit("key"):
            took += 1
        return took

    assert sum(all_at_once(start, work)) == 5000


@pytest.mark.parametrize("using", ALGORITHMS)
def test_several_rules_take_the_same_from_each(using: str, start: Callable[..., Any]) -> None:
    store = MemoryStore(clock=VirtualClock(10**18))
    throttle = Throttled(using=using, quota=f"700{YEARS}; 500/h; 900/w", store=store)

    def work(number: int) -> int:
        return sum(bool(throttle.limit("key")) for _ in range(200))

    assert sum(all_at_once(start, work)) == 500
    assert throttle.peek("key").remaining == 0
    assert throttle.limit("key").state.limit == 500
    assert store.clock is not None
    store.clock.advance(7200)
    took = sum(bool(throttle.limit("key")) for _ in range(600))
    assert took in (200, 201), "the rule of 700 had 500 taken from it, not more"


@pytest.mark.parametrize("using", ["token_bucket", "gcra"])
def test_in_real_time_a_busy_key_gets_what_the_quota_gives_and_no_more(
    using: str, start: Callable[..., Any]
) -> None:
    rate, burst = 2000, 1000
    throttle = Throttled(using=using, quota=per_sec(rate, burst), store=MemoryStore())
    before_first, took = now_ns(), 0
    while throttle.limit("key"):
        took += 1
    since = now_ns()  # the bucket is empty: from here on nothing may be lost over its brim

    def work(number: int) -> int:
        end, took = since + 4 * 10**8, 0
        while now_ns() < end:
            took += bool(throttle.limit("key"))
        return took

    took_since = sum(all_at_once(start, work))
    before_last = now_ns()
    while throttle.limit("key"):
        took_since += 1
    after_last = now_ns()
    assert took + took_since <= burst + (after_last - before_first) * rate / 1e9
    assert took_since >= (before_last - since) * rate / 1e9 - 1


def test_every_call_of_the_api_may_run_at_once(start: Callable[..., Any]) -> None:
    """Nothing to count here: no crash, no dead lock, and every report within its bounds."""
    clock = VirtualClock()
    store = MemoryStore(options={"MAX_SIZE": 50}, clock=clock)
    limiters = [Throttled(using=using, quota="5/s; 9/m", store=store) for using in ALGORITHMS]

    def work(number: int) -> None:
        chance = random.Random(number)
        for _ in range(2000):
            throttle, key = chance.choice(limiters), f"key {chance.randrange(80)}"
            act = chance.randrange(20)
            if act == 0:
                throttle.reset(key)
            elif act == 1:
                store.stats()
            elif act == 2 and number == 0:
                clock.advance(0.3)
            elif act == 3 and number == 1:
                store.clear()
            elif act < 8:
                state = throttle.peek(key)
                assert 0 <= state.remaining <= state.limit
            else:
                state = throttle.limit(key, chance.randrange(3)).state
                assert 0 <= state.remaining <= state.limit
            assert len(store) <= 50 + THREADS

    all_at_once(start, work)
    assert len(store) <= 50


def test_limiters_made_in_many_threads_share_one_key(start: Callable[..., Any]) -> None:
    store = MemoryStore()

    def work(number: int) -> int:
        return sum(
            bool(Throttled(quota="100" + YEARS, store=store).limit("key")) for _ in range(50)
        )

    assert sum(all_at_once(start, work)) == 100

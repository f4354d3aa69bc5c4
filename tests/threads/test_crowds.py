"""Crowds of waiters that come, give up and are served at random: everybody gets an answer, nobody
gets too much.

One thread moves a virtual clock; the others ask with random costs and patience. Who is told yes
within the time promised, and the sum of it stays within the quota: what the single-threaded
invariants say holds for any interleaving.
"""

from __future__ import annotations

import random
import threading
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest

from headway import MemoryStore, Throttled, TokenBucket, VirtualClock
from headway.algorithms import ALGORITHMS

THREADS = 12
CALLS = 60
STEP_NS = 50_000_000


def tick_until(clock: VirtualClock, stop: threading.Event) -> None:
    """Moves the clock in small steps until told to stop."""
    while not stop.is_set():
        clock.advance(ns=STEP_NS)
        stop.wait(0.0001)


def run_crowd(start: Callable[..., Any], clock: VirtualClock, work: Callable[[int], Any]) -> Any:
    """All results of `work(number)` in many threads while the clock runs."""
    stop = threading.Event()
    ticker = start(partial(tick_until, clock, stop))
    workers = [start(partial(work, number)) for number in range(THREADS)]
    try:
        return [worker.result(60) for worker in workers]
    finally:
        stop.set()
        ticker.result()


@pytest.mark.parametrize("using", ALGORITHMS)
@pytest.mark.parametrize("quota", ["5/s", "5/s; 9/3s", "20/s burst 3"])
def test_a_crowd_on_one_key_is_served_within_the_quota_and_everybody_returns(
    using: str, quota: str, start: Callable[..., Any]
) -> None:
    clock = VirtualClock(10**18)
    throttle = Throttled(using=using, quota=quota, store=MemoryStore(clock=clock))

    def work(number: int) -> list[tuple[int, int, int]]:
        chance, log = random.Random(number), []
        for _ in range(CALLS):
            cost, timeout = chance.randint(1, 4), chance.choice((-1, 0.1, 0.5, 1.5, 5.0))
            asked = clock.now_ns
            result = throttle.limit("key", cost, timeout=timeout)
            if result:
                log.append((asked, clock.now_ns, cost))
            else:
                assert result.state.retry_after > 0
        return log

    log = [entry for entries in run_crowd(start, clock, work) for entry in entries]
    assert log, "nobody was served"
    took = sum(cost for _, _, cost in log)
    seconds = (clock.now_ns - 10**18) / 1e9
    rate, burst = (20, 3) if "burst" in quota else (5, 5)
    if using in ("fixed_window", "sliding_window"):
        burst = rate
    assert took <= burst + rate * (seconds + 1)
    clock.advance(3600)
    assert throttle.peek("key").remaining == throttle.peek("key").limit
    assert throttle.limit("key", timeout=0.001), "somebody still stands in line"


def test_crowds_on_many_keys_and_limiters_of_one_key_all_return(start: Callable[..., Any]) -> None:
    clock = VirtualClock(10**18)
    store = MemoryStore(options={"MAX_SIZE": 40}, clock=clock)
    limiters = [
        Throttled(using=using, quota=quota, store=store)
        for using in ALGORITHMS
        for quota in ("3/s", "7/2s", "2/s; 30/m")
    ]

    def work(number: int) -> int:
        chance, took = random.Random(number), 0
        for _ in range(CALLS):
            throttle, key = chance.choice(limiters), f"key {chance.randrange(6)}"
            if chance.random() < 0.05:
                throttle.reset(key)
            if chance.random() < 0.02:
                store.clear()
            took += bool(throttle.limit(key, chance.randint(0, 2), timeout=chance.uniform(0.01, 3)))
        return took

    assert sum(run_crowd(start, clock, work)) > 0
    clock.advance(3600)
    for throttle in limiters:
        for number in range(6):
            assert throttle.limit(f"key {number}", timeout=0.001)


def test_a_crowd_at_a_token_bucket_is_served_within_its_rate(start: Callable[..., Any]) -> None:
    clock = VirtualClock(10**18)
    bucket = TokenBucket(5, 20, clock=clock)

    def work(number: int) -> float:
        chance, took = random.Random(number), 0.0
        for _ in range(CALLS // 2):
            tokens = chance.choice((0.5, 1, 2.5, 7))
            if chance.random() < 0.5:
                bucket.wait(tokens)
                took += tokens
            elif bucket.allow(tokens):
                took += tokens
        return took

    took = sum(run_crowd(start, clock, work))
    seconds = (clock.now_ns - 10**18) / 1e9
    assert took <= 5 + 20 * seconds + 1e-6
    clock.advance(1)
    assert bucket.allow(5)

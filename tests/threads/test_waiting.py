"""Waiting for a slot: exact instants, first come first served, and no sleep that is known to be in
vain.

Under a virtual clock a waiter sleeps until another thread moves the clock. How many stand in line
is read from the limiter itself: a call that does not wait is told when the line will be through,
and with one slot a second that is a count.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from typing import Any

import pytest

from headway import MemoryStore, Throttled, VirtualClock, per_sec
from headway.algorithms import ALGORITHMS
from headway.clock import now_ns

Start = Callable[[Callable[[], Any]], Any]
Eventually = Callable[..., None]


@pytest.fixture
def throttle(store: MemoryStore) -> Throttled:
    """One slot a second, taken."""
    throttle = Throttled(using="gcra", quota=per_sec(1), store=store)
    assert throttle.limit("key")
    return throttle


def in_line(throttle: Throttled, key: str = "key") -> int:
    """How many wait for a slot of the `throttle` fixture at this virtual instant."""
    return math.ceil(throttle.limit(key).state.retry_after) - 1


def join(
    throttle: Throttled,
    start: Start,
    eventually: Eventually,
    served: list[Any],
    name: Any,
    **call: Any,
) -> Any:
    """Starts a waiter that notes its name when served, and returns once it stands in line."""
    before = in_line(throttle)

    def wait() -> Any:
        result = throttle.limit("key", **{"timeout": 1000, **call})
        if result:
            served.append(name)
        return result

    worker = start(wait)
    eventually(lambda: in_line(throttle) > before, f"waiter {name} in line")
    return worker


def test_a_waiter_sleeps_until_another_thread_moves_the_clock(
    throttle: Throttled, clock: VirtualClock, start: Start, eventually: Eventually
) -> None:
    worker = join(throttle, start, eventually, [], "waiter")
    clock.advance(1)
    result = worker.result()
    assert result
    assert result.state.remaining == 0
    assert in_line(throttle) == 0


def test_a_waiter_is_served_at_its_instant_and_not_a_nanosecond_before(
    throttle: Throttled, clock: VirtualClock, start: Start, eventually: Eventually
) -> None:
    served: list[str] = []
    worker = join(throttle, start, eventually, served, "waiter")
    clock.advance(ns=999_999_999)
    worker.join(0.05)
    assert worker.is_alive()
    assert served == []
    clock.advance(ns=1)
    assert worker.result()


@pytest.mark.parametrize("using", ALGORITHMS)
def test_a_waiter_of_any_algorithm_is_served_when_its_cost_fits(
    using: str, clock: VirtualClock, store: MemoryStore, start: Start, eventually: Eventually
) -> None:
    throttle = Throttled(using=using, quota="5/m", store=store)
    throttle.limit("key", 5)
    retry = throttle.limit("key", 3).state.retry_after
    worker = start(lambda: throttle.limit("key", 3, timeout=100))
    eventually(
        lambda: throttle.limit("key", 3).state.retry_after > retry,
        "the waiter in line",
    )
    clock.advance(retry)
    assert worker.result()


def test_waiters_are_served_in_the_order_in_which_they_came(
    throttle: Throttled, clock: VirtualClock, start: Start, eventually: Eventually
) -> None:
    served: list[int] = []
    workers = [join(throttle, start, eventually, served, number) for number in range(8)]
    for number, worker in enumerate(workers):
        clock.advance(1)
        assert worker.result()
        assert served == list(range(number + 1))
        assert in_line(throttle) == 7 - number


def test_one_jump_of_the_clock_serves_all_that_are_due(
    clock: VirtualClock, store: MemoryStore, start: Start, eventually: Eventually
) -> None:
    throttle = Throttled(using="gcra", quota="1/s burst 5", store=store)
    throttle.limit("key", 5)
    served: list[int] = []
    workers = [join(throttle, start, eventually, served, number) for number in range(8)]
    clock.advance(5)
    for worker in workers[:5]:
        assert worker.result()
    assert sorted(served) == [0, 1, 2, 3, 4]
    assert all(worker.is_alive() for worker in workers[5:])
    clock.advance(3)
    for worker in workers[5:]:
        assert worker.result()


def test_a_larger_cost_is_not_starved_by_smaller_ones_behind_it(
    clock: VirtualClock, store: MemoryStore, start: Start, eventually: Eventually
) -> None:
    throttle = Throttled(using="gcra", quota="1/s burst 10", store=store)
    throttle.limit("key", 10)
    served: list[str] = []
    large = join(throttle, start, eventually, served, "large", cost=10)
    small = join(throttle, start, eventually, served, "small", cost=1)
    for _ in range(9):
        clock.advance(1)
        assert not throttle.limit("key"), "a call that does not wait overtook the line"
    assert served == []
    clock.advance(1)
    assert large.result()
    assert small.is_alive()
    clock.advance(1)
    assert small.result()
    assert served == ["large", "small"]


def test_those_who_do_not_wait_are_told_when_the_line_is_through(
    throttle: Throttled, clock: VirtualClock, start: Start, eventually: Eventually
) -> None:
    workers = [join(throttle, start, eventually, [], number) for number in range(3)]
    assert throttle.limit("key").state.retry_after == 4
    assert throttle.limit("another key")
    assert throttle.limit("key", 0), "reading is not overtaking"
    assert throttle.peek("key").remaining == 0
    for worker in workers:
        clock.advance(1)
        assert worker.result()


def test_a_wait_that_is_known_to_be_too_long_is_denied_at_once(throttle: Throttled) -> None:
    """The virtual clock stands still: a wait would never return."""
    result = throttle.limit("key", timeout=0.999_999_9)
    assert not result
    assert result.state.retry_after == 1
    assert in_line(throttle) == 0


def test_the_line_ahead_counts_towards_the_wait(
    throttle: Throttled, clock: VirtualClock, start: Start, eventually: Eventually
) -> None:
    workers = [join(throttle, start, eventually, [], number) for number in range(2)]
    result = throttle.limit("key", timeout=2.9)
    assert not result
    assert result.state.retry_after == 3
    workers.append(join(throttle, start, eventually, [], "third", timeout=3))
    for worker in workers:
        clock.advance(1)
        assert worker.result()


@pytest.mark.parametrize("timeout", [1, 1e9, math.inf])
def test_waiting_for_what_can_never_fit_returns_at_once(
    throttle: Throttled, timeout: float
) -> None:
    result = throttle.limit("key", 2, timeout=timeout)
    assert not result
    assert math.isinf(result.state.retry_after)


def test_who_can_never_fit_does_not_wait_behind_those_who_can(
    throttle: Throttled, clock: VirtualClock, start: Start, eventually: Eventually
) -> None:
    worker = join(throttle, start, eventually, [], "waiter")
    assert math.isinf(throttle.limit("key", 2, timeout=math.inf).state.retry_after)
    clock.advance(1)
    assert worker.result()


def test_an_endless_timeout_waits_as_long_as_it_takes(
    clock: VirtualClock, store: MemoryStore, start: Start, eventually: Eventually
) -> None:
    throttle = Throttled(using="gcra", quota="1/3650d", store=store, timeout=math.inf)
    throttle.limit("key")
    worker = start(lambda: throttle.limit("key"))
    year = 365 * 86_400
    eventually(
        lambda: throttle.limit("key", timeout=-1).state.retry_after > 15 * year,
        "the waiter in line",
    )
    clock.advance(9 * year)
    worker.join(0.05)
    assert worker.is_alive()
    clock.advance(year)
    assert worker.result()


def test_a_reset_serves_those_who_wait(
    throttle: Throttled, start: Start, eventually: Eventually
) -> None:
    served: list[int] = []
    workers = [join(throttle, start, eventually, served, number) for number in range(2)]
    throttle.reset("key")
    assert workers[0].result()
    assert in_line(throttle) == 1
    throttle.store.clear()
    assert workers[1].result()


def test_a_line_holds_up_no_other_key(
    throttle: Throttled, clock: VirtualClock, start: Start, eventually: Eventually
) -> None:
    worker = join(throttle, start, eventually, [], "waiter")
    for number in range(1000):
        assert throttle.limit(f"key {number}", timeout=5)
    clock.advance(1)
    assert worker.result()


def test_a_context_and_a_decorator_wait_too(
    clock: VirtualClock, store: MemoryStore, start: Start, eventually: Eventually
) -> None:
    throttle = Throttled(key="key", using="gcra", quota=per_sec(1), store=store, timeout=10)
    observer = Throttled(key="key", using="gcra", quota=per_sec(1), store=store)

    def with_context() -> str:
        with throttle as result:
            return "context" if result else "?"

    assert with_context() == "context"
    first = start(with_context)
    eventually(lambda: in_line(observer) == 1, "the context in line")
    second = start(throttle(lambda: "decorator"))
    eventually(lambda: in_line(observer) == 2, "the decorated call in line")
    clock.advance(1)
    assert first.result() == "context"
    clock.advance(1)
    assert second.result() == "decorator"


def test_several_rules_wait_for_the_slowest(
    clock: VirtualClock, store: MemoryStore, start: Start, eventually: Eventually
) -> None:
    throttle = Throttled(using="gcra", quota="1/s; 2/m", store=store)
    assert throttle.limit("key")
    clock.advance(1)
    assert throttle.limit("key")
    retry = throttle.limit("key").state.retry_after
    assert retry == 29
    worker = start(lambda: throttle.limit("key", timeout=30))
    eventually(lambda: throttle.limit("key").state.retry_after > 30, "the waiter in line")
    clock.advance(ns=29 * 10**9 - 1)
    worker.join(0.05)
    assert worker.is_alive()
    clock.advance(ns=1)
    assert worker.result()


def test_in_real_time_nobody_is_early_and_all_are_served(start: Start) -> None:
    throttle = Throttled(using="gcra", quota="200/s burst 1", store=MemoryStore())
    began = now_ns()
    assert throttle.limit("key")

    def work() -> list[int]:
        instants = []
        for _ in range(5):
            assert throttle.limit("key", timeout=20)
            instants.append(now_ns())
        return instants

    workers = [start(work) for _ in range(16)]
    instants = sorted(instant for worker in workers for instant in worker.result())
    assert len(instants) == 80
    for number, instant in enumerate(instants, 1):
        assert instant >= began + number * 5_000_000, "admitted before its slot"
    assert instants[-1] - began < 60 * 10**9


@pytest.mark.alone
def test_in_real_time_a_wait_ends_close_to_its_instant() -> None:
    throttle = Throttled(using="gcra", quota="100/s burst 1", store=MemoryStore())
    throttle.limit("key")
    late = []
    for _ in range(20):
        due = now_ns() + round(throttle.limit("key").state.retry_after * 1e9)
        assert throttle.limit("key", timeout=1)
        late.append(now_ns() - due)
    assert sorted(late)[10] < 2_000_000, "half of the waits were late by over 2 ms"


def test_a_waiter_holds_no_gil(start: Start) -> None:
    throttle = Throttled(using="gcra", quota="2/s burst 1", store=MemoryStore())
    throttle.limit("key")
    worker = start(lambda: throttle.limit("key", timeout=5))
    turns, end = 0, time.monotonic() + 0.2
    while time.monotonic() < end:
        turns += 1
    assert turns > 1000
    assert worker.result()

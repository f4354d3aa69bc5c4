"""The reference behind the demo's exact numbers agrees with the limiter, decision by decision."""

from __future__ import annotations

import random
from fractions import Fraction

import pytest

from headway import MemoryStore, Throttled, VirtualClock, parse_quota
from headway.demo.recorder import Arrival
from headway.demo.reference import SECOND_NS, Exact, Reference, exact

EPOCH_NS = 1_700_000_000 * SECOND_NS
ALGORITHMS = ("token_bucket", "leaking_bucket", "gcra", "fixed_window", "sliding_window")
QUOTAS = ("20/s burst 10", "3/s", "7/3s burst 2", "50/s; 120/3s", "5/s burst 1; 100/m")


def arrival_times(seed: int, count: int = 600) -> list[int]:
    """Bursts, steady stretches and pauses, at odd nanoseconds."""
    chance = random.Random(seed)
    now_ns = EPOCH_NS + chance.randrange(10 * SECOND_NS)
    times: list[int] = []
    while len(times) < count:
        longest = chance.choice((1, 1_000_000, 40_000_000, SECOND_NS))
        for _ in range(chance.randrange(1, 60)):
            now_ns += chance.randrange(longest)
            times.append(now_ns)
    return times


@pytest.mark.parametrize("using", ALGORITHMS)
@pytest.mark.parametrize("quota", QUOTAS)
def test_reference_and_limiter_take_the_same_decisions(quota: str, using: str) -> None:
    clock = VirtualClock(now_ns=EPOCH_NS)
    limiter = Throttled("k", using=using, quota=quota, store=MemoryStore(clock=clock))
    reference = Reference(parse_quota(quota), using)
    for now_ns in arrival_times(seed=len(quota) + len(using)):
        clock.set(now_ns)
        assert (reference.arrive(now_ns) is not None) == (not limiter.limit().limited)


def test_a_saturated_bucket_admits_the_burst_and_one_request_per_interval() -> None:
    reference = Reference(parse_quota("3/s burst 4"), "gcra")
    times = range(EPOCH_NS, EPOCH_NS + 10 * SECOND_NS + 1, 1_000_000)
    assert reference.admitted(times) == 4 + 30


def test_who_waits_is_given_the_next_slot_in_order_of_arrival() -> None:
    reference = Reference(parse_quota("2/s burst 1"), "gcra", timeout=1.2)
    slots = [reference.arrive(EPOCH_NS) for _ in range(4)]
    half = Fraction(SECOND_NS, 2)
    assert slots == [EPOCH_NS, EPOCH_NS + half, EPOCH_NS + 2 * half, None]


def test_waiting_for_several_rules_is_refused() -> None:
    with pytest.raises(ValueError, match="single bucket rule"):
        Reference(parse_quota("2/s; 100/m"), "gcra", timeout=1)


def test_the_exact_number_is_a_range_where_a_boundary_falls_between_two_clock_readings() -> None:
    arrivals = []
    for before_ns, after_ns in ((0, 10), (SECOND_NS - 5, SECOND_NS + 5)):
        arrival = Arrival(EPOCH_NS + before_ns)
        arrival.after_ns = EPOCH_NS + after_ns
        arrivals.append(arrival)
    answer = exact(arrivals, parse_quota("1/s"), "fixed_window")
    assert answer == Exact(1, 2)
    assert str(answer) == "1-2"
    assert 2 in answer
    assert 3 not in answer

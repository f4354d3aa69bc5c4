"""What a user relies on, whatever the arithmetic inside: never too many, never starved, and a wait
that is right.

Over any interval of length t a key admits at most `b + t/T` (bucket family) or `limit` per aligned
window, and a key that is kept busy gets at least that many minus one. Asking again after
`retry_after` succeeds; asking one nanosecond earlier does not.
"""

from __future__ import annotations

import math
from fractions import Fraction

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from headway import MemoryStore, Quota, Rate, Throttled, VirtualClock, per_duration, per_sec
from headway.algorithms import step
from reference.model import SECOND, Report, Rule
from reference.strategies import USINGS, Move, instants, schedules, small_rules

BUCKETS = ("token_bucket", "leaking_bucket", "gcra")
WINDOWS = ("fixed_window", "sliding_window")


def limiter(using: str, rule: Rule, start_ns: int = 0) -> tuple[Throttled, VirtualClock]:
    clock = VirtualClock(now_ns=start_ns)
    quota = Quota(Rate(rule.period, rule.limit), rule.burst)
    return Throttled(using=using, quota=quota, store=MemoryStore(clock=clock)), clock


def admitted(using: str, rule: Rule, start_ns: int, schedule: list[Move]) -> list[tuple[int, int]]:
    """The (instant, cost) of every call that was admitted. Jumps aim at what the limiter itself
    said.
    """
    throttle, clock = limiter(using, rule, start_ns)
    log, now, cost, last = [], start_ns, 0, None
    for move in schedule:
        now = move.instant(now, rule, last)
        clock.set(now)
        cost = move.cost(rule, last, cost)
        result = throttle.limit("key", cost)
        if result:
            log.append((now, cost))
        told = result.state
        last = Report(
            allowed=bool(result),
            limit=told.limit,
            remaining=told.remaining,
            reset_after_ns=math.ceil(told.reset_after * SECOND),
            retry_after_ns=0
            if math.isinf(told.retry_after)
            else math.ceil(told.retry_after * SECOND),
        )
    return log


@pytest.mark.parametrize("using", BUCKETS)
@given(rule=small_rules, start_ns=instants, schedule=schedules)
def test_a_bucket_admits_at_most_its_burst_and_what_drips_in(
    using: str, rule: Rule, start_ns: int, schedule: list[Move]
) -> None:
    log = admitted(using, rule, start_ns, schedule)
    for first, (since, _) in enumerate(log):
        total = 0
        for until, cost in log[first:]:
            total += cost
            assert total <= rule.burst + (until - since) / rule.interval


@given(rule=small_rules, start_ns=instants, schedule=schedules)
def test_a_fixed_window_admits_at_most_its_limit(
    rule: Rule, start_ns: int, schedule: list[Move]
) -> None:
    totals: dict[int, int] = {}
    for now, cost in admitted("fixed_window", rule, start_ns, schedule):
        window = now // rule.period_ns
        totals[window] = totals.get(window, 0) + cost
    assert all(total <= rule.limit for total in totals.values())


@given(rule=small_rules, start_ns=instants, schedule=schedules)
def test_a_sliding_window_admits_at_most_what_its_definition_gives(
    rule: Rule, start_ns: int, schedule: list[Move]
) -> None:
    totals: dict[int, int] = {}
    for now, cost in admitted("sliding_window", rule, start_ns, schedule):
        window, elapsed = divmod(now, rule.period_ns)
        totals[window] = totals.get(window, 0) + cost
        share = 1 - Fraction(elapsed, rule.period_ns)
        if cost:
            assert totals.get(window - 1, 0) * share + totals[window] <= rule.limit


@pytest.mark.parametrize("using", BUCKETS)
def test_three_a_second_is_three_thousand_million_in_a_thousand_million_seconds(using: str) -> None:
    clock = VirtualClock(now_ns=0)
    store = MemoryStore(clock=clock)
    throttle = Throttled(using=using, quota=per_sec(3, burst=10**12), store=store)
    assert throttle.limit("key", 10**12)
    clock.advance(10**9)
    assert throttle.peek("key").remaining == 3 * 10**9
    assert not throttle.limit("key", 3 * 10**9 + 1)
    assert throttle.limit("key", 3 * 10**9)
    assert not throttle.limit("key")


@pytest.mark.parametrize("using", BUCKETS)
@pytest.mark.parametrize("limit", [3, 7, 13, 997])
def test_a_client_that_comes_when_told_drifts_by_less_than_a_nanosecond(
    using: str, limit: int
) -> None:
    """Tens of thousands of roundings must not add up: call n is admitted at the ceiling of n*T."""
    burst, calls = 2, 20_000
    quota, now = per_sec(limit, burst=burst), 0
    state: bytes | None = None
    for call in range(calls):
        now = max(0, math.ceil(Fraction((call - burst + 1) * SECOND, limit)))
        if now:
            _, early = step(state, quota, 1, now - 1, using=using)
            assert early.limited, f"call {call} was admitted a nanosecond early"
        state, result = step(state, quota, 1, now, using=using)
        assert not result.limited, f"call {call} was denied at its instant"


@pytest.mark.parametrize("using", BUCKETS)
@given(
    rule=small_rules.filter(lambda rule: rule.burst >= 2),
    gaps=st.lists(st.integers(0, 4), min_size=20, max_size=60),
)
def test_a_bucket_that_is_kept_busy_is_not_starved(using: str, rule: Rule, gaps: list[int]) -> None:
    """A client that asks at least once an interval gets all that drips in, but for one call on its
    way.
    """
    throttle, clock = limiter(using, rule)
    took = 0
    for gap in gaps:
        clock.advance(ns=gap * rule.period_ns // rule.limit // 4)
        while throttle.limit("key"):
            took += 1
    assert took >= math.floor(rule.burst + clock.now_ns / rule.interval) - 1
    assert throttle.peek("key").remaining == 0


# What a client gets in each of many periods when it comes whenever it is told to. A sliding window
# of 7 gives 6: the seventh fits only when nothing at all is left of the window before.
IN_A_PERIOD = dict.fromkeys(USINGS, 7) | {"sliding_window": 6}


@pytest.mark.parametrize("using", USINGS)
def test_a_saturated_key_gets_its_whole_quota_over_a_thousand_periods(using: str) -> None:
    rule = Rule(limit=7, period_ns=10**9, burst=7)
    throttle, clock = limiter(using, rule)
    took = 0
    while clock.now_ns < 1000 * 10**9:
        result = throttle.limit("key")
        if result:
            took += 1
        else:
            clock.advance(ns=max(1, math.ceil(result.state.retry_after * SECOND)))
    least = IN_A_PERIOD[using] * 1000
    assert least - 1 <= took <= least + 7


@given(rule=small_rules, steps=st.integers(20, 200))
def test_a_fixed_window_gives_all_of_its_limit_in_every_window(rule: Rule, steps: int) -> None:
    throttle, clock = limiter("fixed_window", rule)
    took = 0
    for _ in range(steps):
        while throttle.limit("key"):
            took += 1
        clock.advance(ns=rule.period_ns // 3)
    assert took == rule.limit * ((steps - 1) * (rule.period_ns // 3) // rule.period_ns + 1)


@pytest.mark.parametrize("using", ["gcra", "sliding_window", "fixed_window"])
@given(rule=small_rules, start_ns=instants, schedule=schedules, cost=st.integers(1, 12))
def test_asking_again_after_retry_after_succeeds_and_a_nanosecond_earlier_fails(
    using: str, rule: Rule, start_ns: int, schedule: list[Move], cost: int
) -> None:
    assume(using != "fixed_window" or rule.period_ns < SECOND)
    assume(start_ns < 10**15)  # a float of seconds still tells nanoseconds
    throttle, clock = limiter(using, rule, start_ns)
    now, result = start_ns, None
    for move in schedule:
        now = move.instant(now, rule, None)
        clock.set(now)
        throttle.limit("key", move.cost(rule, None, 1))
    result = throttle.limit("key", cost)
    if result or math.isinf(result.state.retry_after):
        return
    wait_ns = round(result.state.retry_after * SECOND)
    assert wait_ns > 0
    clock.set(now + wait_ns - 1)
    assert not throttle.limit("key", cost), "admitted a nanosecond before retry_after"
    clock.set(now + wait_ns)
    assert throttle.limit("key", cost), "denied after retry_after"


@pytest.mark.parametrize("using", USINGS)
@given(rule=small_rules, start_ns=st.integers(0, 10**15), costs=st.lists(st.integers(1, 12)))
def test_a_rounded_retry_after_is_late_by_less_than_its_rounding(
    using: str, rule: Rule, start_ns: int, costs: list[int]
) -> None:
    throttle, clock = limiter(using, rule, start_ns)
    for cost in costs:
        throttle.limit("key", cost)
    result = throttle.limit("key", 3)
    if result or math.isinf(result.state.retry_after):
        return
    wait_ns = round(result.state.retry_after * SECOND)
    grain = min(SECOND, math.ceil(rule.interval)) if using in BUCKETS else SECOND
    if wait_ns > grain + 1:
        clock.set(start_ns + wait_ns - grain - 1)
        assert not throttle.limit("key", 3)
    clock.set(start_ns + wait_ns)
    assert throttle.limit("key", 3)


@pytest.mark.parametrize("using", USINGS)
@given(rule=small_rules, start_ns=st.integers(0, 10**15), costs=st.lists(st.integers(1, 12)))
def test_after_reset_after_a_key_is_as_good_as_new(
    using: str, rule: Rule, start_ns: int, costs: list[int]
) -> None:
    throttle, clock = limiter(using, rule, start_ns)
    for cost in costs:
        throttle.limit("key", cost)
    reset_ns = math.ceil(throttle.peek("key").reset_after * SECOND)
    clock.set(start_ns + reset_ns)
    used, fresh = throttle.peek("key"), throttle.peek("another key")
    assert used == fresh
    assert used.remaining == used.limit


def test_a_fixed_window_turns_at_the_epoch_s_multiples() -> None:
    throttle, clock = limiter("fixed_window", Rule(1, 60 * SECOND, 1), 59 * SECOND)
    assert throttle.limit("key")
    assert throttle.limit("key").state.retry_after == 1
    clock.advance(1)
    assert throttle.limit("key")
    assert throttle.limit("key").state.retry_after == 60


def test_the_documents_values_are_printed() -> None:
    throttle, _ = limiter("token_bucket", Rule(1, 60 * SECOND, 1))
    throttle.limit("key")
    assert throttle.limit("key").state.retry_after == 60
    throttle, _ = limiter("token_bucket", Rule(60, 60 * SECOND, 60))
    assert repr(throttle.limit("key").state) == (
        "RateLimitState(limit=60, remaining=59, reset_after=1, retry_after=0)"
    )
    throttle, _ = limiter("token_bucket", Rule(100, SECOND, 1))
    throttle.limit("key")
    assert throttle.limit("key").state.retry_after == 0.01


def test_a_request_that_one_rule_denies_costs_the_others_nothing() -> None:
    clock = VirtualClock()
    hour = Rule(1, 3600 * SECOND, 1).period
    quota = [per_sec(1), per_duration(hour, 3)]
    throttle = Throttled(using="fixed_window", quota=quota, store=MemoryStore(clock=clock))
    for _ in range(3):
        assert throttle.limit("key")
        for _ in range(50):
            assert not throttle.limit("key")
        clock.advance(1)
    denied = throttle.limit("key")
    assert not denied
    assert denied.state.limit == 3
    assert denied.state.retry_after == 3597

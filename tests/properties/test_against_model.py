"""Every algorithm, held against the model in exact rationals, decision by decision and field by
field.

The same schedule goes through three homes of the arithmetic: `Throttled` on a memory store in
virtual time, `algorithms.step` on bytes, and the model. They must agree on every field of every
report.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from headway import MemoryStore, Quota, Rate, RateLimitState, Throttled, VirtualClock
from headway.algorithms import step
from headway.exceptions import DataError
from reference.model import LONGEST_REPORT_NS, Model, Report, Rule
from reference.strategies import (
    LAST_INSTANT_NS,
    USINGS,
    Move,
    instants,
    rules,
    schedules,
    several_rules,
    wide_rules,
)

STATE_BYTES = 32


def quota_of(rule: Rule) -> Quota:
    return Quota(Rate(rule.period, rule.limit), rule.burst)


def assert_same(got: RateLimitState, limited: bool, want: Report, where: str) -> None:
    """All fields; times to within the last bit of a float, and never early by as much as a
    nanosecond.
    """
    said = f"{where}: got limited={limited}, {got}; the model says {want}"
    assert limited is not want.allowed, said
    assert (got.limit, got.remaining) == (want.limit, want.remaining), said
    for seconds, expected in (
        (got.reset_after, want.reset_after),
        (got.retry_after, want.retry_after),
    ):
        assert math.isclose(seconds, expected, rel_tol=4e-16, abs_tol=0), said


def play(using: str, quotas: Sequence[Rule], start_ns: int, schedule: Sequence[Move]) -> None:
    """Runs one schedule through all three homes."""
    model = Model(using, quotas)
    clock = VirtualClock(now_ns=start_ns)
    quota = [quota_of(rule) for rule in quotas]
    throttle = Throttled(using=using, quota=quota, store=MemoryStore(clock=clock))
    state: bytes | None = None
    now, cost, last = start_ns, 0, None
    for number, move in enumerate(schedule):
        rule = quotas[move.ask_for % len(quotas)]
        now = move.instant(now, rule, last)
        clock.set(now)
        cost = move.cost(rule, last, cost)
        last = model.limit(now, cost)
        where = f"call {number}, {using}, cost {cost} at {now} ns"

        result = throttle.limit("key", cost)
        assert_same(result.state, result.limited, last, where)
        assert bool(result) is last.allowed

        state, stepped = step(state, quota, cost, now, using=using)
        assert_same(stepped.state, stepped.limited, last, "step, " + where)
        assert len(state) <= STATE_BYTES * len(quotas)

        seen = throttle.peek("key")
        assert_same(seen, False, model.peek(now), "peek after " + where)


@pytest.mark.parametrize("using", USINGS)
@given(rule=rules, start_ns=instants, schedule=schedules)
def test_one_rule_decides_as_the_model_does(
    using: str, rule: Rule, start_ns: int, schedule: list[Move]
) -> None:
    play(using, [rule], start_ns, schedule)


@pytest.mark.parametrize("using", USINGS)
@given(quotas=several_rules, start_ns=instants, schedule=schedules)
def test_several_rules_all_admit_or_none_is_touched(
    using: str, quotas: list[Rule], start_ns: int, schedule: list[Move]
) -> None:
    play(using, quotas, start_ns, schedule)


EXTREMES = [
    Rule(limit, period_ns, burst)
    for limit in (1, 10**12)
    for period_ns in (1000, 3650 * 86_400 * 10**9)
    for burst in (0, 1, 10**12)
]


@pytest.mark.parametrize("using", USINGS)
@pytest.mark.parametrize("rule", EXTREMES, ids=str)
def test_the_corners_of_the_bounds_are_exact(using: str, rule: Rule) -> None:
    schedule = [
        Move("stay", 0, "exactly", cost) for cost in (0, 1, 1, rule.limit, rule.burst, 10**12)
    ]
    schedule += [Move("retry", nudge, "part", 7) for nudge in (0, 1, 2)]
    schedule += [Move("reset", nudge, "burst", 1) for nudge in (0, 1, 2)]
    for start_ns in (0, 1_700_000_000 * 10**9, LAST_INSTANT_NS):
        play(using, [rule], start_ns, schedule)


@pytest.mark.parametrize("using", USINGS)
@given(rule=wide_rules, start_ns=instants)
@example(rule=Rule(3, 10**9, 3), start_ns=0)
def test_a_denial_changes_no_byte_of_a_state(using: str, rule: Rule, start_ns: int) -> None:
    quota = quota_of(rule)
    state, _ = step(None, quota, max(1, min(rule.limit, rule.burst) // 2), start_ns, using=using)
    after, result = step(state, quota, max(rule.limit, rule.burst) + 1, start_ns, using=using)
    assert result.limited
    assert math.isinf(result.state.retry_after)
    assert after == state
    after, result = step(state, quota, 0, start_ns, using=using)
    assert not result.limited
    assert after == state


@pytest.mark.parametrize("using", USINGS)
@given(
    rule=rules,
    calls=st.lists(st.tuples(instants, st.integers(0, 10**12)), max_size=20),
)
def test_a_step_at_an_earlier_instant_still_reports_within_bounds(
    using: str, rule: Rule, calls: list[tuple[int, int]]
) -> None:
    """A store of the user's own may be read by machines whose clocks differ."""
    state: bytes | None = None
    for now, cost in calls:
        state, result = step(state, quota_of(rule), cost, now, using=using)
        told = result.state
        assert 0 <= told.remaining <= told.limit
        assert told.reset_after >= 0
        assert (told.retry_after > 0) is result.limited


@pytest.mark.parametrize("using", USINGS)
@given(data=st.binary(max_size=80), rule=rules, now=instants, cost=st.integers(0, 10**12))
def test_any_bytes_as_a_state_are_refused_or_read_within_bounds(
    using: str, data: bytes, rule: Rule, now: int, cost: int
) -> None:
    try:
        state, result = step(data, quota_of(rule), cost, now, using=using)
    except DataError:
        return
    assert 0 <= result.state.remaining <= result.state.limit
    assert len(state) <= STATE_BYTES


def test_reports_stop_at_the_longest_that_they_can_say() -> None:
    throttle = Throttled(
        using="gcra",
        quota=Quota(Rate(Rule(1, 3650 * 86_400 * 10**9, 1).period, 1), 10**12),
        store=MemoryStore(clock=VirtualClock(now_ns=0)),
    )
    state = throttle.limit("key", 10**12).state
    assert state.remaining == 0
    assert state.reset_after == pytest.approx(LONGEST_REPORT_NS / 1e9)

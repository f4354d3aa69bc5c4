"""A SQLiteStore decides as the core does, field by field; and its keys are named as on Redis."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import given, settings

from effort import examples
from headway import MemoryStore, Quota, Rate, SQLiteStore, Throttled, VirtualClock
from headway.algorithms import expires_ns, step
from headway.exceptions import StoreUnavailableError
from reference.model import Model, Rule
from reference.strategies import USINGS, Move, instants, rules, schedules, several_rules

HOUR_NS = 3600 * 10**9


def play(using: str, quotas: Sequence[Rule], start_ns: int, schedule: Sequence[Move]) -> None:
    """Runs one schedule through a file, through memory and through the model."""
    clock = VirtualClock(now_ns=start_ns)
    quota = [Quota(Rate(rule.period, rule.limit), rule.burst) for rule in quotas]
    file = SQLiteStore(":memory:", clock=clock)
    here = Throttled(using=using, quota=quota, store=file)
    there = Throttled(using=using, quota=quota, store=MemoryStore(clock=clock))
    model = Model(using, quotas)
    now, cost, last = start_ns, 0, None
    for number, move in enumerate(schedule):
        rule = quotas[move.ask_for % len(quotas)]
        now = move.instant(now, rule, last)
        clock.set(now)
        cost = move.cost(rule, last, cost)
        last = model.limit(now, cost)
        got, want = here.limit("key", cost), there.limit("key", cost)
        where = f"call {number}, {using}, cost {cost} at {now} ns: {got}, {want}, {last}"
        assert got == want, where
        assert bool(got) is last.allowed, where
        assert got.state.remaining == last.remaining, where
        assert math.isclose(got.state.retry_after, last.retry_after, rel_tol=4e-16), where
        assert here.peek("key") == there.peek("key"), where
    file.close()


@pytest.mark.parametrize("using", USINGS)
@settings(max_examples=examples(40))
@given(rule=rules, start_ns=instants, schedule=schedules)
def test_one_rule_decides_as_in_memory_and_as_the_model_does(
    using: str, rule: Rule, start_ns: int, schedule: list[Move]
) -> None:
    play(using, [rule], start_ns, schedule)


@pytest.mark.parametrize("using", USINGS)
@settings(max_examples=examples(30))
@given(quotas=several_rules, start_ns=instants, schedule=schedules)
def test_several_rules_all_admit_or_none_is_touched(
    using: str, quotas: list[Rule], start_ns: int, schedule: list[Move]
) -> None:
    play(using, quotas, start_ns, schedule)


@pytest.mark.parametrize("using", USINGS)
def test_a_rule_is_shared_by_quotas_that_have_it(using: str, clock: VirtualClock) -> None:
    store = SQLiteStore(":memory:", clock=clock)
    one = Throttled(using=using, quota="5/m; 100/h", store=store)
    other = Throttled(using=using, quota="5/m; 200/h", store=store)
    assert [bool(one.limit("key")) for _ in range(3)] == [True] * 3
    assert [bool(other.limit("key")) for _ in range(3)] == [True, True, False]


def test_keys_are_named_as_on_redis(clock: VirtualClock) -> None:
    store = SQLiteStore(":memory:", clock=clock)
    Throttled(using="gcra", quota="5/s", store=store).limit("käy")
    Throttled(quota="5/s; 9/m", store=store, key_prefix="mine").limit(b"}\0")
    assert sorted(store.keys()) == sorted(
        [
            "headway:v1:gcra:{käy}".encode(),
            b"mine:v1:token_bucket:{\\}\0}:1000000us#0",
            b"mine:v1:token_bucket:{\\}\0}:60000000us#0",
        ]
    )


@pytest.mark.parametrize("using", USINGS)
def test_what_is_kept_is_what_the_pure_step_makes(using: str, clock: VirtualClock) -> None:
    store = SQLiteStore(":memory:", clock=clock)
    Throttled(using=using, quota="5/s", store=store).limit("key", 2)
    state, _ = step(None, "5/s", 2, clock.now_ns, using=using)
    assert store.get(store.keys()[0]) == state


@pytest.mark.parametrize("using", USINGS)
def test_a_state_is_gone_when_it_says_nothing_any_more(using: str, clock: VirtualClock) -> None:
    store = SQLiteStore(":memory:", clock=clock)
    Throttled(using=using, quota="5/s", store=store).limit("key", 2)
    (key,) = store.keys()
    state = store.get(key)
    assert state is not None
    clock.set(expires_ns(state) - 1)
    assert store.get(key) == state
    clock.advance(ns=1)
    assert store.get(key) is None


def test_reset_forgets_all_rules_of_a_key(clock: VirtualClock) -> None:
    store = SQLiteStore(":memory:", clock=clock)
    limiter = Throttled(quota="2/m; 2/h", store=store)
    assert [bool(limiter.limit("key")) for _ in range(3)] == [True, True, False]
    limiter.limit("other")
    limiter.reset("key")
    assert limiter.peek("key").remaining == 2
    assert limiter.peek("other").remaining == 1


def test_a_denied_call_writes_nothing(tmp_path: Path) -> None:
    store = SQLiteStore(tmp_path / "x.db")
    limiter = Throttled(quota="1/h", store=store)
    limiter.limit("key")
    before = store.get(store.keys()[0])
    assert not limiter.limit("key")
    assert not limiter.limit("key", 5)
    assert store.get(store.keys()[0]) == before


def test_bytes_that_are_no_state_are_refused_until_reset(clock: VirtualClock) -> None:
    store = SQLiteStore(":memory:", clock=clock)
    limiter = Throttled(quota="2/h", store=store)
    limiter.limit("key")
    store.update(store.keys()[0], lambda _: (b"nonsense", None))
    with pytest.raises(StoreUnavailableError, match=r"cannot be read.*reset\(\)"):
        limiter.limit("key")
    limiter.reset("key")
    assert limiter.limit("key")


@pytest.mark.parametrize("using", ["fixed_window", "sliding_window"])
def test_a_clock_that_is_a_little_behind_counts_in_the_window_that_has_begun(using: str) -> None:
    hour = 1_700_000_000 * 10**9 // HOUR_NS * HOUR_NS
    clock = VirtualClock(now_ns=hour)
    limiter = Throttled(using=using, quota="2/h", store=SQLiteStore(":memory:", clock=clock))
    assert limiter.limit("key")
    clock.set(hour - 1000)
    assert limiter.limit("key")
    assert not limiter.limit("key")
    clock.set(hour)
    assert not limiter.limit("key")


def test_what_a_restart_finds_still_counts(tmp_path: Path) -> None:
    first = SQLiteStore(tmp_path / "x.db")
    assert Throttled(quota="3/h", store=first).limit("key", 2)
    first.close()
    again = Throttled(quota="3/h", store=SQLiteStore(tmp_path / "x.db"))
    assert again.peek("key").remaining == 1

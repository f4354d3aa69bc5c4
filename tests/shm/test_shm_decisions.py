"""Decisions in shared memory are those of MemoryStore, for every algorithm and any rules."""

from __future__ import annotations

import asyncio
import math
import secrets
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from effort import examples
from headway import (
    MemoryStore,
    Quota,
    Rate,
    SharedMemoryStore,
    StoreUnavailableError,
    Throttled,
    VirtualClock,
)
from headway._shm_store import path_of
from headway.asyncio import Throttled as AsyncThrottled
from reference.model import Model, Rule
from reference.strategies import USINGS, Move, instants, rules, schedules, several_rules

QUOTAS = ["3/s", "1/m burst 4", "5/s burst 2; 7/m", "100/500ms; 3/h burst 3; 2/10s", "1/3650d"]
START_NS = 1_700_000_003 * 10**9

calls = st.tuples(
    st.sampled_from(["limit", "limit", "limit", "peek", "reset"]),
    st.sampled_from(["a", "b", "ein längerer Schlüssel " * 9]),
    st.integers(0, 5),
    st.integers(0, 40) | st.integers(0, 10_000),  # milliseconds that pass before it
)


def play(using: str, quotas: Sequence[Rule], start_ns: int, schedule: Sequence[Move]) -> None:
    """Run one schedule through shared memory and through the model."""
    name = f"test-{secrets.token_hex(8)}"
    clock = VirtualClock(now_ns=start_ns)
    quota = [Quota(Rate(rule.period, rule.limit), rule.burst) for rule in quotas]
    limiter = Throttled(
        using=using, quota=quota, store=SharedMemoryStore(name, size="128K", clock=clock)
    )
    path_of(name).unlink()
    model = Model(using, quotas)
    now, cost, last = start_ns, 0, None
    for number, move in enumerate(schedule):
        rule = quotas[move.ask_for % len(quotas)]
        now = move.instant(now, rule, last)
        clock.set(now)
        cost = move.cost(rule, last, cost)
        last = model.limit(now, cost)
        got = limiter.limit("key", cost)
        where = f"call {number}, {using}, cost {cost} at {now} ns: {got}, {last}"
        assert bool(got) is last.allowed, where
        assert got.state.remaining == last.remaining, where
        assert math.isclose(got.state.retry_after, last.retry_after, rel_tol=4e-16), where


@pytest.mark.parametrize("using", USINGS)
@settings(max_examples=examples(60))
@given(rule=rules, start_ns=instants, schedule=schedules)
def test_one_rule_decides_as_the_model_does(
    using: str, rule: Rule, start_ns: int, schedule: list[Move]
) -> None:
    play(using, [rule], start_ns, schedule)


@pytest.mark.parametrize("using", USINGS)
@settings(max_examples=examples(40))
@given(quotas=several_rules, start_ns=instants, schedule=schedules)
def test_several_rules_all_admit_or_none_is_touched(
    using: str, quotas: list[Rule], start_ns: int, schedule: list[Move]
) -> None:
    play(using, quotas, start_ns, schedule)


@given(st.sampled_from(USINGS), st.sampled_from(QUOTAS), st.lists(calls, max_size=40))
def test_decisions_agree_with_those_in_memory(
    using: str, quota: str, plays: list[tuple[str, str, int, int]]
) -> None:
    name = f"test-{secrets.token_hex(8)}"
    clock = VirtualClock(now_ns=START_NS)
    shared = Throttled(
        using=using, quota=quota, store=SharedMemoryStore(name, size="128K", clock=clock)
    )
    memory = Throttled(using=using, quota=quota, store=MemoryStore(clock=clock))
    path_of(name).unlink()
    for what, key, cost, pause in plays:
        clock.advance(pause / 1000)
        if what == "limit":
            assert shared.limit(key, cost) == memory.limit(key, cost)
        elif what == "peek":
            assert shared.peek(key) == memory.peek(key)
        else:
            assert shared.reset(key) == memory.reset(key)
    assert len(shared.store) == len(memory.store)  # type: ignore[arg-type]


@pytest.mark.parametrize("using", USINGS)
def test_tasks_decide_as_threads_do(using: str, name: str) -> None:
    store = SharedMemoryStore(name, size="128K")
    limiter = AsyncThrottled("key", using=using, quota="5/1000h", store=store)

    async def main() -> list[Any]:
        results = [await limiter.limit() for _ in range(7)]
        return [[bool(result) for result in results], (await limiter.peek()).remaining]

    assert asyncio.run(main()) == [[True] * 5 + [False] * 2, 0]


def test_keys_of_other_prefixes_and_algorithms_are_other_keys(name: str) -> None:
    store = SharedMemoryStore(name, size="128K")
    for using in USINGS:
        for prefix in ("one", "two"):
            limiter = Throttled("k", using=using, quota="1/h", store=store, key_prefix=prefix)
            assert limiter.limit()
            assert not limiter.limit()


def test_a_correction_gives_back_and_charges(name: str) -> None:
    limiter = Throttled("k", quota="10/h", store=SharedMemoryStore(name, size="128K"))
    assert limiter.limit(cost=4)
    assert limiter._settle("k", 0, 3)
    assert limiter.peek().remaining == 9
    assert limiter._settle("k", 0, -20)
    assert limiter.peek().remaining == 0
    assert limiter._settle("new", 0, -1)
    assert limiter.peek("new").remaining == 9


def test_a_flood_of_fresh_keys_does_not_set_a_limited_key_free(
    name: str, caplog: pytest.LogCaptureFixture
) -> None:
    store = SharedMemoryStore(name, size="128K")
    limiter = Throttled(quota="3/h", store=store)
    while limiter.limit("limited"):
        pass
    for i in range(4 * store.capacity):
        assert limiter.limit(f"fresh-{i}")
    assert not limiter.limit("limited")
    assert store.evictions >= 3 * store.capacity
    assert len(store) <= store.capacity
    assert [r.message for r in caplog.records if "is full" in r.message][1:] == []
    assert any(name in r.message for r in caplog.records)


def test_a_full_store_denies_or_raises_where_it_is_told_to(name: str) -> None:
    denying = SharedMemoryStore(name, size="128K", on_full="deny")
    limiter = Throttled(quota="3/h", store=denying)
    results = [limiter.limit(f"k{i}") for i in range(4 * denying.capacity)]
    assert any(r.limited for r in results)
    assert denying.evictions == 0
    denied = next(r for r in results if r.limited)
    assert 0 < denied.state.retry_after <= 3600
    raising = Throttled(quota="3/h", store=SharedMemoryStore(name, on_full="raise"))

    def flood() -> None:
        for i in range(100):
            raising.limit(f"other-{i}")

    with pytest.raises(StoreUnavailableError, match="is full"):
        flood()
    patient = Throttled(quota="3/h", store=denying, timeout=0.01)
    assert any(patient.limit(f"patient-{i}").limited for i in range(100))


def test_entries_say_what_there_is_of_each_key(name: str) -> None:
    store = SharedMemoryStore(name, size="128K")
    limiter = Throttled(quota="2/h", store=store, using="gcra")
    results = [bool(limiter.limit("k")) for _ in range(5)]
    long = "ü" * 100
    limiter.limit(long)
    entries = {entry.key: entry for entry in store.entries()}
    assert (entries["k"].admitted, entries["k"].denied) == (2, 3)
    assert (entries["k"].using, entries["k"].quota) == ("gcra", limiter.quota)
    assert entries["k"].whole
    assert entries["k"].state.remaining == 0
    cut = next(entry for entry in entries.values() if not entry.whole)
    assert long.startswith(cut.key)
    assert len(cut.key) == 36
    assert results == [True, True, False, False, False]


def test_counts_of_a_key_do_not_wrap(name: str) -> None:
    store = SharedMemoryStore(name, size="128K")
    limiter = Throttled("k", quota="10000000/h", store=store)
    for cost in (65535, 1, 70000, 65534):
        assert limiter.limit(cost=cost)
    for _ in range(70_000):
        limiter.limit(cost=10_000_000)
    (entry,) = store.entries()
    assert (entry.admitted, entry.denied) == (201_070, 70_000)

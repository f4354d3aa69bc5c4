"""Which limit should I set? The smallest, and exactly so."""

from __future__ import annotations

import re
from array import array
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from made_logs import BASE, log_line

from headway.replay.demand import Schedules
from headway.replay.suggest import PERIODS, suggest

Write = Callable[..., str]
Report = Callable[..., Any]

ALGORITHMS = ("token_bucket", "leaking_bucket", "gcra", "fixed_window", "sliding_window")
SECOND = 10**9


def denied_by(quota: str, using: str, requests: list[tuple[int, int]]) -> int:
    """How many of the (time, cost) a limiter of its own denies."""
    from headway import MemoryStore, Throttled, VirtualClock

    clock = VirtualClock(now_ns=0)
    limiter = Throttled(quota=quota, using=using, store=MemoryStore(clock=clock))
    denied = 0
    for now, cost in requests:
        clock.set(now)
        denied += not limiter.limit("k", cost)
    return denied


@given(
    gaps=st.lists(
        st.tuples(
            st.one_of(
                st.sampled_from([0, 1, SECOND // 3, SECOND, 60 * SECOND]),
                st.integers(0, 5 * SECOND),
                st.integers(0, 4000 * SECOND),
            ),
            st.integers(0, 5),
        ),
        min_size=1,
        max_size=40,
    ),
    using=st.sampled_from(ALGORITHMS),
    same_cost=st.booleans(),
)
def test_the_smallest_limit_denies_nothing_and_one_less_does(
    gaps: list[tuple[int, int]], using: str, same_cost: bool
) -> None:
    now, requests = BASE * SECOND, []
    for gap, cost in gaps:
        now += gap
        requests.append((now, 1 if same_cost else cost))
    schedules = Schedules()
    schedules.times[b"k"] = array("q", [time for time, _ in requests])
    if not same_cost:
        schedules.costs[b"k"] = array("q", [cost for _, cost in requests])
    found = suggest(schedules, using=using)
    assert found is not None
    for unit, limits in found.limits.items():
        (limit,) = limits
        assert denied_by(f"{limit}/{unit}", using, requests) == 0
        if limit > 1:
            assert denied_by(f"{limit - 1}/{unit}", using, requests) > 0


@pytest.mark.parametrize("using", ALGORITHMS)
def test_what_is_offered_holds_when_it_is_tried(using: str, write: Write, report: Report) -> None:
    lines = [log_line(i * i % 4000 // 5 * 5, f"10.0.0.{i * i % 61}") for i in range(1500)]
    lines.sort(key=lambda line: re.findall(r"\[.*\]", line))
    path = write(lines)
    offered = report(path, "--using", using)
    quotas = [offer["quota"] for offer in offered["suggestions"]]
    tried = report(
        path, "--using", using, *(word for quota in quotas for word in ("--quota", quota))
    )
    assert len(quotas) == 15
    for offer, quota in zip(offered["suggestions"], tried["quotas"], strict=True):
        assert offer["quota"] == quota["quota"]
        assert offer["clients_denied"] == quota["clients_limited"]
        assert offer["requests_denied"] == quota["denied"]
        assert 100 - offer["clients_denied_percent"] >= offer["percentile"]
    nobody = report(path, "--using", using, "--quota", offered["denying_nobody"])
    assert nobody["quotas"][0]["denied"] == 0


def test_percentiles_are_of_clients_by_nearest_rank(write: Write, report: Report) -> None:
    # Client n asks n times within one second, n = 1 .. 100, all at once: its limit is n.
    lines = [log_line(0, f"10.0.0.{n}") for n in range(1, 101) for _ in range(n)]
    result = report(write(lines), "--no-spread")
    assert [(o["percentile"], o["quota"], o["clients_denied"]) for o in result["suggestions"]] == [
        (50.0, "50/s", 50),
        (90.0, "90/s", 10),
        (99.0, "99/s", 1),
        (99.9, "100/s", 0),
        (100.0, "100/s", 0),
    ]
    assert result["suggestions"][2]["requests_denied"] == 1
    assert result["denying_nobody"] == "100/s"
    assert result["quotas"] == []


def test_periods_longer_than_the_log_are_not_offered(write: Write, report: Report) -> None:
    for last, units in ((59, "s"), (60, "sm"), (3599, "sm"), (3600, "smh")):
        result = report(write([log_line(0), log_line(last)]))
        assert {offer["quota"][-1] for offer in result["suggestions"]} == set(units)
    assert list(PERIODS) == ["s", "m", "h"]


def test_the_table_can_be_read_and_pasted(write: Write, replay: Callable[..., Any]) -> None:
    path = write([log_line(i * 10, f"10.0.0.{i % 3}") for i in range(800)])
    shown = replay(path)
    assert shown.code == 0
    assert "Which limit should I set?" in shown.out
    assert re.search(r"^99.9 % of clients +1/s +nobody +2/m +nobody", shown.out, re.MULTILINE)
    pasted = re.search(r'--quota "([^"]+)"', shown.out)
    assert pasted is not None
    assert "would have denied nothing." in replay(path, "--quota", pasted[1]).out

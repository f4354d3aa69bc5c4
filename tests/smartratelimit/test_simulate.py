"""A workload and budgets in, times and waits out.

The numbers of `SCENARIOS` are what smartratelimit 0.5.1 computes, rounded. Where it counts one wait
more, of some 1e-15 s that its floats leave over, the exact count stands here and a comment says so.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from datetime import timedelta
from fractions import Fraction
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headway.exceptions import BaseThrottledError
from headway.smartratelimit.simulate import Budget, SimulationError, SimulationResult, simulate

SECOND, MINUTE = timedelta(seconds=1), timedelta(minutes=1)
HOUR, DAY = timedelta(hours=1), timedelta(days=1)

RPM_60 = Budget("requests", 60, MINUTE)


@dataclass
class Scenario:
    budgets: list[Budget]
    requests: int
    workers: int
    keys: int
    latency: float
    wall: float
    rps: float | None
    throttled: int
    waited: float
    binding: str | None
    burst: bool
    completed: bool
    utilisation: list[float]
    blocked: list[int]


LLM = [Budget("requests", 500, MINUTE), Budget("tokens", 100_000, MINUTE, 2000.0)]
SCENARIOS = {
    "one budget": Scenario(
        *([RPM_60], 200, 1, 1, 0.0),
        *(140.0, 1.428571, 140, 140.0, "requests", True, True, [1.428571], [140]),
    ),
    "within the burst": Scenario(
        *([RPM_60], 40, 1, 1, 0.0),
        *(0.0, None, 0, 0.0, None, False, True, [0.666667], [0]),
    ),
    "tokens bind before requests": Scenario(
        *(LLM, 300, 4, 1, 0.3),
        *(300.0, 1.0, 247, 296.1, "tokens", True, True, [0.12, 1.2], [0, 247]),
    ),
    "several keys": Scenario(
        *(LLM, 300, 4, 3, 0.7),
        *(70.9, 4.231312, 85, 33.3, "tokens", True, True, [0.169252, 1.692525], [0, 85]),
    ),
    "workers are the bottleneck": Scenario(
        *([RPM_60], 100, 2, 1, 2.5),
        *(122.5, 0.816327, 0, 0.0, None, False, True, [0.816327], [0]),
    ),
    "half a unit a request, and a budget that nobody spends": Scenario(
        [Budget("requests", 5000, HOUR), Budget("s", 30, MINUTE, 0.5), Budget("f", 10, MINUTE, 0)],
        *(500, 8, 2, 0.9),
        *(194.0, 2.57732, 356, 178.5, "s", True, True, [0.05, 1.28866], [0, 356]),  # 357 there
    ),
    "a part of a window": Scenario(
        *([Budget("requests", 50, HOUR)], 40, 1, 1, 0.1),
        *(3.9, 10.25641, 0, 0.0, None, False, True, [0.8], [0]),
    ),
    "each of two budgets holds some back": Scenario(
        *([Budget("daily", 100, DAY), RPM_60], 150, 1, 1, 0.0),
        *(43200.0, 0.003472, 90, 43200.0, "daily", True, True, [1.5, 0.003472], [50, 40]),
    ),
    "rates that no float holds": Scenario(
        [Budget("a", 7, timedelta(seconds=3)), Budget("b", 11, timedelta(seconds=5), 1.5)],
        *(1000, 3, 2, 0.05),
        *(336.00909, 2.97611, 986, 335.80909, "b", True, True, [0.637738, 1.014583], [0, 986]),
    ),
    "the horizon is not enough": Scenario(
        *([Budget("requests", 10, 2 * DAY)], 30, 1, 1, 0.0),
        *(103680.0, 0.000154, 6, 103680.0, "requests", True, False, [1.6], [6]),
    ),
}


@pytest.mark.parametrize("scenario", SCENARIOS.values(), ids=SCENARIOS)
def test_a_scenario_comes_out_as_in_the_release(scenario: Scenario) -> None:
    result = simulate(
        scenario.budgets, scenario.requests, scenario.workers, scenario.keys, scenario.latency
    )

    assert result.wall_seconds == pytest.approx(scenario.wall, abs=1e-5)
    if scenario.rps is None:
        assert result.achieved_rps is None
    else:
        assert result.achieved_rps == pytest.approx(scenario.rps, abs=1e-6)
    assert result.total_wait_seconds == pytest.approx(scenario.waited, abs=1e-5)
    assert [b.utilisation for b in result.budgets] == pytest.approx(scenario.utilisation, abs=1e-6)
    assert [b.blocked for b in result.budgets] == scenario.blocked
    assert (result.throttled, result.binding, result.burst_affected, result.completed) == (
        scenario.throttled,
        scenario.binding,
        scenario.burst,
        scenario.completed,
    )


def test_a_result_tells_everything_of_each_budget() -> None:
    result = simulate(LLM, 300, workers=4, keys=2, latency=0.3)
    tokens = result.budget("tokens")

    assert tokens is not None
    assert (tokens.name, tokens.limit, tokens.window, tokens.cost) == (
        *("tokens", 100_000),
        *(MINUTE, 2000.0),
    )
    assert tokens.ceiling_rps == pytest.approx(2 * 100_000 / 60 / 2000)
    assert tokens.achieved_per_window == pytest.approx(2000 * 300 / (result.wall_seconds / 60))
    assert [(b.name, b.binding) for b in result.budgets] == [("requests", False), ("tokens", True)]
    assert result.concurrency_ceiling_rps == pytest.approx(4 / 0.3)
    assert (result.requests, result.workers, result.keys) == (300, 4, 2)
    assert result.budget("images") is None


def test_shares_and_means_are_over_those_that_waited() -> None:
    result = simulate([RPM_60], 80)
    assert result.throttled_fraction == 0.25
    assert result.mean_wait_seconds == 1.0
    assert simulate([RPM_60], 10).mean_wait_seconds == 0.0


def test_a_budget_tells_its_rates() -> None:
    budget = Budget("tokens", 100_000, MINUTE, 2000.0)
    assert budget.refill_rate == pytest.approx(1666.6667)
    assert budget.ceiling_rps == pytest.approx(0.8333333)
    assert Budget("free", 1, MINUTE, 0).ceiling_rps == math.inf


def test_two_budgets_of_one_rate_are_both_the_tightest() -> None:
    result = simulate([Budget("a", 3, SECOND), Budget("b", 180, MINUTE)], 10)
    assert [b.binding for b in result.budgets] == [True, True]


def test_of_two_budgets_that_are_alike_the_first_holds_back() -> None:
    result = simulate([Budget("a", 3, SECOND), Budget("b", 3, SECOND)], 10)
    assert [b.blocked for b in result.budgets] == [7, 0]
    assert result.binding == "a"


def test_a_run_in_which_all_is_free_takes_no_time() -> None:
    result = simulate([Budget("free", 1, MINUTE, 0)], 1000)
    assert (result.wall_seconds, result.budgets, result.binding) == (0.0, [], None)


def test_a_long_run_does_not_drift() -> None:
    # 3 a second: the interval is no whole number of nanoseconds, and no float.
    result = simulate([Budget("requests", 3, SECOND)], 30_003, horizon=math.inf)
    assert result.wall_seconds == 10_000.0
    assert result.total_wait_seconds == 10_000.0


def test_a_tenth_is_a_tenth() -> None:
    result = simulate([Budget("units", 1, SECOND, 0.1)], 10)
    assert result.throttled == 0
    assert simulate([Budget("units", 1, SECOND, 0.1)], 11).wall_seconds == 0.1


def test_waits_of_years_are_long_enough_to_the_nanosecond() -> None:
    # As seconds in a float such a wait is off by more than a nanosecond.
    window = timedelta(days=3087, seconds=32170, microseconds=508201)
    result = simulate([Budget("requests", 3, window)], 30, horizon=math.inf)
    assert result.wall_seconds == pytest.approx(9 * window.total_seconds(), rel=1e-15)


@pytest.mark.slow
def test_a_million_requests_are_done_within_a_test() -> None:
    result = simulate([Budget("requests", 6000, MINUTE)], 10**6, workers=50, latency=0.3)
    assert result.wall_seconds == pytest.approx(9940.0, abs=1)


def exactly(
    budgets: list[Budget], requests: int, workers: int, keys: int, latency: Fraction
) -> tuple[Fraction, int, Fraction]:
    """The same in fractions and by brute force: end, requests held back, time waited."""
    tokens = [[Fraction(b.limit) for b in budgets] for _ in range(keys)]
    at = [Fraction(0)] * keys
    free = [Fraction(0)] * workers
    now = waited = Fraction(0)
    held = 0
    for _ in range(requests):
        worker = min(range(workers), key=lambda i: free[i])
        now = max(now, free[worker])
        waits = []
        for k in range(keys):
            for i, b in enumerate(budgets):
                rate = Fraction(b.limit) / Fraction(b.window // timedelta(microseconds=1), 10**6)
                tokens[k][i] = min(Fraction(b.limit), tokens[k][i] + (now - at[k]) * rate)
            at[k] = now
            needed = [
                (Fraction(str(b.cost)) - tokens[k][i])
                / (Fraction(b.limit) / Fraction(b.window // timedelta(microseconds=1), 10**6))
                for i, b in enumerate(budgets)
            ]
            waits.append(max(Fraction(0), *needed))
        key = min(range(keys), key=lambda k: waits[k])
        if waits[key] > 0:
            held += 1
            waited += waits[key]
            now += waits[key]
        for i, b in enumerate(budgets):
            rate = Fraction(b.limit) / Fraction(b.window // timedelta(microseconds=1), 10**6)
            tokens[key][i] = min(Fraction(b.limit), tokens[key][i] + (now - at[key]) * rate)
            tokens[key][i] -= Fraction(str(b.cost))
        at[key] = now
        free[worker] = now + latency
    return now, held, waited


BUDGETS = st.lists(
    st.tuples(st.integers(1, 20), st.integers(1, 5000), st.integers(1, 40)), min_size=1, max_size=3
)


@given(BUDGETS, st.integers(1, 60), st.integers(1, 4), st.integers(1, 3), st.integers(0, 3000))
def test_it_is_what_fractions_say(
    numbers: list[tuple[int, int, int]], requests: int, workers: int, keys: int, latency_ms: int
) -> None:
    budgets = [
        Budget(f"b{i}", limit, timedelta(milliseconds=window), min(limit, tenths / 10))
        for i, (limit, window, tenths) in enumerate(numbers)
    ]
    wall, held, waited = exactly(budgets, requests, workers, keys, Fraction(latency_ms, 1000))
    result = simulate(budgets, requests, workers, keys, latency_ms / 1000)

    # Instants are whole nanoseconds, rounded up: a request is late by less than one for each key.
    assert result.wall_seconds == pytest.approx(float(wall), abs=1e-6)
    assert result.total_wait_seconds == pytest.approx(float(waited), abs=1e-6)
    # A wait of less than a nanosecond may come or go with that.
    assert abs(result.throttled - held) <= 1
    assert sum(b.blocked for b in result.budgets) == result.throttled


class TestBadInput:
    @pytest.mark.parametrize(
        ("change", "named"),
        [
            ({"requests": 0}, "requests: 0"),
            ({"requests": -1}, "requests: -1"),
            ({"requests": 1.5}, "requests: 1.5"),
            ({"requests": 10**30}, "requests: 1000"),
            ({"workers": 0}, "workers: 0"),
            ({"keys": 0}, "keys: 0"),
            ({"keys": True}, "keys: True"),
            ({"latency": -0.1}, "latency: -0.1"),
            ({"latency": math.nan}, "latency: nan"),
            ({"latency": math.inf}, "latency: inf"),
            ({"horizon": 0}, "horizon: 0"),
            ({"horizon": "1h"}, "horizon: '1h'"),
            ({"budgets": []}, "budgets: []"),
            ({"budgets": None}, "budgets: None"),
            ({"budgets": [60]}, "budget: 60"),
            ({"budgets": [RPM_60, RPM_60]}, "the only one of its name"),
            ({"budgets": [Budget("", 1, MINUTE)]}, "budget name"),
            ({"budgets": [Budget("a", 0, MINUTE)]}, "limit of 'a': 0"),
            ({"budgets": [Budget("a", math.nan, MINUTE)]}, "limit of 'a': nan"),  # type: ignore[arg-type]
            ({"budgets": [Budget("a", 10**13, MINUTE)]}, "budget 'a'"),
            ({"budgets": [Budget("a", 1, timedelta(0))]}, "window of 'a'"),
            ({"budgets": [Budget("a", 1, -MINUTE)]}, "window of 'a'"),
            ({"budgets": [Budget("a", 1, "1m")]}, "window of 'a': '1m'"),  # type: ignore[arg-type]
            ({"budgets": [Budget("a", 1, 5000 * DAY)]}, "budget 'a'"),
            ({"budgets": [Budget("a", 1, MINUTE, -1)]}, "cost of 'a': -1"),
            ({"budgets": [Budget("a", 1, MINUTE, math.inf)]}, "cost of 'a': inf"),
        ],
        ids=str,
    )
    def test_a_scenario_that_makes_no_sense_is_refused_by_name(
        self, change: dict[str, Any], named: str
    ) -> None:
        scenario: dict[str, Any] = {"budgets": [RPM_60], "requests": 1, **change}
        with pytest.raises(SimulationError) as raised:
            simulate(**scenario)
        assert named in str(raised.value)
        assert isinstance(raised.value, ValueError)
        assert isinstance(raised.value, BaseThrottledError)

    def test_a_request_that_could_never_be_sent_is_said_so(self) -> None:
        with pytest.raises(SimulationError, match="no request can ever be sent") as raised:
            simulate([Budget("tokens", 1000, MINUTE, 2000.0)], 1)
        assert "2000 of 'tokens'" in str(raised.value)
        assert "1000 per 1m" in str(raised.value)


def test_a_result_can_be_made_by_hand() -> None:
    result = SimulationResult(0, 1, 1, 0.0, None, 0, 0.0, [], None, None, False)
    assert result.completed
    assert result.throttled_fraction == 0.0

"""A ledger against servers of each kind, in virtual time: no refusals, and nothing left unused.

Before the first response nothing is known, so those that are sent by then may be refused; they are
not counted. Time runs for twenty windows.
"""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from simulated_server import (
    MS,
    FixedWindow,
    LeakyBucket,
    S,
    Server,
    Simulation,
    SlidingWindow,
)

from effort import rounds

WINDOWS = 20
calm = settings(
    max_examples=rounds(5, 12),
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
    derandomize=True,
)


def share(server: Server, served: int) -> float:
    return served / server.most(WINDOWS * server.window)


@pytest.mark.parametrize("dialect", ["exact", "ceil", "epoch"])
@calm
@given(
    seed=st.integers(0, 10**6),
    aligned=st.booleans(),
    limit=st.integers(60, 300),
    tasks=st.integers(1, 60),
    tells_window=st.booleans(),
    skew=st.sampled_from([0, 3 * S + 700 * MS, -3600 * S]),
    lost=st.sampled_from([0.0, 0.05]),
    slow=st.sampled_from([0.0, 0.02]),
)
def test_a_fixed_window_is_used_up_and_never_overrun(
    dialect: str,
    seed: int,
    aligned: bool,
    limit: int,
    tasks: int,
    tells_window: bool,
    skew: int,
    lost: float,
    slow: float,
) -> None:
    server = FixedWindow(
        limit, 60 * S, aligned=aligned, offset=0 if dialect == "epoch" else 370 * MS
    )
    simulation = Simulation(
        server,
        dialect,
        tasks=tasks,
        seed=seed,
        tells_window=tells_window,
        skew=skew,
        lost=lost,
        slow=slow,
        latency=(5 * MS, 40 * MS),
    )
    seen = simulation.run(WINDOWS * server.window)
    assert seen.refused == 0
    slowest = tasks * server.window / (80 * MS) / limit if slow == 0 else 0.0
    assert share(server, seen.served) >= min(0.95 if slow == 0 else 0.9, slowest)


@pytest.mark.parametrize("tells_window", [False, True])
@pytest.mark.parametrize("seconds", [1, 2, 3])
@pytest.mark.parametrize("slowest", [5 * MS, 40 * MS, 300 * MS])
def test_a_window_as_short_as_its_resets_are_coarse_is_not_overrun(
    slowest: int, seconds: int, tells_window: bool
) -> None:
    """All that is told is "1 s": of this window, or of the next."""
    for seed in range(4):
        server = FixedWindow(100, seconds * S, offset=370 * MS)
        simulation = Simulation(
            server,
            "ceil",
            tasks=60,
            seed=seed,
            tells_window=tells_window,
            latency=(1 * MS, slowest),
        )
        seen = simulation.run(WINDOWS * server.window)
        assert seen.refused == 0
        assert share(server, seen.served) >= 0.7


@calm
@given(seed=st.integers(0, 10**6), tells_window=st.booleans(), tasks=st.integers(10, 100))
def test_seconds_that_are_cut_cost_one_refusal_and_not_a_crowd(
    seed: int, tells_window: bool, tasks: int
) -> None:
    server = FixedWindow(200, 60 * S, offset=370 * MS)
    seen = Simulation(server, "floor", tasks=tasks, seed=seed, tells_window=tells_window).run(
        WINDOWS * server.window
    )
    assert seen.refused <= 1
    assert share(server, seen.served) >= 0.95


@pytest.mark.parametrize("dialect", ["exact", "ceil", "epoch"])
@calm
@given(seed=st.integers(0, 10**6), tells_window=st.booleans(), tasks=st.integers(10, 100))
def test_a_leaky_bucket_is_kept_busy_and_never_overrun(
    dialect: str, seed: int, tells_window: bool, tasks: int
) -> None:
    server = LeakyBucket(200, 60 * S)
    seen = Simulation(server, dialect, tasks=tasks, seed=seed, tells_window=tells_window).run(
        WINDOWS * server.window
    )
    assert seen.refused == 0
    assert share(server, seen.served) >= 0.95


@calm
@given(seed=st.integers(0, 10**6), tells_window=st.booleans())
def test_a_leaky_bucket_that_tells_no_reset_is_probed(seed: int, tells_window: bool) -> None:
    server = LeakyBucket(40, 20 * S)
    seen = Simulation(server, "silent", tasks=30, seed=seed, tells_window=tells_window).run(
        WINDOWS * server.window
    )
    assert seen.refused <= 2
    assert share(server, seen.served) >= 0.95


@pytest.mark.parametrize("dialect", ["exact", "ceil", "epoch"])
@calm
@given(seed=st.integers(0, 10**6), tells_window=st.booleans(), tasks=st.integers(10, 100))
def test_a_sliding_window_is_not_overrun(
    dialect: str, seed: int, tells_window: bool, tasks: int
) -> None:
    server = SlidingWindow(200, 60 * S)
    seen = Simulation(server, dialect, tasks=tasks, seed=seed, tells_window=tells_window).run(
        WINDOWS * server.window
    )
    assert seen.refused <= 1
    assert share(server, seen.served) >= 0.95


def test_the_crowd_of_the_first_contact_is_found_counted() -> None:
    """More tasks than the limit: what was sent before anything was known, and nothing later."""
    server = FixedWindow(50, 60 * S)
    seen = Simulation(server, "exact", tasks=128, seed=5).run(WINDOWS * server.window)
    assert seen.refused == 128 - 50


def test_nothing_is_lost_on_the_way_through_bytes() -> None:
    runs = [
        Simulation(FixedWindow(100, 30 * S), "ceil", tasks=40, seed=9, lost=0.02, packs=packs).run(
            10 * 30 * S
        )
        for packs in (False, True)
    ]
    assert runs[0] == runs[1]

"""Forks in the middle of everything: other threads ask, wait in line, hold permits, and an event
loop waits. The child uses the same limiters at once.
"""

from __future__ import annotations

import os
import time

import pytest
from deploy_busy import ASKS, CAPACITY, CHILDREN, LIMIT
from deploy_places import Place
from deploy_programs import run_program

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")


def test_a_child_works_whatever_its_parents_threads_were_doing(place: Place) -> None:
    told = run_program("deploy_busy.py", place.url)
    given = [one["given"] for one in told]
    assert len(given) == CHILDREN + 1
    if place.shared:
        assert sum(given) == LIMIT
    else:
        assert given == [ASKS] * len(given)  # each was forked before anything was taken


def test_permits_are_counted_over_all_forks(shared_place: Place) -> None:
    told = run_program("deploy_busy.py", shared_place.url)
    steps = [(instant, way) for one in told for since, to in one["held"]
             for instant, way in ((since, 1), (to, -1))]  # fmt: skip
    inside, most = 0, 0
    for _, way in sorted(steps):
        inside += way
        most = max(most, inside)
    assert 1 <= most <= CAPACITY
    assert all(one["held"] for one in told)


def test_functions_of_choked_share_their_bucket_with_forks(shared_place: Place) -> None:
    since = time.monotonic()
    instants = sorted(run_program("deploy_choked.py", REDIS_URL=shared_place.url))
    assert len(instants) == 18
    # Three processes, a bucket of 5 that fills in 0.25 s. A wait may end late, never early.
    for number, instant in enumerate(instants):
        assert instant >= since + (number - 4) * 0.05 - 0.001

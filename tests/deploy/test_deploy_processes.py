"""Processes that a program makes itself: by fork, spawn, forkserver, and in pools."""

from __future__ import annotations

import multiprocessing
from typing import Any

import pytest
from deploy_places import Place
from deploy_processes import FIRST, QUOTA
from deploy_programs import run_program

LIMIT = int(QUOTA.partition("/")[0])
METHODS = ["os.fork", *multiprocessing.get_all_start_methods(), "pool"]


@pytest.mark.parametrize("method", METHODS)
def test_processes_share_one_quota_where_the_store_is_shared(
    method: str, shared_place: Place
) -> None:
    told = run_program("deploy_processes.py", method, shared_place.url)
    everybody = [*told["children"], told["parent"]]
    assert told["first"] + sum(one["before"] for one in everybody) == LIMIT
    assert sum(one["after"] for one in everybody) == LIMIT


@pytest.mark.parametrize("method", METHODS)
def test_each_process_has_its_own_quota_in_memory(method: str) -> None:
    told = run_program("deploy_processes.py", method, "memory://")

    given: dict[int, dict[str, Any]] = {}  # by process: a pool may give one of them all the work
    for one in (*told["children"], told["parent"]):
        so_far = given.setdefault(one["pid"], {**one, "before": 0, "after": 0})
        so_far["before"] += one["before"]
        so_far["after"] += one["after"]
    assert len(given) >= 2
    for one in given.values():
        own = one["inherited"] or one["pid"] == told["parent"]["pid"]
        # A fork goes on with what its parent had taken.
        assert one["before"] == (LIMIT - FIRST if own else LIMIT)
        assert one["after"] == LIMIT

"""Tasks on real workers: never more than the quota, all of them done, none put back for long."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from celery_workers import DEADLINE_S, HERE, worker
from servers import RedisServer

celery = pytest.importorskip("celery")

Results = Callable[[Any, int], list[Any]]
PROCESSES = 4
"""Of both workers. Each may have been admitted to one run, and not have said so yet."""


def never_more_than(instants: list[float], burst: int, rate: float) -> None:
    """In no interval of length t more than burst + t * rate, and those that were late to say so."""
    ordered = sorted(instants)
    for i, first in enumerate(ordered):
        for j in range(i, len(ordered)):
            assert j - i + 1 <= burst + (ordered[j] - first) * rate + PROCESSES


def test_tasks_of_two_workers_keep_to_one_quota_and_all_are_done(
    tasks: ModuleType, results: Results
) -> None:
    since = time.monotonic()
    found = results(tasks.paced.s(), 40)
    instants = [one["at"] for one in found]
    never_more_than(instants, 1, 20)
    assert max(instants) - since >= 39 / 20 - 0.001  # exact: no slot is before the first request
    assert len({one["pid"] for one in found}) > 1
    assert {one["retries"] for one in found} == {0}


def test_a_burst_goes_at_once(tasks: ModuleType, results: Results) -> None:
    since = time.monotonic()
    instants = [one["at"] for one in results(tasks.burst.s(), 15)]
    never_more_than(instants, 5, 10)
    assert max(instants) - since >= 1.0 - 0.001


def test_windows_hold_too(tasks: ModuleType, results: Results) -> None:
    since = int(time.time())
    # 20 in each second: the last ten of 50 are in the third at the earliest.
    assert max(one["wall"] for one in results(tasks.window.s(), 50)) >= since + 2


def test_a_cost_and_a_key_come_from_the_arguments(tasks: ModuleType, results: Results) -> None:
    since = time.monotonic()
    heavy = [tasks.weighed.s("a", weight=5).apply_async() for _ in range(10)]
    light = results(tasks.weighed.s("b"), 5)
    assert len(light) == 5
    found = [one.get(timeout=DEADLINE_S, interval=0.01) for one in heavy]
    assert max(one["at"] for one in found) - since >= (50 - 10) / 50 - 0.001


def test_a_concurrency_limit_holds_for_all_workers(tasks: ModuleType, results: Results) -> None:
    held = sorted((one["since"], one["to"]) for one in results(tasks.alone.s(), 16))
    assert all(first[1] <= second[0] for first, second in pairwise(held))


def test_no_limit_where_the_key_is_none(tasks: ModuleType, results: Results) -> None:
    assert results(tasks.exempt.s("word"), 5) == ["word"] * 5


def test_a_backlog_keeps_no_other_task_waiting(tasks: ModuleType, results: Results) -> None:
    backlog = [tasks.slow.s().apply_async() for _ in range(30)]  # half a minute of it
    since = time.monotonic()
    results(tasks.free.s(), 5)
    assert time.monotonic() - since < 20
    for one in backlog:
        one.revoke()


def test_the_retries_of_a_task_are_its_own(tasks: ModuleType, results: Results) -> None:
    assert results(tasks.retries_itself.s(), 5) == [2] * 5


def test_a_cost_beyond_the_quota_fails_the_task(tasks: ModuleType) -> None:
    with pytest.raises(Exception, match="Invalid cost: 6, the quota of 'small' has at most 5"):
        tasks.too_much.s(6).apply_async().get(timeout=DEADLINE_S)
    assert tasks.too_much.s(5).apply_async().get(timeout=DEADLINE_S) == 5


def test_a_store_that_is_away_costs_no_task_its_life(
    celery_redis: RedisServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with RedisServer() as store:
        env = {"BROKER": celery_redis.url.replace("/0", "/3"), "STORE": store.url}
        log = tmp_path / "log"
        with worker(log, {**env, "PYTHONPATH": str(HERE)}, "-c", "1"):
            app = celery.Celery(broker=env["BROKER"], backend=env["BROKER"])
            store.kill()
            sent = app.send_task("celery_limited_app.paced", (7,))
            end = time.monotonic() + DEADLINE_S
            while sent.state != "RETRY":
                assert time.monotonic() < end, log.read_text()
                time.sleep(0.02)
            store.start()
            assert sent.get(timeout=DEADLINE_S, interval=0.02)["number"] == 7
        assert "celery_limited_app.paced is put back for" in log.read_text()


def test_a_worker_that_was_stopped_does_not_catch_up_all_at_once(
    celery_redis: RedisServer, tmp_path: Path
) -> None:
    env = {"BROKER": celery_redis.url.replace("/0", "/4"), "PYTHONPATH": str(HERE)}
    env["STORE"] = env["BROKER"]
    with worker(tmp_path / "log", env, "-c", str(PROCESSES)) as process:
        app = celery.Celery(broker=env["BROKER"], backend=env["BROKER"])
        sent = [app.send_task("celery_limited_app.paced", (n,)) for n in range(40)]
        sent[0].get(timeout=DEADLINE_S, interval=0.01)
        os.killpg(process.pid, signal.SIGSTOP)
        time.sleep(1.2)  # most of them are due by then
        os.killpg(process.pid, signal.SIGCONT)
        found = [one.get(timeout=DEADLINE_S, interval=0.01) for one in sent]
    never_more_than([one["at"] for one in found], 1, 20)
    assert sorted(one["number"] for one in found) == list(range(40))

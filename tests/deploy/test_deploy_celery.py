"""Celery's prefork workers: limiters that were made in their parent."""

from __future__ import annotations

import json
import sys
from collections import Counter
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from deploy_places import KINDS, Place
from deploy_programs import DEADLINE_S, running

LIMIT = 30


def test_prefork_workers_share_what_is_shared_and_nothing_else(
    new_place: Callable[[str], Place],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pytest.importorskip("celery")
    places = {kind: new_place(kind) for kind in KINDS}
    env = {
        "BROKER": places["redis"].url.replace("/0", "/1"),
        "PLACES": json.dumps({kind: place.url for kind, place in places.items()}),
    }
    for name, value in env.items():
        monkeypatch.setenv(name, value)
    import deploy_celery_app as module

    def results(signature: Any, times: int) -> list[dict[str, Any]]:
        sent = [signature.apply_async() for _ in range(times)]
        return [one.get(timeout=DEADLINE_S, interval=0.005) for one in sent]

    command = [sys.executable, "-m", "celery", "-A", "deploy_celery_app", "worker", "-c", "2"]
    command += ["--without-gossip", "--without-mingle", "--without-heartbeat", "-l", "warning"]
    with running(command, tmp_path / "log", **env):
        for kind, place in places.items():
            asked: Counter[int] = Counter()
            before: Counter[int] = Counter()
            after: Counter[int] = Counter()
            while len(asked) < 2 or min(asked.values()) <= LIMIT:
                for one in results(module.ask.s(kind), 40):
                    asked[one["pid"]] += 1
                    before[one["pid"]] += one["before"]
                    after[one["pid"]] += one["after"]
                assert asked.total() < 2000, f"one worker hardly gets a task: {asked}"
            for given in (before, after):
                if place.shared:
                    assert given.total() == LIMIT, kind
                else:
                    assert {given[pid] for pid in asked} == {LIMIT}, kind
            if place.shared:
                held = sorted((one["since"], one["to"]) for one in results(module.hold.s(kind), 12))
                assert all(first[1] <= second[0] for first, second in pairwise(held)), kind

"""A big log, line by line, by the plainest code there is: the replay must decide the same."""

from __future__ import annotations

import importlib.util
from collections import Counter
from collections.abc import Callable, Iterator
from datetime import datetime
from itertools import groupby
from pathlib import Path
from typing import Any

import pytest

import headway

GENERATOR = Path(__file__).parents[2] / "benchmarks" / "make_access_log.py"


def generated_lines(count: int) -> list[str]:
    spec = importlib.util.spec_from_file_location("make_access_log", GENERATOR)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return list(module.log_lines(count, clients=2000, seconds=3000))


def arrivals(lines: list[str]) -> Iterator[tuple[int, str]]:
    """(ns, client) of every line: spread over its second, never earlier than the line before."""
    newest, steady = 0, []
    for line in lines:
        client = line.split(" ", 1)[0]
        stamp = line[line.index("[") + 1 : line.index("]")]
        newest = max(newest, int(datetime.strptime(stamp, "%d/%b/%Y:%H:%M:%S %z").timestamp()))
        steady.append((newest, client))
    for second, group in groupby(steady, key=lambda request: request[0]):
        requests = list(group)
        for number, (_, client) in enumerate(requests):
            yield second * 10**9 + number * (10**9 // len(requests)), client


@pytest.mark.slow
@pytest.mark.parametrize(
    ("quota", "using"),
    [("2/s burst 5", "token_bucket"), ("3/s; 40/m", "gcra"), ("30/m", "sliding_window")],
)
def test_a_hundred_thousand_lines_are_decided_as_by_direct_calls(
    quota: str, using: str, write: Callable[..., str], report: Callable[..., Any]
) -> None:
    lines = generated_lines(100_000)
    clock = headway.VirtualClock(now_ns=0)
    store = headway.MemoryStore(options={"MAX_SIZE": 100_000}, clock=clock)
    limiter = headway.Throttled(quota=quota, using=using, store=store)
    denied: Counter[str] = Counter()
    for now, client in arrivals(lines):
        clock.set(now)
        if limiter.limit(client).limited:
            denied[client] += 1
    path = write([line.rstrip("\n") for line in lines])
    result = report(path, "--quota", quota, "--using", using, "--top", "100000")
    assert result["log"]["requests"] == 100_000
    assert result["files"][0]["malformed"] == 0
    assert {row["client"]: row["denied"] for row in result["quotas"][0]["top"]} == denied
    assert denied.total() > 1000

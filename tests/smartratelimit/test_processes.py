"""Eight processes of sixteen tasks on one storage, against a server that enforces its limit."""

from __future__ import annotations

import json
import math
import subprocess
import sys
import time
from pathlib import Path

import pytest
from http_servers import EnforcingServer
from servers import RedisServer

from headway.smartratelimit import RateLimiter

CHILD = Path(__file__).with_name("limited_child.py")
PROCESSES, TASKS, REQUESTS = 8, 16, 1000
LIMIT, WINDOW_S = 200, 1.0


def run_children(storage: str, url: str) -> dict[str, int]:
    command = [sys.executable, str(CHILD), storage, url, str(TASKS), str(REQUESTS // PROCESSES)]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    children = [subprocess.Popen(command, **pipes) for _ in range(PROCESSES)]  # type: ignore[call-overload]
    total: dict[str, int] = {}
    try:
        for child in children:
            assert child.stdout.readline() == "ready\n"
        for child in children:
            child.stdin.write("go\n")
            child.stdin.flush()
        for child in children:
            out, _ = child.communicate(timeout=60)
            for status, count in json.loads(out).items():
                total[status] = total.get(status, 0) + count
    finally:
        for child in children:
            child.kill()
            child.wait()
    return total


def keep_the_limit(storage: str) -> None:
    with EnforcingServer(dialect="x_ratelimit", limit=LIMIT, window=WINDOW_S) as server:
        with RateLimiter(storage) as limiter:
            limiter.request("GET", server.url + "/first")
        began = time.time()
        assert run_children(storage, server.url + "/data") == {"200": REQUESTS}
        stats = server.stats
    assert stats["429"] == 0
    windows = math.floor(stats["last"] / WINDOW_S) - math.floor(began / WINDOW_S)
    ideal = math.ceil(REQUESTS / LIMIT)
    print(f"{storage.partition(':')[0]}: {windows} windows where {ideal} would do")
    assert windows <= 2 * ideal


@pytest.mark.alone
@pytest.mark.slow
def test_processes_that_share_a_file_stay_below_the_limit(tmp_path: Path) -> None:
    keep_the_limit(f"sqlite:///{tmp_path / 'limits.db'}")


@pytest.mark.alone
@pytest.mark.slow
def test_processes_that_share_a_server_stay_below_the_limit(own_server: RedisServer) -> None:
    keep_the_limit(own_server.url)

"""Real web servers with two workers: each kind of worker, with the application loaded before the
fork and after it.

Requests come on connections of their own until both workers have been asked more often than the
quota allows. Then the sum says whether the workers shared it.
"""

from __future__ import annotations

import json
import socket
import sys
import time
import urllib.request
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from deploy_places import KINDS, Place
from deploy_programs import running, until

QUOTA, CAPACITY, WAITED_FOR_S = 30, 2, 1 / 50  # what deploy_app.py says
MOST_REQUESTS = 6000

SERVERS: dict[str, tuple[list[str], str]] = {
    "gunicorn sync": (["-k", "sync"], "wsgi"),
    "gunicorn sync preload": (["-k", "sync", "--preload"], "wsgi"),
    "gunicorn gthread": (["-k", "gthread", "--threads", "4"], "wsgi"),
    "gunicorn gthread preload": (["-k", "gthread", "--threads", "4", "--preload"], "wsgi"),
    "gunicorn uvicorn-worker": (["-k", "uvicorn_worker.UvicornWorker"], "asgi"),
    "gunicorn uvicorn-worker preload": (
        ["-k", "uvicorn_worker.UvicornWorker", "--preload"],
        "asgi",
    ),
    "uvicorn": ([], "asgi"),
}


class Asked:
    """A server that answers, and the two dozen hands that ask it."""

    def __init__(self, port: int, hands: ThreadPoolExecutor) -> None:
        self._port, self._hands = port, hands

    def get(self, path: str) -> dict[str, Any]:
        url = f"http://127.0.0.1:{self._port}{path}"
        with urllib.request.urlopen(url, timeout=20) as reply:
            found: dict[str, Any] = json.loads(reply.read())
        return found

    def get_many(self, path: str, times: int) -> list[dict[str, Any]]:
        return list(self._hands.map(self.get, [path] * times))

    def until_both_are_exhausted(self, path: str) -> dict[int, int]:
        """Ask until two workers had more requests than the quota. What each has admitted."""
        asked: Counter[int] = Counter()
        admitted: Counter[int] = Counter()
        while len(asked) < 2 or min(asked.values()) <= QUOTA:
            for one in self.get_many(path, 40):
                asked[one["pid"]] += 1
                admitted[one["pid"]] += one["admitted"]
            assert asked.total() < MOST_REQUESTS, f"one worker hardly gets a request: {asked}"
        return {pid: admitted[pid] for pid in asked}


def command_of(name: str, fd: int) -> list[str]:
    options, kind = SERVERS[name]
    if name == "uvicorn":
        command = [sys.executable, "-m", "uvicorn", f"deploy_app:{kind}", "--fd", str(fd)]
        return [*command, "--workers", "2", "--log-level", "warning"]
    command = [sys.executable, "-m", "gunicorn", f"deploy_app:{kind}", "-w", "2"]
    return [*command, "-b", f"fd://{fd}", *options, "--graceful-timeout", "2"]


# One of each kind of worker, and the loading before the fork, in every run.
QUICK = {"gunicorn sync", "gunicorn gthread preload", "gunicorn uvicorn-worker preload", "uvicorn"}


@pytest.fixture(
    params=[
        pytest.param(name, marks=[] if name in QUICK else [pytest.mark.slow]) for name in SERVERS
    ]
)
def places_and_server(
    request: pytest.FixtureRequest, new_place: Callable[[str], Place], tmp_path: Path
) -> Iterator[tuple[dict[str, Place], Asked]]:
    pytest.importorskip("uvicorn")
    if request.param != "uvicorn":
        pytest.importorskip("gunicorn")
    if "uvicorn-worker" in request.param:
        pytest.importorskip("uvicorn_worker")
    places = {kind: new_place(kind) for kind in KINDS}
    urls = json.dumps({kind: place.url for kind, place in places.items()})
    listening = socket.create_server(("127.0.0.1", 0), backlog=512)
    fd = listening.fileno()
    with (
        listening,
        running(
            command_of(request.param, fd), tmp_path / "log", pass_fds=(fd,), PLACES=urls, BUSY="1"
        ) as process,
        ThreadPoolExecutor(12) as hands,
    ):
        asked = Asked(listening.getsockname()[1], hands)
        listening.close()  # the server has its own

        def answers() -> bool:
            assert process.poll() is None, "the server has ended"
            return asked.get("/") == {}

        until(answers, "an answer of the server")
        yield places, asked


def test_workers_share_what_is_shared_and_nothing_else(
    places_and_server: tuple[dict[str, Place], Asked],
) -> None:
    places, server = places_and_server
    for kind, place in places.items():
        for made in ("before", "after"):
            given = server.until_both_are_exhausted(f"/{kind}/{made}")
            if place.shared:
                assert sum(given.values()) == QUOTA, (kind, made)
            else:
                assert set(given.values()) == {QUOTA}, (kind, made)

        since = time.monotonic()
        waited = server.get_many(f"/{kind}/wait", 12)
        assert all(one["admitted"] for one in waited)
        if place.shared:
            assert max(one["at"] for one in waited) - since >= 11 * WAITED_FOR_S

        if place.shared:
            held = server.get_many(f"/{kind}/permit", 24)
            steps = sorted(
                (one[end], way) for one in held for end, way in (("since", 1), ("to", -1))
            )
            inside = [sum(way for _, way in steps[: i + 1]) for i in range(len(steps))]
            assert 1 <= max(inside) <= CAPACITY, kind

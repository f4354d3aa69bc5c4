"""smartratelimit: what does the limiter add to a request, and how fast do processes share a file?

Requests go through a session's adapter to a stub that answers at once, so what is timed is the
limiter. On the file four processes send as many requests as they can, below a limit that each
response tells, or that was set by hand; the library that is mirrored does the same with its own
SQLite storage.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchmarks.contenders import has
from benchmarks.harness import (
    HEADWAY,
    PEER,
    Contender,
    Settings,
    find,
    spread,
    spread_of_ratios,
    time_in_turn,
)
from benchmarks.headers import GITHUB, PLAIN, URL
from benchmarks.report import Report, Row, Section, Target, rows_of

NAME = "smartratelimit"
MOST_NS = 5_000
TIMES = 5
PROCESSES, SECONDS, ROUNDS = 4, 1.0, 3

LARGE = {**GITHUB, "X-RateLimit-Limit": "900000000", "X-RateLimit-Remaining": "900000000"}
"""What nobody reaches."""

CHILD = """
import sys, time, json, requests
package, storage, seconds, headers = sys.argv[1], sys.argv[2], float(sys.argv[3]), sys.argv[4]
from importlib import import_module
limiter = import_module(package).RateLimiter(storage=storage)
response = requests.Response()
response.status_code, response._content = 200, b""
response.headers.update(json.loads(headers))
class Stub(requests.adapters.BaseAdapter):
    def send(self, request, **_):
        response.request, response.url = request, request.url
        return response
    def close(self):
        pass
session = requests.Session()
session.mount("https://", Stub())
limiter.wrap_session(session)
if sys.argv[5] == "set":
    limiter.set_limit("https://api.example.com", 1_000_000_000, "1h")
url = "https://api.example.com/data"
session.get(url)
print("ready", flush=True)
sys.stdin.readline()
count, end = 0, time.perf_counter() + seconds
while time.perf_counter() < end:
    session.get(url)
    count += 1
print(count)
"""


class _Stub:
    """Answers at once."""

    def __init__(self, headers: Mapping[str, str]) -> None:
        import requests

        self.response = requests.Response()
        self.response.status_code = 200
        self.response.headers.update(headers)

    def send(self, request: object, **_: object) -> object:
        return self.response


def _names(headers: Mapping[str, str], limited: bool) -> Mapping[str, Any]:
    import requests

    from headway.smartratelimit import RateLimiter
    from headway.smartratelimit.adapter import RateLimitAdapter

    adapter: Any = _Stub(headers)
    if limited:
        adapter = RateLimitAdapter(RateLimiter(use_provider_profiles=False), adapter)
    return {"send": adapter.send, "request": requests.Request("GET", URL).prepare()}


def contenders() -> list[Contender]:
    """The stub alone, and the limiter around it."""
    call = "send(request, stream=False)"
    return [
        Contender("the stub alone", PEER, call, lambda: _names(GITHUB, False)),
        Contender("headway, GitHub's headers", HEADWAY, call, lambda: _names(LARGE, True)),
        Contender("headway, nothing of limits", HEADWAY, call, lambda: _names(PLAIN, True)),
    ]


def _rate(package: str, way: str) -> float:
    """Requests a second of all processes together. way: "set" by hand, or "learn"."""
    with tempfile.TemporaryDirectory() as folder:
        storage = f"sqlite:///{Path(folder) / 'limits.db'}"
        command = [sys.executable, "-W", "ignore", "-c", CHILD, package, storage, str(SECONDS)]
        children = [
            subprocess.Popen(
                [*command, json.dumps(LARGE if way == "learn" else PLAIN), way],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                text=True,
            )
            for _ in range(PROCESSES)
        ]
        for child in children:
            assert child.stdout is not None
            child.stdout.readline()
        total = 0
        for child in children:
            assert child.stdin is not None
            child.stdin.write("\n")
            child.stdin.flush()
        for child in children:
            total += int(child.communicate()[0].strip() or 0)
        return total / SECONDS


def run(settings: Settings) -> Report:
    """Measures and reports."""
    timings = time_in_turn(contenders(), settings)
    ours = find(timings, "headway, GitHub's headers")
    sections = [Section("One request", "ns", rows_of(timings, timings[0]), "the stub alone")]
    targets = [Target("one request, stub included", ours.ns, MOST_NS, "ns")]
    for way, told in (("learn", "learned from headers"), ("set", "set by hand")):
        if not has("smartratelimit"):
            break
        rates: dict[str, list[float]] = {"headway.smartratelimit": [], "smartratelimit": []}
        for _ in range(ROUNDS):
            for package, found in rates.items():
                found.append(_rate(package, way))
        mine, theirs = rates["headway.smartratelimit"], rates["smartratelimit"]
        ratio = spread_of_ratios(mine, theirs)
        rows = [
            Row("headway", HEADWAY, spread(mine), ratio),
            Row("smartratelimit", PEER, spread(theirs), spread([1.0])),
        ]
        title = f"{PROCESSES} processes on one SQLite file, a limit {told}"
        sections.append(Section(title, "requests/s", rows, "smartratelimit", more_is_better=True))
        targets.append(Target(title, ratio, TIMES, "x", at_least=True))
    return Report(
        NAME,
        "The limiter around a request",
        "A session's adapter that answers at once, with and without the limiter around it.",
        sections,
        targets,
    )

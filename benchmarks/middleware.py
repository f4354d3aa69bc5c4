"""middleware: what does a limit add to a request of a web app?

A Starlette app with one route is called directly with a scope, receive and send that do nothing, so
neither sockets nor HTTP parsing is in the figures. What a middleware adds is the difference
to the same app without it, in the same round. All limiters keep their counts in memory, by client
address, never deny, and tell their fields on each response; slowapi's with `headers_enabled`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from benchmarks.async_harness import time_awaited
from benchmarks.contenders import has
from benchmarks.harness import (
    BASELINE,
    HEADWAY,
    PEER,
    Contender,
    Settings,
    Timing,
    spread,
    spread_of_ratios,
)
from benchmarks.report import Report, Row, Section, Target, rows_of

NAME = "middleware"
ADDS_AT_MOST_NS = 10_000
TIMES_CHEAPER = 5
QUOTA = "1000000000/minute"

SCOPE = {
    "type": "http",
    "asgi": {"version": "3.0", "spec_version": "2.4"},
    "http_version": "1.1",
    "method": "GET",
    "scheme": "http",
    "path": "/items",
    "raw_path": b"/items",
    "query_string": b"",
    "root_path": "",
    "headers": [
        (b"host", b"localhost:8000"),
        (b"user-agent", b"benchmark/1.0"),
        (b"accept", b"*/*"),
        (b"accept-encoding", b"gzip, deflate"),
        (b"connection", b"keep-alive"),
    ],
    "client": ("192.0.2.1", 4711),
    "server": ("127.0.0.1", 8000),
}


async def receive() -> Mapping[str, Any]:
    """An empty body."""
    return {"type": "http.request", "body": b"", "more_body": False}


async def send(message: Mapping[str, Any]) -> None:
    """Nowhere."""


def starlette_app() -> Any:
    """One route that answers with a few bytes."""
    from starlette.applications import Starlette
    from starlette.requests import Request
    from starlette.responses import PlainTextResponse
    from starlette.routing import Route

    async def items(request: Request) -> PlainTextResponse:
        return PlainTextResponse("ok")

    return Starlette(routes=[Route("/items", items)])


def headway_around() -> Any:
    """headway's pure ASGI middleware around the app."""
    from headway.contrib.asgi import RateLimitMiddleware

    return RateLimitMiddleware(starlette_app(), QUOTA)


def headway_added(limits: Any, **options: Any) -> Any:
    """headway's middleware of Starlette, added to the app."""
    from headway.contrib.starlette import RateLimitMiddleware

    app = starlette_app()
    app.add_middleware(RateLimitMiddleware, limits=limits, **options)
    return app


def headway_three() -> Any:
    """Three rules, one with a path and one with another key."""
    from headway.contrib.starlette import Rule, api_key

    return headway_added(
        [
            Rule(QUOTA, name="all"),
            Rule(QUOTA, name="items", paths="/items", methods="GET"),
            Rule(QUOTA, name="keys", key=api_key()),
        ]
    )


def slowapi_added(middleware: str) -> Any:
    """A middleware of slowapi, added to the app."""
    import slowapi.middleware
    from slowapi import Limiter
    from slowapi.util import get_remote_address

    app = starlette_app()
    app.state.limiter = Limiter(
        key_func=get_remote_address, default_limits=[QUOTA], headers_enabled=True
    )
    app.add_middleware(getattr(slowapi.middleware, middleware))
    return app


def _contender(label: str, kind: str, make: Callable[[], Any]) -> Contender:
    def names() -> Mapping[str, Any]:
        return {"app": make(), "scope": SCOPE, "receive": receive, "send": send}

    return Contender(label, kind, "await app(dict(scope), receive, send)", names)


def _added(timing: Timing, base: Timing) -> list[float]:
    return [one - unit for one, unit in zip(timing.rounds_ns, base.rounds_ns, strict=True)]


def run(settings: Settings) -> Report:
    """Measures and reports."""
    contenders = [
        _contender("the app alone", BASELINE, starlette_app),
        _contender("headway, ASGI", HEADWAY, headway_around),
        _contender("headway, Starlette", HEADWAY, lambda: headway_added(QUOTA)),
        _contender(
            "headway, RateLimit fields only", HEADWAY, lambda: headway_added(QUOTA, headers="ietf")
        ),
        _contender("headway, three rules", HEADWAY, headway_three),
    ]
    if has("slowapi"):
        for middleware in ("SlowAPIASGIMiddleware", "SlowAPIMiddleware"):
            contenders.append(
                _contender(
                    f"slowapi, {middleware}", PEER, lambda name=middleware: slowapi_added(name)
                )
            )
    timings = time_awaited(contenders, settings)
    base, ours = timings[0], timings[1]
    added = {timing.contender.label: _added(timing, base) for timing in timings[1:]}
    mine = added[ours.contender.label]
    rows = [
        Row(
            timing.contender.label,
            timing.contender.kind,
            spread(added[timing.contender.label]),
            spread_of_ratios(added[timing.contender.label], mine),
        )
        for timing in timings[1:]
    ]
    targets = [Target("added to a request", spread(mine), ADDS_AT_MOST_NS, "ns")]
    for label, theirs in added.items():
        if label.startswith("slowapi"):
            ratio = spread_of_ratios(theirs, mine)
            targets.append(Target(f"cheaper than {label}", ratio, TIMES_CHEAPER, "x", True))
    return Report(
        NAME,
        "A limit around a web app",
        "A Starlette app called directly; what each middleware adds to the same app without it.",
        [
            Section("One request", "ns", rows_of(timings, base), "the app alone"),
            Section("What is added", "ns", rows, "headway, ASGI"),
        ],
        targets,
    )

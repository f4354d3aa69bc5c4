"""Endpoints of every framework on one store: each counts by itself, however its limits are given.

Two functions of one name stand in different modules or classes, as `get` of two classes does. The
store is shared, as one Redis is by a whole application.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from wsgi_servers import get, serving

import headway
from headway.contrib import Policy, Rule, api_key
from headway.contrib.wsgi import EnvironFacts
from headway.contrib.wsgi import RateLimitMiddleware as WsgiMiddleware

sys.path.append(str(Path(__file__).parents[1] / "contrib_asgi"))

LIMITS: dict[str, Callable[[], Any]] = {
    "text": lambda: "2/minute",
    "quotas": lambda: ["2/minute", "50/hour"],
    "one rule": lambda: Rule("2/minute"),
    "rules": lambda: [Rule("2/minute"), Rule("50/hour")],
    "a rule and text": lambda: [Rule("2/minute"), "50/hour"],
}
EXPECTED = [200, 200, 429]


def _two(make: Callable[[], Any], decorate: Callable[[Any], Any]) -> list[Any]:
    """Two endpoints of one name, of different modules."""
    made = []
    for module in ("one", "two"):
        function = make()
        function.__module__ = module
        made.append(decorate(function))
    return made


def _starlette(limits: Any, store: Any) -> list[list[int]]:
    stage = pytest.importorskip("contrib_stage")
    applications = pytest.importorskip("starlette.applications")
    from starlette.responses import PlainTextResponse
    from starlette.routing import Route

    from headway.contrib.starlette import limit

    def make() -> Any:
        async def get(request: Any) -> Any:
            return PlainTextResponse("ok")

        return get

    a, b = _two(make, limit(limits, store=store))
    app = applications.Starlette(routes=[Route("/a", a), Route("/b", b)])
    return [stage.statuses(app, 3, path) for path in ("/a", "/b")]


def _fastapi(limits: Any, store: Any) -> list[list[int]]:
    stage = pytest.importorskip("contrib_stage")
    fastapi = pytest.importorskip("fastapi")

    from headway.contrib.fastapi import limit

    def make() -> Any:
        def get() -> str:
            return "ok"

        return get

    app = fastapi.FastAPI()
    for path, function in zip(("/a", "/b"), _two(make, limit(limits, store=store)), strict=True):
        app.get(path)(function)
    return [stage.statuses(app, 3, path) for path in ("/a", "/b")]


def _flask(limits: Any, store: Any) -> list[list[int]]:
    flask = pytest.importorskip("flask")
    from headway.contrib.flask import RateLimit

    app = flask.Flask("test")
    extension = RateLimit(app, store=store)

    def make() -> Any:
        def get() -> str:
            return "ok"

        return get

    for path, view in zip("ab", _two(make, extension.limit(limits)), strict=True):
        app.add_url_rule(f"/{path}", path, view)
    client = app.test_client()
    return [[client.get(path).status_code for _ in range(3)] for path in ("/a", "/b")]


def _django(limits: Any, store: Any) -> list[list[int]]:
    pytest.importorskip("django")
    import django_site
    from django.http import HttpResponse
    from django.test import Client, override_settings
    from django.urls import path

    from headway.contrib.django import limit

    def make() -> Any:
        def get(request: Any) -> Any:
            return HttpResponse("ok")

        return get

    assert django_site.urlpatterns
    a, b = _two(make, limit(limits, store=store))

    class Urls:
        urlpatterns = [path("a", a), path("b", b)]  # noqa: RUF012

    with override_settings(ROOT_URLCONF=Urls, HEADWAY={}):
        client = Client()
        return [[client.get(path).status_code for _ in range(3)] for path in ("/a", "/b")]


def _aiohttp(limits: Any, store: Any) -> list[list[int]]:
    pytest.importorskip("aiohttp")
    from aiohttp import web
    from aiohttp.test_utils import TestClient, TestServer

    from headway.contrib.aiohttp import RateLimit

    def make() -> Any:
        async def get(request: web.Request) -> web.Response:
            return web.Response(text="ok")

        return get

    extension = RateLimit(store=store)
    app = web.Application()
    extension.setup(app)
    for path, handler in zip("ab", _two(make, extension.limit(limits)), strict=True):
        app.router.add_get(f"/{path}", handler)

    async def main() -> list[list[int]]:
        async with TestClient(TestServer(app)) as client:
            paths = [path for path in ("/a", "/b") for _ in range(3)]
            found = [(await client.get(path)).status for path in paths]
            return [found[:3], found[3:]]

    return asyncio.run(main())


FRAMEWORKS = {
    "starlette": _starlette,
    "fastapi": _fastapi,
    "flask": _flask,
    "django": _django,
    "aiohttp": _aiohttp,
}


@pytest.mark.parametrize("limits", LIMITS)
@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_two_endpoints_on_one_store_have_counts_of_their_own(
    framework: str, limits: str, store: headway.MemoryStore
) -> None:
    assert FRAMEWORKS[framework](LIMITS[limits](), store) == [EXPECTED, EXPECTED]


def test_one_decorator_on_two_functions_counts_each_by_itself(store: headway.MemoryStore) -> None:
    stage = pytest.importorskip("contrib_stage")
    pytest.importorskip("fastapi")
    from fastapi import FastAPI

    from headway.contrib.fastapi import RateLimit, limit

    app = FastAPI()
    shared = limit([Rule("2/minute"), Rule("50/hour")], store=store)

    @app.get("/a")
    @shared
    async def a() -> str:
        return "a"

    @app.get("/b")
    @shared
    async def b() -> str:
        return "b"

    assert [stage.statuses(app, 3, path) for path in ("/a", "/b")] == [EXPECTED, EXPECTED]
    first, second = (RateLimit(["1/m", Rule("9/h")], name=n, store=store) for n in ("c", "d"))
    assert [[e.name for e in one.policy.entries] for one in (first, second)] == [
        ["c:1", "c:2"],
        ["d:1", "d:2"],
    ]


def test_rules_without_a_name_have_that_of_their_policy_and_a_number(
    store: headway.MemoryStore,
) -> None:
    rules = [Rule("2/minute"), Rule("5/hour", name="hourly"), Rule("9/hour")]
    policy = Policy(rules, name="search", store=store)
    assert [entry.name for entry in policy.entries] == ["search:1", "hourly", "search:3"]
    facts = EnvironFacts({"REQUEST_METHOD": "GET", "REMOTE_ADDR": "192.0.2.1"})
    found = policy.decide(facts)
    assert [one.entry.prefix + one.key for one in found.outcomes] == [
        "search:1|192.0.2.1",
        "hourly|192.0.2.1",
        "search:3|192.0.2.1",
    ]


def test_two_middlewares_on_one_store_share_counts_on_purpose_where_no_rule_is_named(
    store: headway.MemoryStore,
) -> None:
    def hello(environ: Any, start_response: Any) -> list[bytes]:
        start_response("200 OK", [("Content-Length", "0")])
        return []

    for limits in ("2/minute", [Rule("2/hour"), Rule("9/hour")]):
        one, two = (WsgiMiddleware(hello, limits, store=store) for _ in range(2))
        with serving(one) as first, serving(two) as second:
            found = [get(port).status for port in (first, second, first, second)]
        assert found == [200, 200, 429, 429]


def test_a_flood_of_used_up_keys_of_one_rule_frees_no_key_of_another() -> None:
    """The rules have one quota, and the store of the policy is full of made-up API keys."""
    rules = [
        Rule("5/day", name="login", paths="/login"),
        Rule("5/day", name="trial", paths="/trial", key=api_key(), cost=5),
    ]
    policy = Policy(rules, store=headway.MemoryStore(options={"MAX_SIZE": 1000}))

    def status(path: str, key: str = "") -> int:
        environ = {"REQUEST_METHOD": "POST", "PATH_INFO": path, "REMOTE_ADDR": "192.0.2.1"}
        return policy.decide(EnvironFacts(environ | {"HTTP_X_API_KEY": key})).status

    assert [status("/login") for _ in range(6)] == [200] * 5 + [429]
    for number in range(3000):
        status("/trial", f"made up {number}")
    assert policy.store.evictions >= 2000
    assert status("/login") == 429

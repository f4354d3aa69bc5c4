"""Flask, Django, aiohttp, WSGI: what a view's own limit denies costs nothing of the one around.

The wide limit is nine a minute, the narrow one further in is one a minute. After one request that
both admit and three that the narrow one denies, the wide one has lost one.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
from wsgi_servers import get, serving

import headway
from headway.contrib import Policy, Rule
from headway.contrib.wsgi import EnvironFacts, RateLimitMiddleware

WIDE, NARROW = Rule("9/minute", name="wide"), Rule("1/minute", name="narrow")
Left = Callable[[], int]


@pytest.fixture
def wide_left(store: headway.MemoryStore) -> Left:
    """What the wide limit has left, asked without taking anything."""

    def left() -> int:
        policy = Policy(Rule("9/minute", name="wide", cost=0), store=store)
        environ = {"REQUEST_METHOD": "GET", "REMOTE_ADDR": "127.0.0.1"}
        result = policy.decide(EnvironFacts(environ)).outcomes[0].result
        assert result is not None
        return result.state.remaining

    return left


def hello(environ: Any, start_response: Any) -> list[bytes]:
    start_response("200 OK", [("Content-Type", "text/plain"), ("Content-Length", "2")])
    return [b"ok"]


def test_a_wsgi_middleware_around_another(store: headway.MemoryStore, wide_left: Left) -> None:
    app = RateLimitMiddleware(RateLimitMiddleware(hello, NARROW, store=store), WIDE, store=store)
    with serving(app) as port:
        answers = [get(port) for _ in range(4)]
    assert [answer.status for answer in answers] == [200, 429, 429, 429]
    assert answers[3].headers["ratelimit"] == '"narrow";r=0;t=60'
    assert wide_left() == 8


def test_a_wsgi_application_that_serves_a_denied_request_all_the_same(
    store: headway.MemoryStore, wide_left: Left
) -> None:
    narrow = RateLimitMiddleware(hello, NARROW, store=store, on_limited=lambda *_: hello)
    with serving(RateLimitMiddleware(narrow, WIDE, store=store)) as port:
        assert [get(port).status for _ in range(4)] == [200] * 4
    assert wide_left() == 5


class TestFlask:
    @pytest.fixture(autouse=True)
    def flask(self) -> Any:
        return pytest.importorskip("flask")

    @pytest.mark.parametrize("outer", ["application", "blueprint", "decorator", "wsgi"])
    @pytest.mark.parametrize("handler", [False, True])
    def test_a_view_that_denies(
        self, flask: Any, outer: str, handler: bool, store: headway.MemoryStore, wide_left: Left
    ) -> None:
        from headway.contrib.flask import RateLimit, RateLimitExceeded

        app = flask.Flask("test")
        pages = flask.Blueprint("pages", "test")
        limits = RateLimit(limits=WIDE if outer == "application" else None, store=store)
        limits.init_app(app)

        def index() -> str:
            return "index"

        view = limits.limit(NARROW)(index)
        pages.get("/")(limits.limit(WIDE)(view) if outer == "decorator" else view)
        if outer == "blueprint":
            limits.limit(WIDE)(pages)
        app.register_blueprint(pages)
        if handler:
            app.register_error_handler(RateLimitExceeded, lambda error: ("wait", 420))
        if outer == "wsgi":
            app.wsgi_app = RateLimitMiddleware(app.wsgi_app, WIDE, store=store)
        client = app.test_client()
        answers = [client.get("/") for _ in range(4)]
        assert [answer.status_code for answer in answers] == [200, *[420 if handler else 429] * 3]
        assert answers[3].headers["RateLimit"] == '"narrow";r=0;t=60'
        assert wide_left() == 8

    def test_a_request_that_is_served_all_the_same(
        self, flask: Any, store: headway.MemoryStore, wide_left: Left
    ) -> None:
        from headway.contrib.flask import RateLimit

        app = flask.Flask("test")
        limits = RateLimit(app, WIDE, store=store)
        app.get("/")(limits.limit(NARROW, on_limited=lambda *_: "kept")(lambda: "fresh"))
        client = app.test_client()
        assert [client.get("/").text for _ in range(4)] == ["fresh", *["kept"] * 3]
        assert wide_left() == 5


class TestDjango:
    @pytest.fixture(autouse=True)
    def django(self) -> Any:
        return pytest.importorskip("django")

    @pytest.mark.parametrize("awaits", [False, True], ids=["wsgi", "asgi"])
    @pytest.mark.parametrize("coroutine", [False, True], ids=["plain", "coroutine"])
    @pytest.mark.parametrize("outer", ["middleware", "decorator", "decorator alone"])
    def test_a_view_that_denies(
        self, awaits: bool, coroutine: bool, outer: str, store: headway.MemoryStore, wide_left: Left
    ) -> None:
        import django_site
        from django.http import HttpResponse
        from django.test import AsyncClient, Client, override_settings
        from django.urls import path

        from headway.contrib.django import limit

        def called(request: Any) -> Any:
            return HttpResponse("ok")

        async def awaited(request: Any) -> Any:
            return HttpResponse("ok")

        assert django_site.urlpatterns
        view: Any = limit(NARROW)(awaited if coroutine else called)
        if outer != "middleware":
            view = limit(WIDE)(view)

        class Urls:
            urlpatterns = [path("", view)]  # noqa: RUF012

        said: dict[str, Any] = {"STORE": store}
        if outer == "middleware":
            said["LIMITS"] = WIDE
        said = {"HEADWAY": said, "ROOT_URLCONF": Urls}
        if outer == "decorator alone":
            said["MIDDLEWARE"] = []
        with override_settings(**said):
            if awaits:
                found = asyncio.run(_asked(AsyncClient()))
            else:
                client = Client()
                found = [client.get("/") for _ in range(4)]
        assert [answer.status_code for answer in found] == [200, 429, 429, 429]
        assert found[3].headers["RateLimit"] == '"narrow";r=0;t=60'
        assert wide_left() == 8

    @pytest.mark.parametrize("outer", ["middleware", "decorator"])
    def test_a_request_that_is_served_all_the_same(
        self, outer: str, store: headway.MemoryStore, wide_left: Left
    ) -> None:
        import django_site
        from django.http import HttpResponse
        from django.test import Client, override_settings
        from django.urls import path

        from headway.contrib.django import limit

        @limit(NARROW)
        def fresh(request: Any) -> Any:
            return HttpResponse("fresh")

        def view(request: Any) -> Any:
            found = fresh(request)
            return found if found.status_code == 200 else HttpResponse("kept")

        assert django_site.urlpatterns
        said: dict[str, Any] = {"STORE": store}
        if outer == "middleware":
            said["LIMITS"] = WIDE

        class Urls:
            urlpatterns = [  # noqa: RUF012
                path("", limit(WIDE)(view) if outer == "decorator" else view)
            ]

        with override_settings(HEADWAY=said, ROOT_URLCONF=Urls):
            client = Client()
            found = [client.get("/").content for _ in range(4)]
        assert found == [b"fresh", *[b"kept"] * 3]
        assert wide_left() == 5


async def _asked(client: Any) -> list[Any]:
    return [await client.get("/") for _ in range(4)]


class TestAiohttp:
    @pytest.fixture(autouse=True)
    def aiohttp(self) -> Any:
        return pytest.importorskip("aiohttp")

    @pytest.mark.parametrize("outer", ["application", "parent", "decorator"])
    def test_a_handler_that_denies(
        self, outer: str, store: headway.MemoryStore, wide_left: Left
    ) -> None:
        from aiohttp import web
        from aiohttp.test_utils import TestClient, TestServer

        from headway.contrib.aiohttp import RateLimit

        async def index(request: web.Request) -> web.Response:
            return web.Response(text="ok")

        limits = RateLimit(WIDE if outer == "application" else None, store=store)
        handler = limits.limit(NARROW)(index)
        app = web.Application()
        limits.setup(app)
        app.router.add_get("/", limits.limit(WIDE)(handler) if outer == "decorator" else handler)
        path = "/"
        if outer == "parent":
            parent, path = web.Application(), "/child/"
            RateLimit(WIDE, store=store).setup(parent)
            parent.add_subapp("/child", app)
            app = parent

        async def main() -> None:
            async with TestClient(TestServer(app)) as client:
                for expected in (200, 429, 429, 429):
                    async with client.get(path) as response:
                        assert response.status == expected
                        told = response.headers["RateLimit"]
                assert told == '"narrow";r=0;t=60'

        asyncio.run(main())
        assert wide_left() == 8

    def test_a_handler_that_serves_a_denied_request_all_the_same(
        self, store: headway.MemoryStore, wide_left: Left
    ) -> None:
        from aiohttp import web
        from aiohttp.test_utils import TestClient, TestServer

        from headway.contrib.aiohttp import RateLimit

        async def index(request: web.Request) -> web.Response:
            return web.Response(text="fresh")

        def kept(request: web.Request, verdict: Any) -> web.Response:
            return web.Response(text="kept")

        limits = RateLimit(WIDE, store=store)
        app = web.Application()
        limits.setup(app)
        app.router.add_get("/", limits.limit(NARROW, on_limited=kept)(index))

        async def main() -> list[str]:
            async with TestClient(TestServer(app)) as client:
                return [await (await client.get("/")).text() for _ in range(4)]

        assert asyncio.run(main()) == ["fresh", *["kept"] * 3]
        assert wide_left() == 5

"""What Flask, Django and aiohttp route to a view, the rule for the view's path is for."""

from __future__ import annotations

import asyncio
import io
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

import headway
from headway.contrib import Rule
from headway.contrib.wsgi import RateLimitMiddleware

sys.path.append(str(Path(__file__).parents[1] / "contrib_asgi"))

from odd_paths import targets, wsgi_path

NEVER_USED_UP = "1000000/s"
roots = st.sampled_from(["", "/shop"])


def rules_for(templates: Iterable[str]) -> list[Rule]:
    return [Rule(NEVER_USED_UP, name=f"r{n}", paths=path) for n, path in enumerate(templates)]


def call(app: Any, target: str, root: str = "") -> tuple[int, str, str]:
    """Status, body and the RateLimit field of a GET, as a WSGI server calls an application."""
    started: list[Any] = []
    environ = {
        "REQUEST_METHOD": "GET",
        "SCRIPT_NAME": root,
        "PATH_INFO": wsgi_path(target),
        "QUERY_STRING": "",
        "SERVER_NAME": "x",
        "SERVER_PORT": "80",
        "SERVER_PROTOCOL": "HTTP/1.1",
        "REMOTE_ADDR": "192.0.2.1",
        "wsgi.version": (1, 0),
        "wsgi.url_scheme": "http",
        "wsgi.input": io.BytesIO(),
        "wsgi.errors": sys.stderr,
        "wsgi.multithread": True,
        "wsgi.multiprocess": False,
        "wsgi.run_once": False,
    }
    body = app(environ, lambda status, fields, exc_info=None: started.append((status, fields)))
    text = b"".join(body).decode()
    if hasattr(body, "close"):
        body.close()
    status, fields = started[-1]
    return int(status[:3]), text, {n.lower(): v for n, v in fields}.get("ratelimit", "")


FLASK = (
    "/",
    "/login",
    "/items/<id>",
    "/items/<int(signed=True):id>/x",
    "/items/<float:id>/<uuid:n>",
    "/users/<string(length=1):name>/",
    "/<name>.json",
    "/<any(LOGIN, users):name>",
    "/files/<path:path>",
    "/files/<path:path>/x",
    "/a b/café",
)


def flask_app(strict: bool, limits: list[Rule] | None) -> Any:
    flask = pytest.importorskip("flask")
    from headway.contrib.flask import RateLimit

    app = flask.Flask("test")
    app.url_map.strict_slashes = strict
    if limits is not None:
        RateLimit(app, limits)
    for number, path in enumerate(FLASK):
        app.add_url_rule(path, f"r{number}", lambda number=number, **_: f"r{number}")
    return app


@pytest.mark.parametrize("strict", [True, False])
@given(targets, roots)
@example(["/login%0A", "//login", "/login/", "/users/a", "/x.json%0A", "/files/a/b"], "")
@example(["/login"], "/shop")
def test_flask(strict: bool, found: list[str], root: str) -> None:
    app = flask_app(strict, rules_for(FLASK)).wsgi_app
    for target in found:
        status, body, told = call(app, target, root)
        if status == 200:
            assert f'"{body}"' in told, target


@given(targets, roots)
@example(["/login%0A", "//login", "/x.json%0A"], "")
@example(["/login"], "/shop")
def test_a_wsgi_middleware_before_flask(found: list[str], root: str) -> None:
    app = RateLimitMiddleware(flask_app(True, None).wsgi_app, rules_for(FLASK))
    for target in found:
        status, body, told = call(app, target, root)
        if status == 200:
            assert f'"{body}"' in told, target


DJANGO = (
    "/",
    "/login",
    "/exact",
    "/items/<id>",
    "/items/<int:id>/x",
    "/items/<str:id>/<uuid:n>",
    "/users/<slug:name>/",
    "/files/<path:path>",
    "/a b/café",
)


def django_app() -> Any:
    pytest.importorskip("django")
    import django_site
    from django.core.handlers.wsgi import WSGIHandler
    from django.http import HttpResponse
    from django.urls import path, re_path

    assert django_site.urlpatterns

    def view(number: int) -> Any:
        return lambda request, **_: HttpResponse(f"r{number}")

    class Urls:
        urlpatterns = [  # noqa: RUF012
            re_path(r"^exact$", view(n)) if template == "/exact" else path(template[1:], view(n))
            for n, template in enumerate(DJANGO)
        ]

    return Urls, WSGIHandler


@pytest.mark.parametrize("forced", [None, "/forced"])
@given(targets, roots)
@example(["/login", "/exact%0A", "/login%0A", "//login", "/files/a/b"], "")
@example(["/login"], "/shop")
def test_django(forced: str | None, found: list[str], root: str) -> None:
    urls, handler = django_app()
    from django.test import override_settings

    with override_settings(
        ROOT_URLCONF=urls, HEADWAY={"LIMITS": rules_for(DJANGO)}, FORCE_SCRIPT_NAME=forced
    ):
        app = handler()
        for target in found:
            status, body, told = call(app, target, root)
            if status == 200:
                assert f'"{body}"' in told, target


AIOHTTP = (
    "/",
    "/login",
    "/items/{id}",
    r"/items/{id:\d+}/x",
    "/users/{name}/",
    "/{name}.json",
    "/files/{path:.*}",
    "/a b/café",
)


@given(targets)
@example(["/login", "/items/a%2Fb", "/items/a%2fb", "/files/a/b", "/login%0A", "//login"])
@example(["http://example.org/login", "http://example.org:80//login", "/items/100%25"])
def test_aiohttp(found: list[str]) -> None:
    web = pytest.importorskip("aiohttp.web")
    from aiohttp.test_utils import TestServer

    from headway.contrib.aiohttp import RateLimit

    def view(number: int) -> Any:
        async def answer(request: Any) -> Any:
            return web.Response(text=f"r{number}")

        return answer

    app = web.Application()
    for number, template in enumerate(AIOHTTP):
        app.router.add_get(template, view(number))
    paths = [template.replace(r"{id:\d+}", "{id:int}") for template in AIOHTTP]
    RateLimit(rules_for(paths)).setup(app)

    async def main() -> None:
        server = TestServer(app)
        await server.start_server()
        try:
            for target in found:
                reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
                head = f"GET {target} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
                writer.write(head.encode())
                head_and_body = (await asyncio.wait_for(reader.read(), 30)).decode()
                writer.close()
                if head_and_body.startswith("HTTP/1.1 200"):
                    fields, _, body = head_and_body.partition("\r\n\r\n")
                    told = [f for f in fields.split("\r\n") if f.lower().startswith("ratelimit:")]
                    assert f'"{body}"' in "".join(told), target
        finally:
            await server.close()

    asyncio.run(main())


def test_flask_under_a_dispatcher_has_its_rules_and_exemptions(store: headway.MemoryStore) -> None:
    flask = pytest.importorskip("flask")
    from werkzeug.middleware.dispatcher import DispatcherMiddleware
    from werkzeug.test import Client

    from headway.contrib.flask import RateLimit

    app = flask.Flask("shop")
    limits = [Rule("2/h", name="login", paths="/login"), Rule("4/h", name="all", exempt="/health")]
    RateLimit(app, limits, store=store)
    app.add_url_rule("/login", "login", lambda: "in")
    app.add_url_rule("/health", "health", lambda: "ok")
    client = Client(DispatcherMiddleware(flask.Flask("root"), {"/shop": app}))
    assert [client.get("/shop/login").status_code for _ in range(3)] == [200, 200, 429]
    assert {client.get("/shop/health").status_code for _ in range(5)} == {200}

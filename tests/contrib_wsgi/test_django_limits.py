"""Django's middleware and decorator, under WSGI and ASGI alike: by Django's test clients, and over
servers where that matters.
"""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from wsgi_servers import get, serving

import headway

pytest.importorskip("django")

import django_site as site
from django.core.handlers.asgi import ASGIHandler
from django.core.handlers.wsgi import WSGIHandler
from django.http import HttpResponse
from django.test import AsyncClient, Client, override_settings
from django.urls import clear_url_caches, path

from headway.contrib.django import Concurrency, RateLimitMiddleware, Rule, limit, user
from headway.contrib.wsgi import RateLimitMiddleware as WsgiMiddleware

Get = Callable[..., Any]


@pytest.fixture(params=["wsgi", "asgi"])
def client(request: pytest.FixtureRequest) -> Get:
    """Asks a site that is made with the settings of the moment."""

    def get(path: str, client: list[Any] = [], **headers: str) -> Any:  # noqa: B006
        kind: Any = Client if request.param == "wsgi" else AsyncClient
        if not client:
            client.append(kind(raise_request_exception=False))
        options = {"headers": {name.replace("_", "-"): value for name, value in headers.items()}}
        if request.param == "wsgi":
            return client[0].get(path, **options)

        async def main() -> Any:
            response = await client[0].get(path, **options)
            if response.streaming and response.is_async:
                body = b"".join([part async for part in response.streaming_content])
            else:
                body = response.getvalue()
            response.body = body
            return response

        return asyncio.run(main())

    def asking(path: str, **headers: str) -> Any:
        return get(path, asking.client, **headers)  # type: ignore[attr-defined]

    asking.client = []  # type: ignore[attr-defined]
    return asking


def configured(**settings: Any) -> Any:
    return override_settings(HEADWAY=settings)


def statuses(client: Get, *paths: str, **headers: str) -> list[int]:
    return [client(path, **headers).status_code for path in paths]


def test_the_whole_site_is_limited(client: Get, store: headway.MemoryStore) -> None:
    with configured(LIMITS="3/minute", STORE=store):
        assert statuses(client, "/", "/coroutine", "/nothing-here") == [200, 200, 404]
        denied = client("/", accept="application/json")
    assert denied.status_code == 429
    assert denied.headers["Retry-After"] == "20"
    assert denied.headers["RateLimit"] == '"default";r=0;t=60'
    assert denied.headers["RateLimit-Policy"] == '"default";q=3;w=60'
    assert denied.headers["X-RateLimit-Remaining"] == "0"
    assert denied.json()["detail"] == "Rate limit exceeded: try again in 20 seconds."


@pytest.mark.parametrize("path", ["/", "/coroutine", "/stream", "/async-stream", "/file", "/no"])
def test_a_response_of_any_kind_tells_what_remains(
    client: Get, path: str, store: headway.MemoryStore
) -> None:
    with configured(LIMITS="5/minute", STORE=store):
        answer = client(path)
    assert answer.headers["RateLimit"] == '"default";r=4;t=12'


def test_a_view_has_a_limit_of_its_own_and_both_are_told(
    client: Get, store: headway.MemoryStore
) -> None:
    with configured(LIMITS="9/minute", STORE=store):
        first = client("/limited/1")
        assert first.headers["RateLimit"] == '"default";r=8;t=7, "limited";r=1;t=30'
        assert statuses(client, "/limited/2", "/limited/3") == [200, 429]
        assert client("/limited/1").headers["Retry-After"] == "30"
    assert site.limited.__doc__ == "Limited."


def test_decorators_need_no_middleware(client: Get, store: headway.MemoryStore) -> None:
    with override_settings(MIDDLEWARE=[], HEADWAY={"STORE": store}):
        assert statuses(client, "/limited/1", "/limited/2", "/limited/3") == [200, 200, 429]
        assert client("/limited/1").headers["RateLimit-Policy"] == '"limited";q=2;w=60'
        assert "RateLimit" not in client("/").headers


def test_users_have_counts_of_their_own_and_others_their_address(
    client: Get, store: headway.MemoryStore
) -> None:
    with configured(LIMITS=Rule("2/minute", key=user()), STORE=store):
        for who in ("ann", "ben"):
            assert statuses(client, *["/"] * 3, x_user=who) == [200, 200, 429]
        assert statuses(client, *["/"] * 3) == [200, 200, 429]


def test_a_coroutine_is_limited_by_its_user(client: Get, store: headway.MemoryStore) -> None:
    with configured(STORE=store):
        for who in ("ann", "ben"):
            assert statuses(client, *["/limited-coroutine"] * 3, x_user=who) == [200, 200, 429]


def test_the_route_of_a_view_is_its_pattern(client: Get, store: headway.MemoryStore) -> None:
    with configured(STORE=store):
        assert statuses(client, *(f"/by-route/{n}" for n in range(3))) == [200, 200, 429]


@pytest.mark.parametrize("path", ["/items", "/async-items", "/decorated"])
def test_a_class_of_views_is_limited(client: Get, path: str, store: headway.MemoryStore) -> None:
    with configured(STORE=store):
        assert statuses(client, path, path) == [200, 429]


@pytest.mark.parametrize("path", ["/health", "/health-class"])
def test_exempt_views_are_not_counted(client: Get, path: str, store: headway.MemoryStore) -> None:
    with configured(LIMITS="2/minute", STORE=store):
        assert set(statuses(client, *[path] * 4)) == {200}
        assert statuses(client, "/", "/", "/") == [200, 200, 429]


def test_callables_may_be_given_by_their_names(client: Get, store: headway.MemoryStore) -> None:
    with configured(
        LIMITS="1/minute", KEY="django_site.who", ON_LIMITED="django_site.teapot", STORE=store
    ):
        assert statuses(client, "/", "/", x_who="ann") == [200, 418]
        assert statuses(client, "/", "/", x_who="ben") == [200, 418]
        assert statuses(client, "/", "/") == [200, 200]
        assert client("/", x_who="ann").headers["Retry-After"] == "60"


def test_quota_and_cost_may_depend_on_the_request(client: Get, store: headway.MemoryStore) -> None:
    rule = Rule(
        lambda request: {"free": "2/minute", "paid": "8/minute"}.get(request.headers["x-plan"]),
        cost=lambda request: int(request.headers.get("x-cost", 1)),
        key=user(),
    )
    with configured(LIMITS=[rule], STORE=store):
        assert statuses(client, *["/"] * 4, x_user="ann", x_plan="free").count(200) == 2
        assert statuses(client, *["/"] * 9, x_user="ben", x_plan="paid").count(200) == 8
        assert statuses(client, *["/"] * 4, x_user="cid", x_plan="paid", x_cost="4").count(200) == 2
        assert statuses(client, *["/"] * 4, x_user="dan", x_plan="staff").count(200) == 4


def test_a_dry_run_denies_nothing_and_tells_nothing(client: Get) -> None:
    with configured(LIMITS="1/minute", DRY_RUN=True):
        assert statuses(client, "/", "/") == [200, 200]
        assert "RateLimit" not in client("/").headers


@pytest.mark.parametrize(("on_error", "status"), [("deny", 503), ("allow", 200), ("raise", 500)])
def test_a_store_that_is_down_is_answered_as_told(client: Get, on_error: str, status: int) -> None:
    with configured(LIMITS="1/s", STORE="redis://127.0.0.1:1/0", ON_ERROR=on_error):
        assert statuses(client, "/", "/") == [status, status]


def test_a_view_that_raises_gives_its_permit_back(client: Get) -> None:
    with configured():
        assert statuses(client, "/broken", "/broken") == [500, 500]


@contextmanager
def serving_asgi() -> Iterator[int]:
    uvicorn = pytest.importorskip("uvicorn")
    config = uvicorn.Config(ASGIHandler(), log_level="critical", lifespan="off")
    server = uvicorn.Server(config)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        run = {"sockets": [listener]}
        thread = threading.Thread(target=server.run, kwargs=run, daemon=True)
        thread.start()
        try:
            yield listener.getsockname()[1]
        finally:
            server.should_exit = server.force_exit = True
            thread.join(30)


@pytest.fixture
def page() -> Iterator[None]:
    """A view, /page, one at a time."""
    found = limit(Concurrency(1))(lambda request: HttpResponse("page"))
    site.urlpatterns.append(path("page", found))
    clear_url_caches()
    yield
    site.urlpatterns.pop()
    clear_url_caches()


def test_a_response_that_is_replaced_further_out_gives_its_permit_back(
    client: Get, page: None, eventually: Callable[..., None]
) -> None:
    names = ["django.middleware.http.ConditionalGetMiddleware"]
    names += ["headway.contrib.django.RateLimitMiddleware"]
    with override_settings(MIDDLEWARE=names):
        tag = client("/page")["ETag"]
        for _ in range(2):
            eventually(
                lambda: client("/page", if_none_match=tag).status_code == 304,
                "the permit of the page that has not changed is free",
            )


@pytest.mark.parametrize(
    ("server", "path"),
    [
        ("waitress", "/one-at-a-time"),
        ("waitress", "/one-coroutine-at-a-time"),
        ("uvicorn", "/one-task-at-a-time"),
    ],
)
def test_a_permit_is_held_as_long_as_a_response_is_streamed(
    server: str, path: str, start: Any, eventually: Callable[..., None]
) -> None:
    site.go.clear()
    site.running.clear()
    with configured():
        site_of = serving_asgi() if server == "uvicorn" else serving(WSGIHandler(), "waitress")
        with site_of as port:
            first = start(lambda: get(port, path))
            assert site.running.wait(30)
            denied = get(port, path)
            site.go.set()
            assert first.result().body == b"one,two"
            eventually(lambda: get(port, path).status == 200, "the permit is free again")
    assert denied.status == 429
    assert denied.headers["retry-after"] == "5"


def test_a_client_that_goes_away_gives_its_permit_back(eventually: Callable[..., None]) -> None:
    path = "/one-task-at-a-time"
    site.go.clear()
    site.running.clear()
    with configured(), serving_asgi() as port:
        with socket.create_connection(("127.0.0.1", port)) as gone:
            gone.sendall(f"GET {path} HTTP/1.1\r\nHost: test\r\n\r\n".encode())
            assert site.running.wait(30)
            assert get(port, path).status == 429
        site.go.set()
        eventually(lambda: get(port, path).status == 200, "the permit is free", deadline=15)


def test_a_wsgi_middleware_around_django_tells_of_both(store: headway.MemoryStore) -> None:
    with configured(LIMITS=Rule("2/minute", name="inner"), STORE=store):
        app = WsgiMiddleware(WSGIHandler(), Rule("9/minute", name="outer"), store=store)
        with serving(app) as port:
            answer = get(port)
    assert answer.headers["ratelimit"] == '"outer";r=8;t=7, "inner";r=1;t=30'


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"LIMIT": "1/s"}, r"Invalid HEADWAY\['LIMIT'\]: unknown; known are DRY_RUN, EXEMPT"),
        ({"LIMITS": "1/fortnight"}, "fortnight"),
        ({"LIMITS": "1/s", "KEY": "nowhere.at_all"}, r"HEADWAY\['KEY'\]: 'nowhere.at_all' cannot"),
        ({"LIMITS": "1/s", "STORE": "nowhere://"}, "nowhere"),
        ({"LIMITS": "1/s", "ON_ERROR": "pass"}, "Invalid on_error: 'pass'"),
        ("1/s", "Invalid HEADWAY: '1/s', must be a dictionary"),
    ],
)
def test_a_mistake_in_the_settings_is_named_when_the_site_starts(
    settings: Any, sentence: str
) -> None:
    with (
        override_settings(HEADWAY=settings),
        pytest.raises(headway.BaseThrottledError, match=sentence),
    ):
        RateLimitMiddleware(lambda request: None)


def test_a_mistake_in_a_decorator_is_named_at_once() -> None:
    with pytest.raises(headway.DataError, match="fortnight"):
        limit("1/fortnight")(site.plain)
    with pytest.raises(TypeError, match="unexpected keyword argument 'qouta'"):
        limit("1/s", qouta="2/s")


def test_without_django_the_error_says_what_to_install(run_python: Any) -> None:
    program = """
        import sys
        sys.modules["django"] = None
        try:
            import headway.contrib.django
        except ImportError as error:
            print(error)
    """
    assert run_python(program) == (
        'headway.contrib.django needs Django: pip install "headway[django]"\n'
    )

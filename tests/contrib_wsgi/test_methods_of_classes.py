"""Handlers that are methods of a class: the request is their second argument."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest


def test_a_method_of_an_aiohttp_handler_class_is_limited() -> None:
    web = pytest.importorskip("aiohttp.web")
    from aiohttp.test_utils import TestClient, TestServer

    from headway.contrib.aiohttp import RateLimit

    limits = RateLimit()

    class Handler:
        @limits.limit("2/minute")
        async def hello(self, request: Any) -> Any:
            return web.Response(text="hello")

    async def main() -> list[int]:
        app = web.Application()
        limits.setup(app)
        app.router.add_get("/", Handler().hello)
        async with TestClient(TestServer(app)) as client:
            return [(await client.get("/")).status for _ in range(3)]

    assert asyncio.run(main()) == [200, 200, 429]


def test_an_aiohttp_handler_without_a_request_says_what_is_missing() -> None:
    pytest.importorskip("aiohttp")
    from headway import SetUpError
    from headway.contrib.aiohttp import RateLimit

    @RateLimit().limit("2/minute")
    async def handler(thing: object) -> None:
        pass

    with pytest.raises(SetUpError, match="without a request"):
        asyncio.run(handler("no request"))


@pytest.mark.parametrize("is_async", [False, True])
def test_a_method_of_a_django_class_is_limited(is_async: bool) -> None:
    pytest.importorskip("django")
    import django_site
    from django.http import HttpResponse
    from django.test import AsyncClient, Client, override_settings
    from django.urls import path
    from django.views import View

    from headway.contrib.django import limit

    assert django_site.urlpatterns

    class Plain(View):
        @limit("2/minute", name="method")
        def get(self, request: Any) -> Any:
            return HttpResponse("ok")

    class Awaited(View):
        @limit("2/minute", name="method")
        async def get(self, request: Any) -> Any:
            return HttpResponse("ok")

    class Urls:
        urlpatterns = [path("", (Awaited if is_async else Plain).as_view())]  # noqa: RUF012

    with override_settings(ROOT_URLCONF=Urls, HEADWAY={}):
        if is_async:
            client = AsyncClient()

            async def main() -> list[int]:
                return [(await client.get("/")).status_code for _ in range(3)]

            assert asyncio.run(main()) == [200, 200, 429]
        else:
            assert [Client().get("/").status_code for _ in range(3)] == [200, 200, 429]


@pytest.mark.parametrize("where", ["view", "middleware"])
def test_on_limited_of_django_may_be_a_coroutine_function_where_it_is_awaited(where: str) -> None:
    pytest.importorskip("django")
    import django_site
    from django.http import HttpResponse
    from django.test import AsyncClient, override_settings
    from django.urls import path

    from headway import SetUpError
    from headway.contrib.django import limit

    assert django_site.urlpatterns

    async def answers(request: Any, verdict: Any) -> Any:
        return HttpResponse("later", status=418)

    def view(request: Any) -> Any:
        return HttpResponse("ok")

    async def awaited(request: Any) -> Any:
        return HttpResponse("ok")

    with pytest.raises(SetUpError, match=r"Invalid on_limited: .* is a coroutine function"):
        limit("1/m", on_limited=answers)(view)
    limited = limit("1/m", on_limited=answers)(awaited)

    class Urls:
        urlpatterns = [path("", limited if where == "view" else awaited)]  # noqa: RUF012

    said = {} if where == "view" else {"LIMITS": "1/m", "ON_LIMITED": answers}

    async def main() -> list[int]:
        client = AsyncClient()
        return [(await client.get("/")).status_code for _ in range(2)]

    with override_settings(ROOT_URLCONF=Urls, HEADWAY=said):
        assert asyncio.run(main()) == [200, 418]

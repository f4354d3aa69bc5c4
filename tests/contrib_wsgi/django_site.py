"""A Django site, in one module: settings, views, URLs. Views wait for `go` and set `running`."""

from __future__ import annotations

import asyncio
import io
import threading
from collections.abc import AsyncIterator, Iterator
from typing import Any

import django
from asgiref.sync import iscoroutinefunction, markcoroutinefunction
from django.conf import settings
from django.http import FileResponse, HttpResponse, StreamingHttpResponse
from django.urls import path
from django.utils.decorators import method_decorator
from django.views import View

settings.configure(
    ROOT_URLCONF=__name__,
    ALLOWED_HOSTS=["*"],
    MIDDLEWARE=[
        "django_site.Login",
        "headway.contrib.django.RateLimitMiddleware",
    ],
    USE_TZ=True,
    SECRET_KEY="for tests",
)
django.setup()

from headway.contrib.django import Concurrency, Rule, exempt, limit, route, user  # noqa: E402

go, running = threading.Event(), threading.Event()


class Known:
    """A user, as far as a limit looks."""

    def __init__(self, name: str | None) -> None:
        self.pk, self.is_authenticated = name, name is not None


class Login:
    """Logs in who says so, as Django's own middleware does it: `request.user` touches a database,
    so under ASGI only `request.auser()` is allowed.
    """

    sync_capable = async_capable = True

    def __init__(self, get_response: Any) -> None:
        self.get_response = get_response
        if iscoroutinefunction(get_response):
            markcoroutinefunction(self)

    def __call__(self, request: Any) -> Any:
        request.user = LazyUser(request)

        async def auser() -> Known:
            return Known(request.headers.get("x-user"))

        request.auser = auser
        return self.get_response(request)


class LazyUser:
    def __init__(self, request: Any) -> None:
        self._request = request

    @property
    def is_authenticated(self) -> bool:
        try:
            asyncio.get_running_loop()
        except RuntimeError:
            return "x-user" in self._request.headers
        raise AssertionError("request.user was used in an event loop")

    @property
    def pk(self) -> str:
        return str(self._request.headers["x-user"])


def plain(request: Any) -> Any:
    return HttpResponse("plain")


async def coroutine(request: Any) -> Any:
    return HttpResponse("coroutine")


def stream(request: Any) -> Any:
    return StreamingHttpResponse(iter(["one,", "two"]), content_type="text/plain")


async def async_stream(request: Any) -> Any:
    async def parts() -> AsyncIterator[str]:
        yield "one,"
        yield "two"

    return StreamingHttpResponse(parts(), content_type="text/plain")


def file(request: Any) -> Any:
    return FileResponse(io.BytesIO(b"x" * 100_000))


@limit("2/minute")
def limited(request: Any, number: int) -> Any:
    """Limited."""
    return HttpResponse(str(number))


@limit(Rule("2/minute", key=user()))
async def limited_coroutine(request: Any) -> Any:
    return HttpResponse("limited")


@limit(Rule("2/minute", key=route()))
def by_route(request: Any, number: int) -> Any:
    return HttpResponse(str(number))


@limit("1/minute")
class Items(View):
    def get(self, request: Any) -> Any:
        return HttpResponse("items")


@limit("1/minute")
class AsyncItems(View):
    async def get(self, request: Any) -> Any:
        return HttpResponse("items")


@method_decorator(limit("1/minute", name="decorated"), name="dispatch")
class Decorated(View):
    async def get(self, request: Any) -> Any:
        return HttpResponse("decorated")


@exempt
def health(request: Any) -> Any:
    return HttpResponse("ok")


@exempt
class Health(View):
    def get(self, request: Any) -> Any:
        return HttpResponse("ok")


@limit(Concurrency(1))
def one_at_a_time(request: Any) -> Any:
    def parts() -> Iterator[str]:
        yield "one,"
        running.set()
        go.wait(30)
        yield "two"

    return StreamingHttpResponse(parts(), content_type="text/plain")


@limit(Concurrency(1))
async def one_task_at_a_time(request: Any) -> Any:
    async def parts() -> AsyncIterator[str]:
        yield "one,"
        running.set()
        while not go.is_set():
            await asyncio.sleep(0.001)
        yield "two"

    return StreamingHttpResponse(parts(), content_type="text/plain")


@limit(Concurrency(1))
async def one_coroutine_at_a_time(request: Any) -> Any:
    return one_at_a_time.__wrapped__(request)


@limit(Concurrency(1))
def broken(request: Any) -> Any:
    raise ValueError("broken")


urlpatterns = [
    path("", plain),
    path("coroutine", coroutine),
    path("stream", stream),
    path("async-stream", async_stream),
    path("file", file),
    path("limited/<int:number>", limited),
    path("limited-coroutine", limited_coroutine),
    path("by-route/<int:number>", by_route),
    path("items", Items.as_view()),
    path("async-items", AsyncItems.as_view()),
    path("decorated", Decorated.as_view()),
    path("health", health),
    path("health-class", Health.as_view()),
    path("one-at-a-time", one_at_a_time),
    path("one-task-at-a-time", one_task_at_a_time),
    path("one-coroutine-at-a-time", one_coroutine_at_a_time),
    path("broken", broken),
]


def teapot(request: Any, verdict: Any) -> Any:
    """For ON_LIMITED."""
    return HttpResponse(verdict.detail, status=418)


def who(request: Any) -> str | None:
    """For KEY."""
    return request.headers.get("x-who")  # type: ignore[no-any-return]

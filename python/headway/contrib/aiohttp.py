"""Limits for aiohttp's server: for an application, its handlers and its WebSockets.

    from headway.contrib.aiohttp import Concurrency, RateLimit, Rule

    limits = RateLimit([Rule("100/minute"), Concurrency(5, name="sockets", paths="/ws/*")])
    limits.setup(app)

    @limits.limit("5/minute")
    async def search(request): ...

    @limits.exempt
    async def health(request): ...

`setup` adds a middleware, which decides, and a signal's handler, which puts the fields into every
response as it is about to be sent: streams, files, errors and WebSocket handshakes too. A permit of
`Concurrency` is held until the response is sent with all its body, that of a WebSocket until its
end. Callables of your own are given the request, and may be coroutine
functions.
"""

import functools
import inspect
import re
from collections.abc import Awaitable, Callable, Iterable
from typing import Any, TypeVar
from urllib.parse import unquote

from headway.contrib._bare import refuse_bare
from headway.contrib._keys import (
    KeyFunction,
    KeyLike,
    api_key,
    client_address,
    combine,
    route,
    user,
)
from headway.contrib._policy import Policy, checked_on_limited, store_of
from headway.contrib._query import first_value
from headway.contrib._rules import Concurrency, Exempt, Rule, RuleLike
from headway.contrib._verdict import Verdict
from headway.contrib._views import rules_of_view, settled
from headway.exceptions import SetUpError

try:
    from aiohttp import web
except ImportError as missing:
    if (missing.name or "").partition(".")[0] != "aiohttp":
        raise
    raise ImportError(
        'headway.contrib.aiohttp needs aiohttp: pip install "headway[aiohttp]"', name="aiohttp"
    ) from missing

__all__ = [
    "USER",
    "Concurrency",
    "KeyFunction",
    "RateLimit",
    "RequestFacts",
    "Rule",
    "Verdict",
    "api_key",
    "client_address",
    "combine",
    "route",
    "user",
]

_Key: Any = getattr(web, "RequestKey", lambda name, kind: name)  # since aiohttp 3.14
VERDICTS = _Key("headway_verdicts", list)
USER = _Key("headway_user", str)
"""Where in a request whoever logs users in leaves the name: `request[USER] = "ann"`."""
EXEMPT = "_headway_exempt"
_SLASH = re.compile("%2F", re.IGNORECASE)
OPTIONS = ("key", "store", "headers", "reset", "dry_run", "on_error", "exempt")

_H = TypeVar("_H", bound=Callable[..., Any])
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
OnLimited = Callable[[web.Request, Verdict], Any]


class RequestFacts:
    """What a limit may know of a request, as aiohttp knows it."""

    __slots__ = ("request",)

    def __init__(self, request: web.Request) -> None:
        self.request = request

    @property
    def method(self) -> str:
        return self.request.method.upper()

    @property
    def path(self) -> str:
        """For the router an encoded slash is no slash: it is part of a segment."""
        raw = self.request.rel_url.raw_path
        return unquote(_SLASH.sub("%252F", raw)) if "%" in raw else raw

    def address(self) -> str | None:
        return self.request.remote or None

    def header(self, name: str) -> str | None:
        values = self.request.headers.getall(name, [])
        return ", ".join(values) if values else None

    def query(self, name: str) -> str | None:
        return first_value(self.request.rel_url.raw_query_string, name)

    def route(self) -> str:
        resource = self.request.match_info.route.resource
        return self.path if resource is None else resource.canonical

    def user(self) -> str | None:
        known: str | None = self.request.get(USER)
        return known or None


class RateLimit:
    """Limits for an application: `RateLimit("100/minute").setup(app)`.

    limits: quotas and rules for all requests, or None for what decorators say alone. key: who is
    limited, by default the client's address; behind a proxy, `client_address(trusted_proxies=…)`.
    store: a store or URL; by default the counts are in this process. headers: "both", "ietf", "x"
    or "none". reset: whether X-RateLimit-Reset is "after" now or "at" a Unix time. dry_run: decide
    and log only. on_error: "deny" (503), "allow" or "raise" when the store cannot answer. exempt:
    paths, and callables of the request. on_limited: a callable of request and verdict, or a
    coroutine function, that returns the response, or None for the usual one.
    """

    def __init__(
        self,
        limits: "RuleLike | Iterable[RuleLike] | Callable[[web.Request], Any] | None" = None,
        *,
        key: KeyLike | None = None,
        store: object = None,
        headers: str = "both",
        reset: str = "after",
        dry_run: bool = False,
        on_error: str = "deny",
        exempt: "Exempt | Iterable[Exempt] | None" = None,
        on_limited: OnLimited | None = None,
    ) -> None:
        self._options: dict[str, Any] = {
            "key": key,
            "store": store_of(store),
            "headers": headers,
            "reset": reset,
            "dry_run": dry_run,
            "on_error": on_error,
        }
        self._on_limited: OnLimited | None = checked_on_limited(on_limited)
        whole: Any = limits
        self.policy = (
            None if limits is None else Policy(whole, exempt=exempt, awaits=True, **self._options)
        )

    def setup(self, app: web.Application) -> None:
        """Put the limits before `app` and its sub-applications, before it starts."""
        if any(getattr(each, "__self__", None) is self for each in app.middlewares):
            raise SetUpError(f"{app!r} has these limits already.")
        app.middlewares.append(self._middleware)
        app.on_response_prepare.append(_tell)

    def limit(
        self,
        limits: "RuleLike | Iterable[RuleLike] | Callable[[web.Request], Any]",
        *,
        name: str | None = None,
        on_limited: OnLimited | None = None,
        **options: Any,
    ) -> Callable[[_H], _H]:
        """Limit a handler, or a method of a `web.View`, besides what limits all.

        The options are those of `RateLimit`; what is not given is as it is there. Each handler has
        counts of its own.
        """
        refuse_bare(limits)
        for option in options:
            if option not in OPTIONS:
                raise TypeError(f"limit() got an unexpected keyword argument {option!r}")

        def decorate(handler: Any) -> Any:
            if not inspect.iscoroutinefunction(handler):
                raise TypeError(f"limit() decorates an `async def` handler, not {handler!r}.")
            rules = rules_of_view(handler, limits, name)
            policy = Policy(rules, awaits=True, **{**self._options, **options})
            answers = checked_on_limited(on_limited) or self._on_limited

            @functools.wraps(handler)
            async def wrapper(first: Any, *args: Any, **kwargs: Any) -> Any:
                request = _request_of(handler, first, args)

                async def go_on(_: web.Request) -> Any:
                    return await handler(first, *args, **kwargs)

                return await _guarded(policy, answers, request, go_on)

            return wrapper

        return decorate

    def exempt(self, handler: _H) -> _H:
        """Take a handler or a `web.View` out of the limits of all; its decorators still count."""
        setattr(handler, EXEMPT, True)
        return handler

    @web.middleware
    async def _middleware(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        if self.policy is None or hasattr(request.match_info.handler, EXEMPT):
            return await handler(request)
        return await _guarded(self.policy, self._on_limited, request, handler)


async def _guarded(
    policy: Policy, on_limited: OnLimited | None, request: web.Request, handler: Handler
) -> web.StreamResponse:
    verdict = await policy.decide_async(RequestFacts(request), websocket=_is_websocket(request))
    verdicts = request.get(VERDICTS)
    if verdicts is None:
        verdicts = request[VERDICTS] = []
    verdicts.append(verdict)
    try:
        if not verdict.allowed:
            return await _denied(request, verdict, on_limited)
        response = await handler(request)
    except BaseException:
        await verdict.release_async()
        raise
    if verdict.permits:
        if isinstance(response, web.StreamResponse) and not response.prepared:
            _release_when_sent(response, verdict)
        else:  # the handler has sent it
            await verdict.release_async()
    return response


def _release_when_sent(response: web.StreamResponse, verdict: Verdict) -> None:
    """After a handler has returned aiohttp calls `prepare`, which sends a file, and `write_eof`,
    which sends any other body. Where something else is sent instead, the permits end when the
    response is dropped.
    """
    prepare, write_eof = response.prepare, response.write_eof

    async def preparing(request: web.BaseRequest) -> Any:
        try:
            return await prepare(request)
        except BaseException:
            await verdict.release_async()
            raise

    async def ending(*data: bytes) -> None:
        try:
            await write_eof(*data)
        finally:
            await verdict.release_async()

    response.prepare = preparing  # type: ignore[method-assign]
    response.write_eof = ending  # type: ignore[method-assign,assignment]


async def _denied(
    request: web.Request, verdict: Verdict, on_limited: OnLimited | None
) -> web.StreamResponse:
    if on_limited is not None:
        answer = on_limited(request, verdict)
        if inspect.isawaitable(answer):
            answer = await answer
        if answer is not None:
            return answer  # type: ignore[no-any-return]
    content_type, body = verdict.body(request.headers.get("accept"))
    return web.Response(body=body, status=verdict.status, headers={"Content-Type": content_type})


async def _tell(request: web.Request, response: web.StreamResponse) -> None:
    """Add the fields to a response that is about to be sent."""
    for name, value in settled(request.get(VERDICTS, ()), response.status):
        response.headers[name] = value


def _request_of(handler: Any, first: Any, args: tuple[Any, ...]) -> Any:
    """The request that a handler is called with: a function, a method, or one of a `web.View`."""
    if isinstance(first, web.BaseRequest):
        return first
    if isinstance(first, web.View):
        return first.request
    if args and isinstance(args[0], web.BaseRequest):
        return args[0]
    raise SetUpError(
        f"The handler {getattr(handler, '__qualname__', handler)!r} was called without a request "
        "as its first argument, which limit() needs to tell who is limited."
    )


def _is_websocket(request: web.Request) -> bool:
    return request.headers.get("upgrade", "").lower() == "websocket"

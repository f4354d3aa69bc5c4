"""Limits for any ASGI app, without a framework: HTTP requests and WebSockets.

    app = RateLimitMiddleware(app, "100/minute")
    app = RateLimitMiddleware(app, [
        Rule("100/minute", name="all"),
        Rule("5/minute", name="login", paths="/login", methods="POST"),
        Concurrency(10, name="live", paths="/ws/*"),
    ], key=client_address(trusted_proxies="10.0.0.0/8"), store="redis://localhost:6379/0")

Nothing is buffered: the fields go into the message that starts a response, whatever its type. What
limits further in decide (of a mounted app, a dependency, a decorator) is told by the outermost
middleware; they leave their verdicts in the scope, in a list that it puts there.
"""

from collections.abc import Awaitable, Callable, Iterable, MutableMapping
from functools import lru_cache
from typing import Any

from headway.contrib import (
    Concurrency,
    Facts,
    KeyFunction,
    Outcome,
    Policy,
    Rule,
    Verdict,
    api_key,
    client_address,
    combine,
    route,
    user,
)
from headway.contrib._headers import Report, fields
from headway.contrib._keys import KeyLike
from headway.contrib._policy import checked_on_limited, checked_style
from headway.contrib._query import first_value
from headway.contrib._rules import Exempt, QuotaSource, RuleLike
from headway.contrib._verdict import all_fields, give_back_where_denied, reports_of

__all__ = [
    "Concurrency",
    "Facts",
    "KeyFunction",
    "Outcome",
    "Policy",
    "RateLimitHeaders",
    "RateLimitMiddleware",
    "Rule",
    "Verdict",
    "api_key",
    "client_address",
    "combine",
    "route",
    "user",
]

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Any, Any, Any], Awaitable[None]]
Encoded = list[tuple[bytes, bytes]]
OnLimited = Callable[[Any, Verdict], Any]

VERDICTS = "headway.verdicts"
"""In the scope: the list of those who have decided, for the outermost middleware to tell."""

TRY_AGAIN_LATER = 1013
"""The code with which a WebSocket is closed where the server cannot send a 429."""

_TOLD = frozenset(
    {
        b"ratelimit",
        b"ratelimit-policy",
        b"x-ratelimit-limit",
        b"x-ratelimit-remaining",
        b"x-ratelimit-reset",
    }
)
_STARTS = frozenset({"http.response.start", "websocket.accept", "websocket.http.response.start"})


class ScopeFacts:
    """A request as its ASGI scope tells it."""

    __slots__ = ("method", "path", "scope")

    def __init__(self, scope: Scope) -> None:
        self.scope = scope
        self.method: str = scope.get("method", "GET").upper()
        self.path: str = route_path(scope)

    @property
    def request(self) -> Any:
        return self

    def address(self) -> str | None:
        client = self.scope.get("client")
        return client[0] or None if client else None

    def header(self, name: str) -> str | None:
        wanted = name.encode("latin-1")
        found = [value for key, value in self.scope["headers"] if key == wanted]
        return b", ".join(found).decode("latin-1") if found else None

    def query(self, name: str) -> str | None:
        return first_value(self.scope.get("query_string", b"").decode("latin-1"), name)

    def route(self) -> str:
        served = self.scope.get("route")
        # FastAPI has the prefixes of included routers in a route of its own.
        context = (self.scope.get("fastapi") or {}).get("effective_route_context")
        if context is not None and getattr(context, "original_route", None) is served:
            served = context
        template = getattr(served, "path_format", None) or getattr(served, "path", None)
        if not isinstance(template, str):
            return str(self.scope["path"]).removesuffix("\n")
        return f"{self.scope.get('root_path') or ''}{template}"

    def user(self) -> str | None:
        found = self.scope.get("user")
        if found is None or isinstance(found, str):
            return found or None
        if not getattr(found, "is_authenticated", True):
            return None
        for field in ("identity", "id", "username", "display_name"):
            try:
                name = getattr(found, field)
            except (AttributeError, NotImplementedError):
                continue
            if name not in (None, ""):
                return str(name)
        return None


def route_path(scope: Scope) -> str:
    """The path that a router sees: without the root path of the server, or the prefix of a mount.

    Servers put the root path before the path, as ASGI says, or leave it out; Starlette takes both.
    """
    path: str = scope["path"]
    root: str = scope.get("root_path") or ""
    if root and path.startswith(root) and path[len(root) :][:1] in ("", "/"):
        return path[len(root) :] or "/"
    return path


class RateLimitMiddleware:
    """Limits what reaches `app`, and tells clients what is left to them.

    limits: "100/minute", a Quota, a `Rule`, a `Concurrency`, or a list of these. key, store,
    headers, reset, dry_run, on_error, exempt: see `Policy`; callables are given the request.
    on_limited: called with the request and the verdict of an HTTP request that is denied; returns
    an ASGI app to answer with (a response of Starlette is one), or None for the usual answer.
    Both may be coroutine functions. Raises SetUpError or DataError naming the argument.
    """

    facts_of: Callable[[Scope], Facts] = ScopeFacts
    """Makes a request's facts from its scope: that of a framework gives its own request too."""

    def __init__(
        self,
        app: App,
        limits: "QuotaSource | RuleLike | Iterable[RuleLike]",
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
        self.app = app
        self.on_limited: OnLimited | None = checked_on_limited(on_limited)
        self.policy = Policy(
            limits,
            key=key,
            store=store,
            headers=headers,
            reset=reset,
            dry_run=dry_run,
            on_error=on_error,
            exempt=exempt,
            awaits=True,
        )

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        kind = scope["type"]
        if kind != "http" and kind != "websocket":
            await self.app(scope, receive, send)
            return
        websocket = kind == "websocket"
        facts = self.facts_of(scope)
        policy = self.policy
        verdict = await policy.decide_async(facts, websocket)
        told = scope.get(VERDICTS)
        outermost = told is None
        if told is not None:
            told.append(verdict)
            sending = send
        else:
            told = scope[VERDICTS] = [verdict]
            sending = telling(send, told, policy.headers, policy.reset)
        try:
            if verdict.permits:
                receive, sending = releasing(receive, sending, verdict)
            if verdict.status == 200:
                await self.app(scope, receive, sending)
            else:
                await self._refuse(scope, receive, sending, facts, verdict)
        finally:
            if outermost:
                del scope[VERDICTS]
            if verdict.permits:
                await verdict.release_async()

    async def _refuse(
        self, scope: Any, receive: Receive, send: Send, facts: Facts, verdict: Verdict
    ) -> None:
        if scope["type"] == "websocket":
            await refuse_websocket(scope, receive, send, verdict)
            return
        if self.on_limited is not None:
            answer = self.on_limited(facts.request, verdict)
            if hasattr(answer, "__await__"):
                answer = await answer
            if answer is not None:
                await answer(scope, receive, _adding(send, verdict))
                return
        await refuse(send, verdict, facts.header("accept"))


class RateLimitHeaders:
    """Limits nothing: tells clients what dependencies and decorators further in have decided.

    A dependency of FastAPI cannot reach the fields of a response that an endpoint returns itself,
    such as a stream or a file. headers, reset: see `Policy`.
    """

    def __init__(self, app: App, headers: str = "both", reset: str = "after") -> None:
        self.app = app
        self.headers, self.reset = checked_style(headers, reset)

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] not in ("http", "websocket") or VERDICTS in scope:
            await self.app(scope, receive, send)
            return
        told: list[Verdict] = []
        scope[VERDICTS] = told
        try:
            await self.app(scope, receive, telling(send, told, self.headers, self.reset))
        finally:
            del scope[VERDICTS]


def telling(send: Send, told: list[Verdict], style: str, reset: str) -> Send:
    """`send`, with the fields of all verdicts in the message that starts the response.

    Where one of them denies, what the others took is given back before that.
    """
    accepted = False

    def sending(message: Message) -> Awaitable[None]:
        nonlocal accepted
        kind = message["type"]
        if kind in _STARTS:
            accepted = kind == "websocket.accept"
            if len(told) > 1:
                give_back_where_denied(told, message.get("status", 101))
            if style == "none":
                return send(message)
            if reset == "after":
                found = _encoded_fields(reports_of(told), style)
            else:
                found = _encoded(all_fields(told, style, reset))
            if found:
                headers = message.get("headers") or ()
                if any(name in _TOLD for name, _ in headers):  # of the application itself
                    names = {name for name, _ in found}
                    headers = [field for field in headers if field[0] not in names]
                message = {**message, "headers": [*headers, *found]}
        elif kind == "websocket.close" and not accepted:
            give_back_where_denied(told, 403)  # which is what servers make of it
        return send(message)

    return sending


def _encoded(found: list[tuple[str, str]]) -> Encoded:
    return [(name.encode(), value.encode()) for name, value in found]


@lru_cache(4096)
def _encoded_fields(reports: tuple[Report, ...], style: str) -> Encoded:
    """Kept, as most quotas are small: 100 a minute have about a hundred states to tell."""
    return _encoded(fields(reports, style, "after", 0))


def with_fields(message: Message, found: list[tuple[str, str]]) -> Message:
    """A copy of the message that starts a response, with more fields."""
    return {**message, "headers": [*(message.get("headers") or ()), *_encoded(found)]}


def _adding(send: Send, verdict: Verdict) -> Send:
    """`send`, with Retry-After where the response that on_limited gave has none."""

    def sending(message: Message) -> Awaitable[None]:
        if message["type"] in _STARTS:
            names = {bytes(name).lower() for name, _ in message.get("headers") or ()}
            if b"retry-after" not in names:
                message = with_fields(message, verdict.retry_fields())
        return send(message)

    return sending


def releasing(receive: Receive, send: Send, verdict: Verdict) -> tuple[Receive, Send]:
    """Both, such that permits are given back with the last of a body, or when the client leaves.

    Background tasks hold none: they run after that.
    """

    async def receiving() -> Message:
        message = await receive()
        if message["type"] == "http.disconnect":
            await verdict.release_async()
        return message

    async def sending(message: Message) -> None:
        await send(message)
        if ends_a_body(message):
            await verdict.release_async()

    return receiving, sending


def ends_a_body(message: Message) -> bool:
    """Whether nothing of an HTTP response is to be sent after this message."""
    kind = message["type"]
    if kind == "http.response.body":
        return not message.get("more_body", False)
    return bool(kind == "http.response.pathsend")


async def refuse(send: Send, verdict: Verdict, accept: str | None, prefix: str = "") -> None:
    """Answer with a denial; the fields other than Retry-After are added by `telling`."""
    content_type, body = verdict.body(accept)
    start = {
        "type": f"{prefix}http.response.start",
        "status": verdict.status,
        "headers": [
            (b"content-type", content_type.encode()),
            (b"content-length", str(len(body)).encode()),
        ],
    }
    await send(with_fields(start, verdict.retry_fields()))
    await send({"type": f"{prefix}http.response.body", "body": body})


async def refuse_websocket(scope: Any, receive: Receive, send: Send, verdict: Verdict) -> None:
    """Deny a WebSocket before it is accepted: with a 429 where the server can, else by closing."""
    if (await receive())["type"] != "websocket.connect":
        return
    if "websocket.http.response" in (scope.get("extensions") or ()):
        accept = ScopeFacts(scope).header("accept")
        await refuse(send, verdict, accept, prefix="websocket.")
        return
    reason = verdict.detail
    await send({"type": "websocket.close", "code": TRY_AGAIN_LATER, "reason": reason})

"""Limits for Starlette: a middleware for all of an app, and a decorator for one endpoint.

    app.add_middleware(RateLimitMiddleware, limits="100/minute")

    @limit("5/minute")
    async def login(request): ...

What the decorator denies is raised as `RateLimitExceeded`, an HTTPException of status 429 (503
where the store cannot answer), so the app's exception handlers render it; `problem_handler` makes
it problem details. Endpoints may be plain or coroutine functions, methods, and WebSocket endpoints.
"""

from collections.abc import Awaitable, Callable, Iterable
from functools import lru_cache, wraps
from inspect import isasyncgenfunction, iscoroutinefunction
from typing import Any, TypeVar, cast

try:
    from starlette.exceptions import HTTPException, WebSocketException
    from starlette.requests import HTTPConnection, Request
    from starlette.responses import Response
    from starlette.websockets import WebSocket, WebSocketState
except ImportError as error:
    raise ImportError(
        "headway.contrib.starlette needs Starlette: pip install 'headway[starlette]'."
    ) from error

from headway.contrib import (
    Concurrency,
    Facts,
    KeyFunction,
    Outcome,
    Policy,
    Rule,
    Verdict,
    api_key,
    asgi,
    client_address,
    combine,
    route,
    user,
)
from headway.contrib._bare import refuse_bare
from headway.contrib._held import Held
from headway.contrib._keys import KeyLike
from headway.contrib._rules import Exempt, QuotaSource, RuleLike
from headway.contrib._verdict import all_fields, give_back_where_denied
from headway.contrib._views import rules_of_view
from headway.contrib.asgi import (
    VERDICTS,
    RateLimitHeaders,
    ScopeFacts,
    ends_a_body,
    refuse_websocket,
)
from headway.exceptions import SetUpError

__all__ = [
    "Concurrency",
    "Facts",
    "KeyFunction",
    "Outcome",
    "Policy",
    "RateLimitExceeded",
    "RateLimitHeaders",
    "RateLimitMiddleware",
    "Rule",
    "Verdict",
    "api_key",
    "client_address",
    "combine",
    "limit",
    "problem_handler",
    "route",
    "user",
]

_F = TypeVar("_F", bound=Callable[..., Any])

UNTOLD = "headway.untold"
"""In the scope: verdicts of dependencies that no middleware is there to tell."""


class ConnectionFacts(ScopeFacts):
    """A request as Starlette has it."""

    __slots__ = ("connection",)

    def __init__(self, scope: asgi.Scope, connection: HTTPConnection | None = None) -> None:
        super().__init__(scope)
        self.connection = connection

    @property
    def request(self) -> Any:
        if self.connection is None:
            kind = Request if self.scope["type"] == "http" else HTTPConnection
            self.connection = kind(self.scope)
        return self.connection


class RateLimitMiddleware(asgi.RateLimitMiddleware):
    """As that of `headway.contrib.asgi`; callables are given a Request, without its body.

    For a WebSocket it is an HTTPConnection.
    """

    facts_of: Callable[[asgi.Scope], Facts] = ConnectionFacts


class RateLimitExceeded(HTTPException):
    """A request is denied: status 429, or 503 where the store cannot answer and on_error="deny".

    `verdict` says by which rule; `headers` has Retry-After, and the other fields where no
    middleware adds them.
    """

    def __init__(self, verdict: Verdict, headers: dict[str, str]) -> None:
        super().__init__(verdict.status, verdict.detail, headers)
        self.verdict = verdict


async def problem_handler(request: Request, error: Exception) -> Response:
    """Render `RateLimitExceeded` as problem details (RFC 9457), or text where JSON is not accepted.

    app.add_exception_handler(RateLimitExceeded, problem_handler)
    """
    if not isinstance(error, RateLimitExceeded):
        raise error
    content_type, body = error.verdict.body(request.headers.get("accept"))
    headers = {**(error.headers or {}), "content-type": content_type}
    return Response(body, error.status_code, headers)


def limit(
    limits: "QuotaSource | RuleLike | Iterable[RuleLike]",
    *,
    name: str | None = None,
    key: KeyLike | None = None,
    store: object = None,
    headers: str = "both",
    reset: str = "after",
    dry_run: bool = False,
    on_error: str = "deny",
    exempt: "Exempt | Iterable[Exempt] | None" = None,
) -> Callable[[_F], _F]:
    """Limit one endpoint: each decorated function has counts of its own.

    limits: "5/minute", a Quota, a `Rule`, or a list. name: by which headers call it and under which
    it counts; by default it is called as the function is, and counts by module and name. Rules that
    share a name or a scope, and a store, share counts.
    The rest: see `Policy`; callables are given the Request. A `Concurrency` is held while the
    function runs, for a WebSocket that is as long as the connection; a response that the function
    returns holds it until its body is sent.

    The request may be any argument, but must be one. Where the endpoint returns a Response of any
    type the fields are added to it.
    """

    refuse_bare(limits)

    def decorate(function: _F) -> _F:
        endpoint = Endpoint(
            function,
            limits,
            name=name,
            key=key,
            store=store,
            headers=headers,
            reset=reset,
            dry_run=dry_run,
            on_error=on_error,
            exempt=exempt,
        )
        return cast("_F", endpoint.decorated())

    return decorate


class Endpoint:
    """A decorated endpoint: its policy, and how the fields get into its response."""

    def __init__(self, function: Callable[..., Any], limits: Any, **options: Any) -> None:
        self.function = function
        if isasyncgenfunction(function) or not callable(function) or isinstance(function, type):
            raise SetUpError(
                f"Invalid endpoint: {function!r}, must be a function or a coroutine function; for "
                "a class or a generator use the middleware, or a dependency of FastAPI."
            )
        self.awaits = iscoroutinefunction(function)
        rules = rules_of_view(function, limits, options.pop("name"))
        self.policy = Policy(rules, awaits=self.awaits, **options)

    def decorated(self) -> Any:
        function = self.function
        if self.awaits:

            @wraps(function)
            async def limited_async(*args: Any, **kwargs: Any) -> Any:
                return await self.run_async(connection_of(function, args, kwargs), args, kwargs)

            return limited_async

        @wraps(function)
        def limited(*args: Any, **kwargs: Any) -> Any:
            return self.run(connection_of(function, args, kwargs), args, kwargs)

        return limited

    async def run_async(
        self,
        connection: HTTPConnection,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        response: Response | None = None,
    ) -> Any:
        """Decide, then await the function. `response` takes the fields where it returns none."""
        websocket = isinstance(connection, WebSocket)
        facts = ConnectionFacts(connection.scope, connection)
        verdict = await self.policy.decide_async(facts, websocket)
        told = Telling(connection, verdict, self.policy)
        try:
            if not verdict.allowed and isinstance(connection, WebSocket):
                told.give_back(verdict.status)
                await deny_websocket(connection, verdict)
                return None
            told.check()
            answer = told.tell(await self.function(*args, **kwargs), response)
            if verdict.permits:
                hold(answer, verdict)
            return answer
        except RateLimitExceeded as denial:
            told.tell_denial(denial)
            raise
        finally:
            told.done()
            if verdict.permits:
                await verdict.release_async()

    def run(
        self,
        connection: HTTPConnection,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        response: Response | None = None,
    ) -> Any:
        """The same for a plain function, which runs in a thread."""
        verdict = self.policy.decide(ConnectionFacts(connection.scope, connection))
        told = Telling(connection, verdict, self.policy)
        try:
            told.check()
            answer = told.tell(self.function(*args, **kwargs), response)
            if verdict.permits:
                hold(answer, verdict)
            return answer
        except RateLimitExceeded as denial:
            told.tell_denial(denial)
            raise
        finally:
            told.done()
            verdict.release()


class Telling:
    """Who puts the fields into the response: whoever is outermost, with the verdicts of all."""

    __slots__ = ("outermost", "policy", "scope", "told", "verdict")

    def __init__(self, connection: HTTPConnection, verdict: Verdict, policy: Policy) -> None:
        self.scope, self.verdict, self.policy = connection.scope, verdict, policy
        told = self.scope.get(VERDICTS)
        self.outermost = told is None
        if told is None:
            told = self.scope[VERDICTS] = [*self.scope.get(UNTOLD, ())]
        self.told: list[Verdict] = told
        told.append(verdict)

    def check(self) -> None:
        """Raise the denial, if it is one."""
        if not self.verdict.allowed:
            raise RateLimitExceeded(self.verdict, dict(self.verdict.retry_fields()))

    def tell(self, answer: Any, response: Response | None) -> Any:
        if self.outermost:
            target = answer if isinstance(answer, Response) else response
            self.give_back(getattr(target, "status_code", None) or 200)
            if target is not None:
                put(target, self._fields())
        return answer

    def tell_denial(self, denial: RateLimitExceeded) -> None:
        if self.outermost:
            self.give_back(denial.status_code)
            denial.headers = {**dict(self._fields()), **(denial.headers or {})}

    def give_back(self, status: int) -> None:
        """Where one denies the others lose nothing; whoever is outermost sees to it."""
        if self.outermost and len(self.told) > 1:
            give_back_where_denied(self.told, status)

    def done(self) -> None:
        if self.outermost:
            del self.scope[VERDICTS]

    def _fields(self) -> list[tuple[str, str]]:
        return all_fields(self.told, self.policy.headers, self.policy.reset)


HELD = "_headway_held"
"""Where a response has the permits that end with its body."""


def hold(answer: Any, verdict: Verdict) -> None:
    """Have a response that an endpoint returns hold the verdict's permits until it is sent.

    A response that has no place for them leaves them to the verdict, which ends them at once.
    """
    if not isinstance(answer, Response) or not hasattr(answer, "__dict__"):
        return
    kind = type(answer)
    answer.__class__ = kind if HELD in kind.__dict__ else _holding(kind)  # type: ignore[arg-type]
    setattr(answer, HELD, verdict.permits)
    verdict.permits = []


@lru_cache(256)
def _holding(kind: type[Response]) -> type[Response]:
    """A response of the same kind, which gives back permits when it has been sent."""

    async def sent(self: Any, scope: Any, receive: Any, send: Any) -> None:
        held = getattr(self, HELD) or Held()
        setattr(self, HELD, None)

        async def receiving() -> asgi.Message:
            message: asgi.Message = await receive()
            if message["type"] == "http.disconnect":
                held.drop()
            return message

        async def sending(message: asgi.Message) -> None:
            await send(message)
            if ends_a_body(message):
                held.drop()

        try:
            await kind.__call__(self, scope, receiving, sending)
        finally:
            held.drop()

    names = {"__call__": sent, "__module__": kind.__module__, "__qualname__": kind.__qualname__}
    return type(kind.__name__, (kind,), {HELD: None, **names})


def put(response: Response, found: list[tuple[str, str]]) -> None:
    """Set fields of a response that has not been sent."""
    for name, value in found:
        response.headers[name] = value


def connection_of(
    function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
) -> HTTPConnection:
    """The request among the arguments of an endpoint. Raises SetUpError where there is none."""
    for value in (*args, *kwargs.values()):
        if isinstance(value, HTTPConnection):
            return value
        found = getattr(value, "request", None)  # a method of HTTPEndpoint may have it there
        if isinstance(found, HTTPConnection):
            return found
    raise SetUpError(
        f"The endpoint {getattr(function, '__qualname__', function)!r} was called without a "
        "Request or WebSocket, which @limit needs to tell who is limited: give it one."
    )


async def deny_websocket(websocket: WebSocket, verdict: Verdict) -> None:
    """Deny a WebSocket: by refusing it, or where it is accepted already by a WebSocketException.

    The application may catch that one; else it closes the connection with code 1013.
    """
    if websocket.application_state is WebSocketState.CONNECTED:
        raise WebSocketException(asgi.TRY_AGAIN_LATER, verdict.detail)
    receive = cast("Callable[[], Awaitable[asgi.Message]]", websocket.receive)
    send = cast("asgi.Send", websocket.send)
    await refuse_websocket(websocket.scope, receive, send, verdict)

"""Limits for FastAPI: a dependency, a decorator and a middleware.

    app.add_middleware(RateLimitMiddleware, limits="100/minute")      # everything

    @app.get("/search", dependencies=[Depends(RateLimit("10/minute"))])
    async def search(): ...

    @app.post("/login")
    @limit("5/minute")                                                # below the route
    def login(form: Form): ...

A denial is raised as `RateLimitExceeded`, an HTTPException of status 429, so FastAPI answers
{"detail": ...} unless the app has a handler. `responses=RESPONSES` shows it in the OpenAPI schema.
"""

from collections.abc import Callable, Iterable
from functools import wraps
from inspect import Parameter, Signature, signature
from typing import Any, TypeVar

try:
    from fastapi import Response, WebSocket, WebSocketException
    from fastapi.params import Depends
    from fastapi.requests import HTTPConnection
except ImportError as error:
    raise ImportError(
        "headway.contrib.fastapi needs FastAPI: pip install 'headway[fastapi]'."
    ) from error

from headway.contrib._bare import refuse_bare
from headway.contrib._keys import KeyLike
from headway.contrib._rules import Exempt, QuotaSource, RuleLike
from headway.contrib._verdict import all_fields, give_back_where_denied
from headway.contrib.asgi import TRY_AGAIN_LATER, VERDICTS
from headway.contrib.starlette import (
    UNTOLD,
    Concurrency,
    ConnectionFacts,
    Endpoint,
    Facts,
    KeyFunction,
    Outcome,
    Policy,
    RateLimitExceeded,
    RateLimitHeaders,
    RateLimitMiddleware,
    Rule,
    Verdict,
    api_key,
    client_address,
    combine,
    connection_of,
    problem_handler,
    put,
    route,
    user,
)
from headway.exceptions import SetUpError

__all__ = [
    "Concurrency",
    "Facts",
    "KeyFunction",
    "Outcome",
    "Policy",
    "RESPONSES",
    "RateLimit",
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

_INTEGER = {"schema": {"type": "integer"}}
_TEXT = {"schema": {"type": "string"}}

RESPONSES: dict[int | str, dict[str, Any]] = {
    429: {
        "description": "Too Many Requests",
        "headers": {
            "Retry-After": {"description": "Seconds to wait before trying again.", **_INTEGER},
            "RateLimit": {"description": "What is left of each quota.", **_TEXT},
            "RateLimit-Policy": {"description": "The quotas.", **_TEXT},
        },
        "content": {
            "application/json": {
                "schema": {"type": "object", "properties": {"detail": {"type": "string"}}}
            }
        },
    }
}
"""For `responses=` of a FastAPI app, a router or a route: the 429 in the OpenAPI schema."""


class RateLimit:
    """A dependency that limits the routes it is on: of one route, a router, or the app.

        search_limit = RateLimit("10/minute", key=api_key())

        @app.get("/search")
        async def search(verdict: Annotated[Verdict, Depends(search_limit)]): ...

    All routes that one object is on share its counts; `key=combine(client_address(), route())`
    counts each by itself. It returns the `Verdict`, and raises `RateLimitExceeded`; of a WebSocket,
    a WebSocketException with code 1013.
    name: by which headers call it, and under which it counts, "route" by default. With a store it
    must be given, or each rule have one of its own: else two dependencies on one store would share
    their counts. The rest: see `Policy`; callables are given the Request.

    The fields are added to whatever FastAPI makes of what an endpoint returns. To a Response that
    the endpoint returns itself, a stream or file say, `app.add_middleware(RateLimitHeaders)` adds
    them, or any `RateLimitMiddleware`.
    """

    def __init__(
        self,
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
    ) -> None:
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
            name="route" if name is None else name,
        )
        rules = [entry.rule for entry in self.policy.entries]
        if (
            store is not None
            and name is None
            and any(not one.name and not one.scope for one in rules)
        ):
            raise SetUpError(
                "Invalid name: None, must be given where a store is, such as name='search': "
                "dependencies of one name share their counts in a store."
            )
        if any(isinstance(entry.rule, Concurrency) for entry in self.policy.entries):
            raise SetUpError(
                "Invalid limits: a dependency does not see the end of a response, so it cannot "
                "hold a permit: give a Concurrency to the decorator or the middleware."
            )

    async def __call__(self, connection: HTTPConnection, response: Response) -> Verdict:
        scope = connection.scope
        websocket = isinstance(connection, WebSocket)
        facts = ConnectionFacts(scope, connection)
        verdict = await self.policy.decide_async(facts, websocket)
        fields: list[tuple[str, str]] = []
        if VERDICTS in scope:
            scope[VERDICTS].append(verdict)
        else:
            told: list[Verdict] = scope.setdefault(UNTOLD, [])
            told.append(verdict)
            give_back_where_denied(told, verdict.status)
            fields = all_fields(told, self.policy.headers, self.policy.reset)
        if verdict.allowed:
            put(response, fields)
            return verdict
        if websocket:
            raise WebSocketException(TRY_AGAIN_LATER, verdict.detail)
        raise RateLimitExceeded(verdict, dict(fields + verdict.retry_fields()))


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
    """Limit one path operation: as `headway.contrib.starlette.limit`, below the route's decorator.

    The endpoint need not take the request: what the limit needs is asked of FastAPI. Fields go into
    any response, whatever the endpoint returns.
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
        return _injected(endpoint)  # type: ignore[return-value]  # it has another signature

    return decorate


def _injected(endpoint: Endpoint) -> Callable[..., Any]:
    """The endpoint, with a signature that also asks FastAPI for the request and the response."""
    function = endpoint.function
    asked, seen = _asked(function)
    connection_name, own_connection = _parameter(seen, HTTPConnection, "headway_connection")
    response_name, own_response = _parameter(seen, Response, "headway_response")

    def taken(args: Any, kwargs: dict[str, Any]) -> tuple[HTTPConnection, Response | None]:
        """What was asked for; what the endpoint did not ask for itself is taken away."""
        connection = kwargs.get(connection_name)
        if not own_connection:
            kwargs.pop(connection_name, None)
        response = kwargs.get(response_name)
        if not own_response:
            kwargs.pop(response_name, None)
        return connection or connection_of(function, args, kwargs), response

    limited: Any
    if endpoint.awaits:

        @wraps(function)
        async def limited_async(*args: Any, **kwargs: Any) -> Any:
            connection, response = taken(args, kwargs)
            return await endpoint.run_async(connection, args, kwargs, response)

        limited = limited_async
    else:

        @wraps(function)
        def limited_plain(*args: Any, **kwargs: Any) -> Any:
            connection, response = taken(args, kwargs)
            return endpoint.run(connection, args, kwargs, response)

        limited = limited_plain
    added = []
    if not own_connection:
        added.append(_keyword(connection_name, HTTPConnection))
    if not own_response:
        added.append(_keyword(response_name, Response))
    rest = [one for one in seen if one.kind is not Parameter.VAR_KEYWORD]
    last = [one for one in seen if one.kind is Parameter.VAR_KEYWORD]
    limited.__signature__ = asked.replace(parameters=[*rest, *added, *last])
    return limited  # type: ignore[no-any-return]


def _asked(function: Callable[..., Any]) -> tuple[Signature, list[Parameter]]:
    """The signature of an endpoint, annotations in quotes resolved where they can be."""
    try:
        found = signature(function, eval_str=True)
    except Exception:  # FastAPI says what is wrong with it
        found = signature(function)
    return found, list(found.parameters.values())


def _parameter(seen: list[Parameter], kind: type, name: str) -> tuple[str, bool]:
    """The parameter of the endpoint that is a `kind`, or the name of one to add."""
    for one in seen:
        injected = isinstance(one.default, Depends)  # what a dependency of the user's own returns
        if isinstance(one.annotation, type) and issubclass(one.annotation, kind) and not injected:
            return one.name, True
    return name, False


def _keyword(name: str, kind: type) -> Parameter:
    return Parameter(name, Parameter.KEYWORD_ONLY, annotation=kind)

"""The decorator for coroutine routes: one count for each method, route and principal."""

import inspect
import logging
from collections.abc import Awaitable, Callable, Sequence
from functools import wraps
from typing import Any, ParamSpec, TypeAlias, TypeVar

from fastapi import HTTPException
from starlette.requests import Request

from headway import _core
from headway.constants import RateLimiterType
from headway.contrib.asgi import ScopeFacts
from headway.exceptions import StoreUnavailableError
from headway.hooks import AsyncHook
from headway.throttled.asyncio.contrib.fastapi.exceptions import RateLimitExceededError
from headway.throttled.asyncio.contrib.fastapi.headers import (
    _DEFAULT_HEADER_POLICY,
    _STATE_KEY,
    RateLimitContext,
)
from headway.throttled.asyncio.contrib.fastapi.keys import KeyParts, compose_key
from headway.types import AnyStore, QuotaLike

__all__ = ["KeyFunc", "Limiter"]

P = ParamSpec("P")
R = TypeVar("R")

logger = logging.getLogger("headway.contrib")

KeyFunc: TypeAlias = Callable[[Request], str | Awaitable[str]]
"""Takes the request and returns who is limited; may be a coroutine function."""

_DEFAULT_PRINCIPAL = "__throttled_global_principal__"


class Limiter:
    """Makes decorators for routes.

    quota: of every route that has none of its own, as a Quota or text such as "10/s burst 20".
    store: a MemoryStore of its own by default. using: the algorithm. key_func: who is limited;
    without one all callers of a route share its count. hooks: AsyncHooks around each decision.
    """

    def __init__(
        self,
        quota: QuotaLike,
        *,
        store: AnyStore | str | None = None,
        using: str = RateLimiterType.TOKEN_BUCKET.value,
        key_func: KeyFunc | None = None,
        hooks: Sequence[AsyncHook] | None = None,
    ) -> None:
        if quota is None:
            raise TypeError("Limiter requires an explicit quota.")
        self._default_quota = quota
        self._store = _core.MemoryStore() if store is None else store
        self._using = using
        self._key_func: KeyFunc = key_func or _default_key_func
        self._hooks = hooks

    def limit(
        self, quota: QuotaLike | None = None, *, key_func: KeyFunc | None = None
    ) -> Callable[[Callable[P, Awaitable[R]]], Callable[P, Awaitable[R]]]:
        """Decorate a coroutine route that has a Request among its parameters.

        quota, key_func: in place of the limiter's own. Raises TypeError for a plain function.
        A denial raises RateLimitExceededError. Where the store cannot answer, that is an
        HTTPException of status 503, or StoreUnavailableError if the app has a handler for it.
        """
        throttled = _core.AsyncThrottled(
            quota=self._default_quota if quota is None else quota,
            using=self._using,
            store=self._store,
            hooks=self._hooks,
        )
        principal_of = self._key_func if key_func is None else key_func

        def decorator(func: Callable[P, Awaitable[R]]) -> Callable[P, Awaitable[R]]:
            if not inspect.iscoroutinefunction(func):
                raise TypeError(
                    f"Async Limiter.limit() cannot wrap sync route function "
                    f"'{getattr(func, '__qualname__', func)}'. Use an 'async def' route function "
                    "with throttled.asyncio."
                )

            @wraps(func)
            async def wrapper(*args: P.args, **kwargs: P.kwargs) -> R:
                request = _extract_request(func, args, kwargs)
                principal = principal_of(request)
                if inspect.isawaitable(principal):
                    principal = await principal
                route = _route_template(request)
                key = compose_key(KeyParts(request.method, route, principal))
                try:
                    result = await throttled.limit(key)
                except StoreUnavailableError as error:
                    if _has_exception_handler(request.app, type(error)):
                        raise
                    logger.exception("rate limit store unavailable")
                    raise HTTPException(503, "Rate limit store unavailable") from error
                context = RateLimitContext(result, _DEFAULT_HEADER_POLICY)
                if result.limited:
                    logger.debug("Rate limit exceeded: %s %s", request.method, route)
                    raise RateLimitExceededError(context)
                setattr(request.state, _STATE_KEY, context)
                return await func(*args, **kwargs)

            return wrapper

        return decorator


def _default_key_func(request: Request) -> str:
    return _DEFAULT_PRINCIPAL


def _has_exception_handler(app: Any, kind: type[Exception]) -> bool:
    """Whether the app answers this error itself. A handler of Exception does not count: Starlette
    raises again after it.
    """
    return any(one is not Exception and one in app.exception_handlers for one in kind.__mro__)


def _route_template(request: Request) -> str:
    """The template of the route, with the prefixes of mounts and included routers."""
    return ScopeFacts(request.scope).route()


def _extract_request(func: Callable[..., Any], args: Any, kwargs: Any) -> Request:
    """The Request among a route's arguments. Raises TypeError where there is none."""
    for value in (*kwargs.values(), *args):
        if isinstance(value, Request):
            return value
    raise TypeError(
        f"@Limiter.limit requires a Request parameter in '{func.__qualname__}'. Declare one like "
        "'request: Request' (any name is fine)."
    )

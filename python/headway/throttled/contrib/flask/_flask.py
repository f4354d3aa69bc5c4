"""The part of throttled-py's Flask names that needs Flask: the limiter and its error.

A limit stands above a view and is asked when the view is called; its numbers wait in `flask.g` for
the hook that Flask calls with every response. Where limiters are stacked, the innermost is told.
"""

import logging
from collections.abc import Callable, Sequence
from functools import wraps
from typing import TYPE_CHECKING, Any, ParamSpec, TypeAlias, TypeVar, cast

from headway._core import MemoryStore, Throttled
from headway.constants import RateLimiterType
from headway.exceptions import LimitedError, StoreUnavailableError
from headway.throttled.contrib.flask.headers import (
    RateLimitContext,
    RateLimitHeaderPolicy,
    fields_of,
)
from headway.throttled.contrib.flask.keys import KeyParts, compose_key

try:
    from flask import current_app, g, request
    from werkzeug.exceptions import ServiceUnavailable, TooManyRequests
except ImportError as missing:
    if missing.name not in ("flask", "werkzeug"):
        raise
    raise ImportError(
        'headway.throttled.contrib.flask needs Flask: pip install "headway[flask]"',
        name=missing.name,
    ) from missing

if TYPE_CHECKING:
    from flask import Flask, Response

    from headway._core import Quota
    from headway.hooks import Hook
    from headway.types import AnyStore, RateLimiterTypeT

__all__ = ["KeyFunc", "Limiter", "RateLimitExceededError"]

P = ParamSpec("P")
R = TypeVar("R")

KeyFunc: TypeAlias = Callable[[], str]
"""Takes nothing, reads `flask.request`, and returns who is limited."""

EXTENSION = "throttled"
CONTEXT = "_throttled_rate_limit_context"
ALL = "__throttled_global_principal__"
NAMES = RateLimitHeaderPolicy()

logger = logging.getLogger("headway.contrib")


class RateLimitExceededError(TooManyRequests, LimitedError):
    """A view was called more often than its quota says: status 429 with the fields."""

    description = "Rate limit exceeded"

    def __init__(self, context: RateLimitContext) -> None:
        TooManyRequests.__init__(self)
        self.rate_limit_result = context.result
        self.rate_limit_context = context

    def get_headers(self, *args: Any, **kwargs: Any) -> list[tuple[str, str]]:
        headers = dict(super().get_headers(*args, **kwargs))
        headers.update(fields_of(self.rate_limit_context, retry_after=True))
        return list(headers.items())


class Limiter:
    """Limits views by a decorator.

    quota: for all decorated views, "100/m" or a Quota; required. app: an application to set up
    now, else `init_app(app)` later. store: a MemoryStore of its own by default. using: the
    algorithm. key_func: who is limited; without it all callers of a method and route together.
    hooks: as for `Throttled`.
    """

    def __init__(
        self,
        quota: "Quota | str",
        *,
        app: "Flask | None" = None,
        store: "AnyStore | None" = None,
        using: "RateLimiterTypeT" = RateLimiterType.TOKEN_BUCKET.value,
        key_func: KeyFunc | None = None,
        hooks: "Sequence[Hook] | None" = None,
    ) -> None:
        if quota is None:
            raise TypeError("Limiter requires an explicit quota.")
        self._default_quota = quota
        self._store = MemoryStore() if store is None else store
        self._using = using
        self._key_func = key_func or _everybody
        self._hooks = hooks
        if app is not None:
            self.init_app(app)

    def init_app(self, app: "Flask") -> None:
        """Tell what remains in `app`'s responses. A second time does nothing."""
        limiters: set[Limiter] = app.extensions.setdefault(EXTENSION, set())
        if not limiters:
            app.after_request(_tell)
        limiters.add(self)

    def limit(
        self, quota: "Quota | str | None" = None, *, key_func: KeyFunc | None = None
    ) -> Callable[[Callable[P, R]], Callable[P, R]]:
        """Limit a view; stands below the line that makes the route.

        quota, key_func: of this view, else the limiter's own.
        """
        who = self._key_func if key_func is None else key_func
        throttled = Throttled(
            quota=self._default_quota if quota is None else quota,
            using=self._using,
            store=self._store,
            hooks=self._hooks,
        )

        def decorator(func: Callable[P, R]) -> Callable[P, R]:
            @wraps(func)
            def wrapper(*args: P.args, **kwargs: P.kwargs) -> R:
                parts = KeyParts(request.method, _route(), who())
                try:
                    result = throttled.limit(key=compose_key(parts))
                except StoreUnavailableError as error:
                    if _is_handled(error):
                        raise
                    logger.exception("rate limit store unavailable")
                    raise ServiceUnavailable("Rate limit store unavailable") from error
                context = RateLimitContext(result=result, headers=NAMES)
                if result.limited:
                    logger.debug("Rate limit exceeded: %s %s", parts.method, parts.route)
                    raise RateLimitExceededError(context)
                setattr(g, CONTEXT, context)
                return cast("R", current_app.ensure_sync(func)(*args, **kwargs))

            return wrapper

        return decorator


def _everybody() -> str:
    return ALL


def _route() -> str:
    rule = request.url_rule
    return request.path if rule is None else rule.rule


def _tell(response: "Response") -> "Response":
    """Add the fields that are not there yet: an error has brought its own."""
    context: RateLimitContext | None = g.pop(CONTEXT, None)
    if context is not None:
        for name, value in fields_of(context, retry_after=False).items():
            response.headers.setdefault(name, value)
    return response


def _is_handled(error: Exception) -> bool:
    """Whether the application has a handler for such errors. One for all errors does not count."""
    for scope in (*request.blueprints, None):
        for handlers in current_app.error_handler_spec.get(scope, {}).values():
            for kind in handlers:
                if kind is not Exception and isinstance(error, kind):
                    return True
    return False

"""Tells clients what the decorator has decided, on responses that are allowed.

The class it mirrors is a BaseHTTPMiddleware, and so is this one, for those who subclass it. As it
is, it works as plain ASGI: it changes the message that starts the response, and runs nothing else.
"""

from collections.abc import Awaitable, Callable
from typing import Any

from starlette.datastructures import MutableHeaders
from starlette.middleware.base import BaseHTTPMiddleware
from starlette.requests import Request
from starlette.responses import Response

from headway.throttled.asyncio.contrib.fastapi.headers import (
    _STATE_KEY,
    RateLimitContext,
    _inject_rate_limit_headers,
)

__all__ = ["RateLimitMiddleware"]


class RateLimitMiddleware(BaseHTTPMiddleware):
    """Adds RateLimit-Limit, RateLimit-Remaining and RateLimit-Reset where a route was checked."""

    async def dispatch(
        self, request: Request, call_next: Callable[[Request], Awaitable[Response]]
    ) -> Response:
        response = await call_next(request)
        context = getattr(request.state, _STATE_KEY, None)
        if context is not None:
            response.headers.update(_fields(context))
        return response

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        own = getattr(self.dispatch_func, "__func__", None) is RateLimitMiddleware.dispatch
        if not own or scope["type"] != "http":
            await super().__call__(scope, receive, send)
            return
        state = scope.setdefault("state", {})

        async def sending(message: Any) -> None:
            if message["type"] == "http.response.start":
                context = state.get(_STATE_KEY)
                if context is not None:
                    headers = MutableHeaders(raw=list(message.get("headers") or ()))
                    headers.update(_fields(context))
                    message = {**message, "headers": headers.raw}
            await send(message)

        await self.app(scope, receive, sending)


def _fields(context: RateLimitContext) -> dict[str, str]:
    found: dict[str, str] = {}
    _inject_rate_limit_headers(found, context, include_retry_after=False)
    return found

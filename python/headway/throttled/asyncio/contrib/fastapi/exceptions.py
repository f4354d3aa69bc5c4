"""What a denied route raises, and how it is answered."""

try:
    from fastapi import Request
    from fastapi.responses import JSONResponse
except ImportError as error:
    raise ImportError(
        "throttled.asyncio.contrib.fastapi needs FastAPI: pip install 'headway[fastapi]'."
    ) from error

from headway.exceptions import LimitedError
from headway.throttled.asyncio.contrib.fastapi.headers import (
    RateLimitContext,
    _inject_rate_limit_headers,
)

__all__ = ["RateLimitExceededError", "rate_limit_exceeded_handler"]


class RateLimitExceededError(LimitedError):
    """A route's quota is used up. `rate_limit_context` has the result and the names of fields."""

    def __init__(self, context: RateLimitContext) -> None:
        super().__init__(context.result)
        self.rate_limit_context = context

    def __reduce__(self) -> "tuple[type[RateLimitExceededError], tuple[RateLimitContext]]":
        return type(self), (self.rate_limit_context,)


async def rate_limit_exceeded_handler(request: Request, exc: Exception) -> JSONResponse:
    """Answer 429 with `{"detail": "Rate limit exceeded"}` and the fields of the decision.

    For `app.add_exception_handler(RateLimitExceededError, rate_limit_exceeded_handler)`.
    """
    headers: dict[str, str] = {}
    if isinstance(exc, RateLimitExceededError):
        _inject_rate_limit_headers(headers, exc.rate_limit_context, include_retry_after=True)
    return JSONResponse({"detail": "Rate limit exceeded"}, 429, headers)

"""What a decided request tells its response: the result, and by which names."""

import math
from dataclasses import dataclass

from headway._core import RateLimitResult

__all__ = ["RateLimitContext", "RateLimitHeaderPolicy"]

_STATE_KEY = "_throttled_rate_limit_context"
"""The attribute of `request.state` by which the decorator hands the context to the middleware."""


@dataclass(frozen=True)
class RateLimitHeaderPolicy:
    """The names of the header fields."""

    limit: str = "RateLimit-Limit"
    remaining: str = "RateLimit-Remaining"
    reset: str = "RateLimit-Reset"
    retry_after: str = "Retry-After"


@dataclass(frozen=True)
class RateLimitContext:
    """A decision, and the names by which it is told."""

    result: RateLimitResult
    headers: RateLimitHeaderPolicy


_DEFAULT_HEADER_POLICY = RateLimitHeaderPolicy()


def _inject_rate_limit_headers(
    headers: dict[str, str], context: RateLimitContext, *, include_retry_after: bool
) -> None:
    """Set the fields. Seconds are whole and rounded up; a wait without end is not told."""
    state, names = context.result.state, context.headers
    if state is None:
        return
    headers[names.limit] = str(state.limit)
    headers[names.remaining] = str(state.remaining)
    headers[names.reset] = str(math.ceil(state.reset_after))
    if include_retry_after and math.isfinite(state.retry_after):
        headers[names.retry_after] = str(math.ceil(state.retry_after))

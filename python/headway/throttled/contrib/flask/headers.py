"""What a response tells: the decision on its request, under names that can be chosen."""

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from headway._core import RateLimitResult

__all__ = ["RateLimitContext", "RateLimitHeaderPolicy", "fields_of"]


@dataclass(frozen=True)
class RateLimitHeaderPolicy:
    """The names of the header fields."""

    limit: str = "RateLimit-Limit"
    remaining: str = "RateLimit-Remaining"
    reset: str = "RateLimit-Reset"
    """Seconds until the whole quota is there again."""
    retry_after: str = "Retry-After"


@dataclass(frozen=True)
class RateLimitContext:
    """A decision, and the names under which to tell it."""

    result: "RateLimitResult"
    headers: RateLimitHeaderPolicy


def fields_of(context: RateLimitContext, retry_after: bool) -> dict[str, str]:
    """The fields; seconds are whole and rounded up. A cost that never fits has no Retry-After."""
    state, names = context.result.state, context.headers
    if state is None:
        return {}
    fields = {
        names.limit: str(state.limit),
        names.remaining: str(state.remaining),
        names.reset: str(math.ceil(state.reset_after)),
    }
    if retry_after and math.isfinite(state.retry_after):
        fields[names.retry_after] = str(math.ceil(state.retry_after))
    return fields

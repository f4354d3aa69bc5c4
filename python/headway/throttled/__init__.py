"""The mirror of throttled.md: `from headway.throttled import …` for `from throttled import …`.

Its submodules are headway's own, under this second name. `headway.throttled.asyncio` is what is
awaited. Redis arrives with a later release.
"""

from headway._core import MemoryStore, Throttled, __version__
from headway.constants import RateLimiterType
from headway.hooks import Hook, HookContext
from headway.rate_limiter import (
    BaseRateLimiter,
    Quota,
    Rate,
    RateLimiterMeta,
    RateLimiterRegistry,
    RateLimitResult,
    RateLimitState,
    per_day,
    per_duration,
    per_hour,
    per_min,
    per_sec,
    per_week,
)
from headway.store import BaseStore, RedisStore
from headway.throttled import constants, exceptions, hooks, rate_limiter, store, types, utils

__all__ = [
    "BaseRateLimiter",
    "BaseStore",
    "Hook",
    "HookContext",
    "MemoryStore",
    "Quota",
    "Rate",
    "RateLimitResult",
    "RateLimitState",
    "RateLimiterMeta",
    "RateLimiterRegistry",
    "RateLimiterType",
    "RedisStore",
    "Throttled",
    "__version__",
    "constants",
    "exceptions",
    "hooks",
    "per_day",
    "per_duration",
    "per_hour",
    "per_min",
    "per_sec",
    "per_week",
    "rate_limiter",
    "store",
    "types",
    "utils",
]

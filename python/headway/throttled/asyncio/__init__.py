"""The mirror of throttled.md's asynchronous package: the names of `headway.asyncio`.

Its submodules are those of `headway.asyncio`, under this second name.
"""

from headway.asyncio import *  # noqa: F403

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

"""The mirror of throttled.md's asynchronous package: the names of `headway.asyncio`.

Its submodules are those of `headway.asyncio`, under this second name.
"""

from typing import TYPE_CHECKING

from headway.asyncio import (
    BaseRateLimiter,
    BaseStore,
    Hook,
    HookContext,
    MemoryStore,
    Quota,
    Rate,
    RateLimiterMeta,
    RateLimiterRegistry,
    RateLimiterType,
    RateLimitResult,
    RateLimitState,
    RedisStore,
    Throttled,
    __version__,
    constants,
    exceptions,
    hooks,
    per_day,
    per_duration,
    per_hour,
    per_min,
    per_sec,
    per_week,
    rate_limiter,
    store,
    types,
    utils,
)

if TYPE_CHECKING:
    from headway.store import SharedMemoryStore, SQLiteStore

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
    "SQLiteStore",
    "SharedMemoryStore",
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


def __getattr__(name: str) -> object:
    if name in ("SQLiteStore", "SharedMemoryStore"):  # which load what few need
        return getattr(store, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

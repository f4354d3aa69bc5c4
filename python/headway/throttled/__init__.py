"""The mirror of throttled.md: `from headway.throttled import …` for `from throttled import …`.

Its submodules are headway's own, under this second name. `headway.throttled.asyncio` is what is
awaited. `SQLiteStore` and `SharedMemoryStore` are headway's own.
"""

from typing import TYPE_CHECKING

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

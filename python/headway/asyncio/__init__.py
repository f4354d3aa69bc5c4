"""headway for asyncio and trio: the names of `headway.throttled`, awaited (throttled.md, 3).

    from headway.asyncio import Throttled, rate_limiter, store

    throttle = Throttled(quota=rate_limiter.per_sec(1_000), timeout=5)
    result = await throttle.limit("/ping")

Limits are shared with the synchronous package by sharing a store: tasks and threads that wait for
one key stand in one line.
"""

from typing import TYPE_CHECKING

from headway._core import AsyncThrottled as Throttled
from headway._core import MemoryStore, __version__
from headway.asyncio import hooks, rate_limiter
from headway.asyncio.hooks import Hook, HookContext
from headway.asyncio.rate_limiter import (
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
from headway.constants import RateLimiterType
from headway.store import BaseStore, RedisStore
from headway.throttled import constants, exceptions, store, types, utils

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

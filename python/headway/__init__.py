"""headway: rate limiting with a compiled core.

    from headway import Throttled, per_min

    @Throttled(key="/ping", quota=per_min(60))
    def ping() -> str: ...

Everything public is a name of this module. Names load their module when first used, so that
`import headway` costs next to nothing; the table below says which module that is.
"""

import sys

if sys.version_info < (3, 10) or sys.implementation.name != "cpython":
    raise ImportError(
        "headway needs CPython 3.10 or later, and this is {} {}.{} at {}.".format(
            sys.implementation.name, *sys.version_info[:2], sys.executable
        )
    )
del sys

TYPE_CHECKING = False  # typing's own would have to be imported
if TYPE_CHECKING:
    from headway import (
        algorithms,
        asyncio,  # noqa: F401
        clock,
        constants,
        dropin,
        exceptions,
        hooks,
        limiters,
        rate_limiter,
        store,
        throttled,
        types,
        utils,
    )
    from headway._core import (
        MemoryStore,
        Quota,
        Rate,
        RateLimitResult,
        RateLimitState,
        Throttled,
        TokenBucket,
        VirtualClock,
        __version__,
        parse_quota,
        per_day,
        per_duration,
        per_hour,
        per_min,
        per_sec,
        per_week,
    )
    from headway.choked import Choked, choked
    from headway.constants import RateLimiterType, StoreType
    from headway.exceptions import (
        BaseThrottledError,
        DataError,
        LimitedError,
        SetUpError,
        StoreUnavailableError,
    )
    from headway.hooks import AsyncHook, Hook, HookContext
    from headway.limiters import (
        AsyncSemaphore,
        AsyncTokenBucket,
        MaxSleepExceededError,
        SyncSemaphore,
        SyncTokenBucket,
    )
    from headway.rate_limiter import RateLimiterRegistry
    from headway.rate_limiter.exceptions import RateLimitExceeded
    from headway.store import AtomicStore, RedisStore, SharedMemoryStore, SQLiteStore

__all__ = [
    "AsyncHook",
    "AsyncSemaphore",
    "AsyncTokenBucket",
    "AtomicStore",
    "BaseThrottledError",
    "Choked",
    "DataError",
    "Hook",
    "HookContext",
    "LimitedError",
    "MaxSleepExceededError",
    "MemoryStore",
    "Quota",
    "Rate",
    "RateLimitExceeded",
    "RateLimitResult",
    "RateLimitState",
    "RateLimiterRegistry",
    "RateLimiterType",
    "RedisStore",
    "SQLiteStore",
    "SetUpError",
    "SharedMemoryStore",
    "StoreType",
    "StoreUnavailableError",
    "SyncSemaphore",
    "SyncTokenBucket",
    "Throttled",
    "TokenBucket",
    "VirtualClock",
    "__version__",
    "algorithms",
    "choked",
    "clock",
    "constants",
    "dropin",
    "exceptions",
    "hooks",
    "limiters",
    "parse_quota",
    "per_day",
    "per_duration",
    "per_hour",
    "per_min",
    "per_sec",
    "per_week",
    "rate_limiter",
    "store",
    "throttled",
    "types",
    "utils",
]

_HOME_OF = {
    "AsyncHook": "headway.hooks",
    "AsyncSemaphore": "headway.limiters",
    "AsyncTokenBucket": "headway.limiters",
    "AtomicStore": "headway.store",
    "BaseThrottledError": "headway.exceptions",
    "Choked": "headway.choked",
    "DataError": "headway.exceptions",
    "Hook": "headway.hooks",
    "HookContext": "headway.hooks",
    "LimitedError": "headway.exceptions",
    "MaxSleepExceededError": "headway.limiters",
    "RateLimitExceeded": "headway.rate_limiter.exceptions",
    "RateLimiterRegistry": "headway.rate_limiter",
    "RateLimiterType": "headway.constants",
    "RedisStore": "headway.store",
    "SQLiteStore": "headway.store",
    "SharedMemoryStore": "headway.store",
    "SetUpError": "headway.exceptions",
    "StoreType": "headway.constants",
    "SyncSemaphore": "headway.limiters",
    "SyncTokenBucket": "headway.limiters",
    "StoreUnavailableError": "headway.exceptions",
}
_MODULES = {
    "algorithms",
    "asyncio",
    "choked",
    "clock",
    "constants",
    "dropin",
    "exceptions",
    "hooks",
    "limiters",
    "rate_limiter",
    "store",
    "throttled",
    "types",
    "utils",
}
# Every other name of __all__ lives in the compiled module. `headway.asyncio` is not in it: a star
# import must not put it in the place of Python's own.


def __getattr__(name: str) -> object:
    if name not in __all__ and name not in _MODULES:
        raise AttributeError(f"module 'headway' has no attribute {name!r}")
    from importlib import import_module

    if name in _MODULES:
        return import_module(f"headway.{name}")
    value: object = getattr(import_module(_HOME_OF.get(name, "headway._core")), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})

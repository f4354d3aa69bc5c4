"""headway: rate limiting with a compiled core.

    from headway import Throttled, per_min

    @Throttled(key="/ping", quota=per_min(60))
    def ping() -> str: ...

Everything public is a name of this module. Names load their module when first used, so that
`import headway` costs next to nothing; the table below says which module that is.
"""

TYPE_CHECKING = False  # typing's own would have to be imported
if TYPE_CHECKING:
    from headway import (
        algorithms,
        clock,
        constants,
        dropin,
        exceptions,
        hooks,
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
    from headway.constants import RateLimiterType, StoreType
    from headway.exceptions import (
        BaseThrottledError,
        DataError,
        LimitedError,
        SetUpError,
        StoreUnavailableError,
    )
    from headway.hooks import Hook, HookContext
    from headway.rate_limiter import RateLimiterRegistry
    from headway.rate_limiter.exceptions import RateLimitExceeded

__all__ = [
    "BaseThrottledError",
    "DataError",
    "Hook",
    "HookContext",
    "LimitedError",
    "MemoryStore",
    "Quota",
    "Rate",
    "RateLimitExceeded",
    "RateLimitResult",
    "RateLimitState",
    "RateLimiterRegistry",
    "RateLimiterType",
    "SetUpError",
    "StoreType",
    "StoreUnavailableError",
    "Throttled",
    "TokenBucket",
    "VirtualClock",
    "__version__",
    "algorithms",
    "clock",
    "constants",
    "dropin",
    "exceptions",
    "hooks",
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
    "BaseThrottledError": "headway.exceptions",
    "DataError": "headway.exceptions",
    "Hook": "headway.hooks",
    "HookContext": "headway.hooks",
    "LimitedError": "headway.exceptions",
    "RateLimitExceeded": "headway.rate_limiter.exceptions",
    "RateLimiterRegistry": "headway.rate_limiter",
    "RateLimiterType": "headway.constants",
    "SetUpError": "headway.exceptions",
    "StoreType": "headway.constants",
    "StoreUnavailableError": "headway.exceptions",
}
_MODULES = {
    "algorithms",
    "clock",
    "constants",
    "dropin",
    "exceptions",
    "hooks",
    "rate_limiter",
    "store",
    "throttled",
    "types",
    "utils",
}
# Every other name of __all__ lives in the compiled module.


def __getattr__(name: str) -> object:
    if name not in __all__:
        raise AttributeError(f"module 'headway' has no attribute {name!r}")
    from importlib import import_module

    if name in _MODULES:
        return import_module(f"headway.{name}")
    value: object = getattr(import_module(_HOME_OF.get(name, "headway._core")), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})

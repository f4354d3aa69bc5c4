"""The mirror of smartratelimit.md: limits learned from the servers' own headers.

    from headway.smartratelimit import RateLimiter

    limiter = RateLimiter()
    response = limiter.request("GET", "https://api.github.com/users/octocat")

Names load their module when first used: retries need no HTTP library, and the limiter's clients
are imported when they are asked for.
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from headway._core import __version__ as __version__
    from headway.smartratelimit.async_client import (  # type: ignore[import-not-found, unused-ignore]
        AsyncRateLimiter,
    )
    from headway.smartratelimit.core import (  # type: ignore[import-not-found, unused-ignore]
        RateLimiter,
    )
    from headway.smartratelimit.exceptions import RateLimitExceeded, StorageUnavailable
    from headway.smartratelimit.metrics import MetricsCollector
    from headway.smartratelimit.models import LimitDimension, RateLimitStatus
    from headway.smartratelimit.providers import Provider, SeedLimit, register_provider
    from headway.smartratelimit.retry import RetryConfig, RetryHandler, RetryStrategy

__all__ = [
    "RateLimiter",
    "AsyncRateLimiter",
    "RateLimitStatus",
    "LimitDimension",
    "Provider",
    "SeedLimit",
    "register_provider",
    "RateLimitExceeded",
    "StorageUnavailable",
    "RetryConfig",
    "RetryHandler",
    "RetryStrategy",
    "MetricsCollector",
]

_HOME_OF = {
    "RateLimiter": "headway.smartratelimit.core",
    "AsyncRateLimiter": "headway.smartratelimit.async_client",
    "RateLimitStatus": "headway.smartratelimit.models",
    "LimitDimension": "headway.smartratelimit.models",
    "Provider": "headway.smartratelimit.providers",
    "SeedLimit": "headway.smartratelimit.providers",
    "register_provider": "headway.smartratelimit.providers",
    "RateLimitExceeded": "headway.smartratelimit.exceptions",
    "StorageUnavailable": "headway.smartratelimit.exceptions",
    "RetryConfig": "headway.smartratelimit.retry",
    "RetryHandler": "headway.smartratelimit.retry",
    "RetryStrategy": "headway.smartratelimit.retry",
    "MetricsCollector": "headway.smartratelimit.metrics",
    "__version__": "headway._core",
}


def __getattr__(name: str) -> object:
    if name not in _HOME_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    value: object = getattr(import_module(_HOME_OF[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOME_OF})

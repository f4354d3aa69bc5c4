"""Quotas and limiters by name (throttled.md), and the home of token-bucket.md.

From throttled.md come the quotas (`per_sec(100, burst=200)` and its sisters), the shared types
and `RateLimiterRegistry`; token-bucket.md has `rate_limiter.token_bucket` and
`rate_limiter.exceptions`.
"""

from headway._core import (
    Quota,
    Rate,
    RateLimitResult,
    RateLimitState,
    parse_quota,
    per_day,
    per_duration,
    per_hour,
    per_min,
    per_sec,
    per_week,
)
from headway.rate_limiter.registry import (
    BaseRateLimiter,
    FixedWindowRateLimiter,
    GCRARateLimiter,
    LeakingBucketRateLimiter,
    RateLimiterMeta,
    RateLimiterRegistry,
    SlidingWindowRateLimiter,
    TokenBucketRateLimiter,
)

__all__ = [
    "BaseRateLimiter",
    "FixedWindowRateLimiter",
    "GCRARateLimiter",
    "LeakingBucketRateLimiter",
    "Quota",
    "Rate",
    "RateLimitResult",
    "RateLimitState",
    "RateLimiterMeta",
    "RateLimiterRegistry",
    "SlidingWindowRateLimiter",
    "TokenBucketRateLimiter",
    "parse_quota",
    "per_day",
    "per_duration",
    "per_hour",
    "per_min",
    "per_sec",
    "per_week",
]

"""The exception of token-bucket.md."""

from headway.exceptions import BaseThrottledError

__all__ = ["RateLimitExceeded"]


class RateLimitExceeded(BaseThrottledError):
    """For programs that want to raise when `TokenBucket.allow()` says no; never raised here."""

"""What the limiter raises (smartratelimit.md)."""

from headway.exceptions import BaseThrottledError

__all__ = ["RateLimitExceeded", "StorageUnavailable"]


class RateLimitExceeded(BaseThrottledError):
    """A request was not allowed."""


class StorageUnavailable(RateLimitExceeded):
    """A storage cannot be opened, or does not answer."""

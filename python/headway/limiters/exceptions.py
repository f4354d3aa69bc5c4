"""The error of limiters.md."""

from headway.exceptions import BaseThrottledError

__all__ = ["MaxSleepExceededError"]


class MaxSleepExceededError(BaseThrottledError):
    """Waiting took, or would take, longer than `max_sleep`."""

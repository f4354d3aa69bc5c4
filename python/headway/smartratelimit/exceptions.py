"""What smartratelimit raises, within the one exception tree of headway."""

import math
from typing import Any

from headway.exceptions import BaseThrottledError, DataError, StoreUnavailableError

__all__ = ["InvalidArgument", "RateLimitExceeded", "StorageUnavailable"]


class InvalidArgument(DataError, ValueError):
    """An argument is not usable. The text names it, its value and what would do."""


class RateLimitExceeded(BaseThrottledError):
    """A request may not go out now, and waiting is not wanted or would not help.

    Without a message of its own the text is made of the scope and the wait:
    `Rate limit exceeded for https://api.example.com. Wait 2.50 seconds.`
    """

    endpoint: str | None
    """The scope whose limit it is, where known."""
    retry_after: float | None
    """Seconds until it is worth asking again, where known; inf: never."""

    def __init__(
        self,
        message: str | None = None,
        *,
        endpoint: str | None = None,
        retry_after: float | None = None,
    ) -> None:
        self.endpoint = endpoint
        self.retry_after = retry_after
        super().__init__(_sentence(endpoint, retry_after) if message is None else message)

    def __reduce__(self) -> tuple[Any, ...]:
        # The default would hand the text alone to __init__; the rest travels as attributes.
        return type(self), (str(self),), self.__dict__


class StorageUnavailable(RateLimitExceeded, StoreUnavailableError):
    """A storage cannot be opened or does not answer. The cause is chained as `__cause__`.

    It is a `RateLimitExceeded` because the request was not sent, and a `StoreUnavailableError` as
    for every other store.
    """


def _sentence(endpoint: str | None, retry_after: float | None) -> str:
    of = f" for {endpoint}" if endpoint else ""
    if retry_after is None:
        return f"Rate limit exceeded{of}."
    if math.isinf(retry_after):
        return f"Rate limit exceeded{of}: it can never be met, however long the wait."
    return f"Rate limit exceeded{of}. Wait {retry_after:.2f} seconds."

"""The tries of one call or request: what follows the one that has just ended.

Whoever sends makes an `Attempts` when a try has not brought what was wanted, asks it what now, and
waits for so many seconds (None: this was the last one). It is the same for threads and for tasks,
and for every HTTP library; a request that succeeds at once never makes one.
"""

import logging
import time
from typing import TYPE_CHECKING, Any

from headway.smartratelimit.exceptions import RateLimitExceeded

if TYPE_CHECKING:
    from headway.smartratelimit._base import LimiterBase
    from headway.smartratelimit._scopes import Scope
    from headway.smartratelimit.retry import RetryHandler

__all__ = ["Attempts", "RequestAttempts"]

logger = logging.getLogger("headway.smartratelimit")


class Attempts:
    """Counts tries and the time since the first; `RetryHandler` decides."""

    __slots__ = ("_clock", "_handler", "_started", "number")

    def __init__(self, handler: "RetryHandler", clock: Any = time.monotonic) -> None:
        self._handler = handler
        self._clock = clock
        self._started = clock()
        self.number = 1
        """Of the try that has ended, or is under way: counted from 1."""

    def after_response(self, response: object) -> float | None:
        """Seconds until the next try; None: this response is the caller's."""
        elapsed = self._clock() - self._started
        return self._counted(self._handler.delay_after_response(response, self.number, elapsed))

    def after_error(self, error: BaseException, method: str | None) -> float | None:
        """Seconds until the next try; None: this error is the caller's."""
        elapsed = self._clock() - self._started
        return self._counted(self._handler.delay_after_error(error, self.number, elapsed, method))

    def _counted(self, delay: float | None) -> float | None:
        if delay is not None:
            self.number += 1
        return delay


class RequestAttempts(Attempts):
    """The same for a request that a limiter lets go; time counts from the end of its first try."""

    __slots__ = ("_limiter", "_method")

    def __init__(self, limiter: "LimiterBase", method: str) -> None:
        super().__init__(limiter._retry)
        self._limiter = limiter
        self._method = method

    def after_refusal(self, scope: "Scope", response: object, repeatable: bool) -> float | None:
        """After a status that is to be retried. Raises where the limiter is to raise instead."""
        delay = self.after_response(response) if repeatable else None
        if delay is None:
            return None
        if self._limiter._raise_on_limit:
            raise RateLimitExceeded(endpoint=scope.key.partition("/#")[0], retry_after=delay)
        logger.info("%s: sent again in %.2f s", scope.endpoint, delay)
        return delay

    def after_loss(self, error: BaseException, repeatable: bool) -> float | None:
        """After an error, with or without a response behind it."""
        limiter = self._limiter
        if not repeatable or not limiter._retries_lost or limiter._raise_on_limit:
            return None
        return self.after_error(error, self._method)

"""One limit's part in one call, and what limits around one another owe each other.

A server's limit stands around a tool's own, and decorators stand around one another. Where an inner
one denies, the call has not been carried out, so the outer ones give back what they took: from a
bucket, since a window cannot. A tool that catches the denial of a function it calls, and answers
all the same, has been served and pays.
"""

import logging
from contextvars import ContextVar
from types import TracebackType
from typing import Any

from headway._core import RateLimitState
from headway.contrib._rules import BUCKETS
from headway.contrib.mcp._call import Call
from headway.contrib.mcp._denial import Denied
from headway.exceptions import StoreUnavailableError

__all__ = ["Turn"]

_logger = logging.getLogger("headway.contrib.mcp")
_innermost: "ContextVar[Turn | None]" = ContextVar("headway_mcp_turn", default=None)


class Turn:
    """Entered before a limit is asked, left when the call has been carried out."""

    __slots__ = ("_call", "_denied_inside", "_outer", "_taken", "failed", "state")

    def __init__(self, call: Call) -> None:
        self._call = call
        self._outer: Turn | None = None
        self._denied_inside = False
        self._taken: tuple[Any, str, int] | None = None
        self.state: RateLimitState | None = None
        """What the limit has said, for whoever tells it: None where it has nothing to tell."""
        self.failed = False
        """Whether the call's result is an error. An exception is one anyway."""

    def took(self, limiter: Any, key: str, cost: int) -> None:
        """The limit has admitted."""
        if cost and limiter.using in BUCKETS:
            self._taken = limiter, key, cost

    def __enter__(self) -> "Turn":
        self._outer = _innermost.get()
        _innermost.set(self)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        _innermost.set(self._outer)
        if isinstance(error, Denied):
            self._tell_those_around()
        elif self._denied_inside and (self.failed or error is not None):
            self._give_back()

    def _tell_those_around(self) -> None:
        """Of the same request: a tool may be the client of another server of this process."""
        context = self._call.context
        turn = self._outer
        while turn is not None:
            if context is None or turn._call.context is context:
                turn._denied_inside = True
            turn = turn._outer

    def _give_back(self) -> None:
        if self._taken is None:
            return
        limiter, key, cost = self._taken
        self._taken = self.state = None
        quotas = limiter.quota
        for rule in range(len(quotas) if isinstance(quotas, tuple) else 1):
            try:
                limiter._settle(key, rule, cost)
            except StoreUnavailableError as error:
                _logger.debug("%r is not given back: %s", key, error)

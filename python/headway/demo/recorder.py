"""A hook that notes when each request was decided, and how.

The limiter reads its clock somewhere inside `limit()`. The hook reads the same clock before and
after, so the true instant lies between two known ones, microseconds apart. An arrival is noted
before it is decided: a request that waits counts as one that came when it came.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from headway import RateLimitResult
from headway.clock import now_ns
from headway.hooks import Hook, HookContext


class Arrival:
    """One request at one key. Times: nanoseconds since the Unix epoch, on the limiter's clock."""

    __slots__ = ("admitted", "after_ns", "before_ns", "retry_after")

    def __init__(self, before_ns: int) -> None:
        self.before_ns = before_ns
        self.after_ns: int | None = None  # None until it is decided
        self.admitted = False
        self.retry_after = 0.0  # seconds that a denied request was told to wait


class Recorder(Hook):
    """Keeps every arrival of every key. Appending to a list is atomic, so it needs no lock."""

    def __init__(self) -> None:
        self._arrivals: dict[str, list[Arrival]] = {}

    @property
    def arrivals(self) -> Mapping[str, list[Arrival]]:
        """The arrivals of each key, nearly in order of time; the lists grow while clients call."""
        return self._arrivals

    def on_limit(
        self, call_next: Callable[[], RateLimitResult], context: HookContext
    ) -> RateLimitResult:
        """Note the time, let the limiter decide, note the time and the answer."""
        arrival = Arrival(now_ns())
        self._arrivals.setdefault(str(context.key), []).append(arrival)
        result = call_next()
        after_ns = now_ns()
        arrival.admitted = not result.limited
        arrival.retry_after = result.state.retry_after
        arrival.after_ns = after_ns  # last: who sees it may read the rest
        return result

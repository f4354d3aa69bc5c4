"""The exact number: how many of these arrivals the quota admits, by the definitions alone.

This is a second, independent reading of the algorithms, written to be checked by eye: rational
numbers, no rounding, no table, no clock. It is given nothing but the quota and arrival times.

The bucket family keeps a theoretical arrival time: with T the interval between two requests and b
the burst, a request at `now` fits when `max(now, tat) + T - b*T <= now`, and moves `tat` to
`max(now, tat) + T`. Windows are aligned to the Unix epoch. A request that any rule denies takes
nothing from the others.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from datetime import timedelta
from fractions import Fraction
from typing import NamedTuple, Protocol

from headway import Quota
from headway.demo.recorder import Arrival

SECOND_NS = 1_000_000_000


class Rule(Protocol):
    """One quota and what has been taken from it."""

    def slot(self, now: Fraction) -> Fraction | None:
        """The earliest instant from `now` on at which one request fits; None: not now."""

    def take(self, at: Fraction) -> None:
        """Take one request's share at this instant, which `slot` has named."""


class Bucket:
    """gcra, token bucket and leaking bucket: they admit alike and differ in what they report."""

    def __init__(self, quota: Quota) -> None:
        self._interval = _period_ns(quota) / quota.rate.limit
        self._tolerance = quota.burst * self._interval
        self._tat = Fraction(0)

    def slot(self, now: Fraction) -> Fraction | None:
        return max(now, self._tat + self._interval - self._tolerance)

    def take(self, at: Fraction) -> None:
        self._tat = max(at, self._tat) + self._interval


class FixedWindow:
    """At most `limit` in each aligned window."""

    def __init__(self, quota: Quota) -> None:
        self._period = _period_ns(quota)
        self._limit = quota.rate.limit
        self._taken: dict[int, int] = {}

    def slot(self, now: Fraction) -> Fraction | None:
        return now if self._taken.get(now // self._period, 0) < self._limit else None

    def take(self, at: Fraction) -> None:
        window = at // self._period
        self._taken[window] = self._taken.get(window, 0) + 1


class SlidingWindow:
    """Two aligned windows; the earlier one counts by the share of it that is still covered."""

    def __init__(self, quota: Quota) -> None:
        self._period = _period_ns(quota)
        self._limit = quota.rate.limit
        self._taken: dict[int, int] = {}

    def slot(self, now: Fraction) -> Fraction | None:
        window, into = divmod(now, self._period)
        covered = 1 - into / self._period
        weighted = self._taken.get(window - 1, 0) * covered + self._taken.get(window, 0)
        return now if weighted + 1 <= self._limit else None

    def take(self, at: Fraction) -> None:
        window = at // self._period
        self._taken[window] = self._taken.get(window, 0) + 1


RULES: dict[str, type[Bucket] | type[FixedWindow] | type[SlidingWindow]] = {
    "token_bucket": Bucket,
    "leaking_bucket": Bucket,
    "gcra": Bucket,
    "fixed_window": FixedWindow,
    "sliding_window": SlidingWindow,
}


class Reference:
    """One key under one or more rules. Arrivals must be given in order of time."""

    def __init__(self, quotas: Sequence[Quota], using: str, timeout: float | None = None) -> None:
        """`timeout`: seconds that a request may wait for its slot; for one bucket rule only."""
        if timeout is not None and (len(quotas) > 1 or RULES[using] is not Bucket):
            raise ValueError(f"timeout={timeout}: waiting is known for a single bucket rule only")
        self._rules: list[Rule] = [RULES[using](quota) for quota in quotas]
        self._patience = Fraction(timeout or 0) * SECOND_NS

    def arrive(self, now_ns: int) -> Fraction | None:
        """The instant (ns) at which a request that comes now is admitted; None: it is denied.

        Who waits is served in order of arrival, so those in line before it have their slots.
        """
        now = Fraction(now_ns)
        at = now
        for rule in self._rules:
            slot = rule.slot(now)
            if slot is None or slot - now > self._patience:
                return None
            at = max(at, slot)
        for rule in self._rules:
            rule.take(at)
        return at

    def admitted(self, times_ns: Iterable[int]) -> int:
        """How many of these arrivals, taken in order of time, are admitted."""
        return sum(self.arrive(now_ns) is not None for now_ns in sorted(times_ns))


class Exact(NamedTuple):
    """How many admissions the quota allows for the arrivals that were seen.

    One number (`low == high`) unless a boundary of the quota fell between the two clock readings
    around a decision, where both answers are right.
    """

    low: int
    high: int

    def __contains__(self, admitted: object) -> bool:
        return isinstance(admitted, int) and self.low <= admitted <= self.high

    def __str__(self) -> str:
        return f"{self.low:,}" if self.low == self.high else f"{self.low:,}-{self.high:,}"


def exact(
    arrivals: Sequence[Arrival], quotas: Sequence[Quota], using: str, timeout: float | None = None
) -> Exact:
    """The exact number for these arrivals: with each decided as early, and as late, as it can be.

    A request that waited has no clock reading between its arrival and its slot. It joined the
    line within moments of its first reading: at most a thread's turn (`sys.getswitchinterval`).
    """
    early = [arrival.before_ns for arrival in arrivals]
    late = [_latest(arrival, waits=timeout is not None) for arrival in arrivals]
    counts = [Reference(quotas, using, timeout).admitted(times) for times in (early, late)]
    return Exact(min(counts), max(counts))


def _latest(arrival: Arrival, *, waits: bool) -> int:
    after_ns = arrival.before_ns if arrival.after_ns is None else arrival.after_ns
    if not waits:
        return after_ns
    return min(after_ns, arrival.before_ns + int(sys.getswitchinterval() * SECOND_NS))


def _period_ns(quota: Quota) -> Fraction:
    return Fraction(quota.rate.period // timedelta(microseconds=1)) * 1_000

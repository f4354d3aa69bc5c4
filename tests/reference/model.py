"""The five algorithms in exact rationals: the yardstick that the C core is held against.

Everything is a `Fraction` of nanoseconds and nothing is optimised, so that each rule can be read
next to the sentence of the contract that it comes from. A rule answers one question, `ask(now,
cost)`, and changes only when the answer is yes and the caller says `take`. Reports are whole
nanoseconds, rounded up; `None` stands for "never".

Source: CONTRACT.md, "Algorithms", and for the bucket family ITU-T I.371 (the generic cell rate
algorithm).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from fractions import Fraction
from math import ceil, floor

SECOND = 10**9
"""Nanoseconds in a second."""

LONGEST_REPORT_NS = 2**63 - 2
"""Reports stop here, at 292 years: later than the last instant of the clock."""


@dataclass(frozen=True)
class Rule:
    """One quota: `limit` calls in `period_ns` nanoseconds, and `burst` at once."""

    limit: int
    period_ns: int
    burst: int

    @property
    def interval(self) -> Fraction:
        """The emission interval T, in nanoseconds, never rounded."""
        return Fraction(self.period_ns, self.limit)

    @property
    def period(self) -> timedelta:
        """The period as the public API takes it. Exact, since periods are whole microseconds."""
        return timedelta(microseconds=self.period_ns // 1000)


@dataclass(frozen=True)
class Report:
    """What a caller is told. Times are whole nanoseconds; `retry_after_ns` is None when the cost
    can never fit.
    """

    allowed: bool
    limit: int
    remaining: int
    reset_after_ns: int
    retry_after_ns: int | None

    @property
    def reset_after(self) -> float:
        """Seconds until the key is as good as new."""
        return min(self.reset_after_ns, LONGEST_REPORT_NS) / SECOND

    @property
    def retry_after(self) -> float:
        """Seconds until this cost fits, `inf` when it never does."""
        if self.retry_after_ns is None:
            return float("inf")
        return min(self.retry_after_ns, LONGEST_REPORT_NS) / SECOND

    @property
    def _wait_rank(self) -> float:
        return float("inf") if self.retry_after_ns is None else self.retry_after_ns


def round_up(value: Fraction, step: Fraction | int) -> Fraction:
    """The least multiple of `step` that is at least `value`."""
    return ceil(value / step) * Fraction(step)


class Algorithm(ABC):
    """The state of one key under one rule."""

    def __init__(self, rule: Rule) -> None:
        self.rule = rule

    @abstractmethod
    def ask(self, now: int, cost: int) -> bool:
        """Whether `cost` fits at `now`. Changes nothing."""

    @abstractmethod
    def take(self, now: int, cost: int) -> None:
        """Consumes a cost that fits."""

    @abstractmethod
    def report(self, now: int, denied_cost: int) -> Report:
        """The state at `now`; `denied_cost` is 0 unless this cost has just been denied."""


class Gcra(Algorithm):
    """Burst b, interval T: `tat' = max(now, tat) + c*T` is admitted iff `tat' - b*T <= now`."""

    def __init__(self, rule: Rule) -> None:
        super().__init__(rule)
        self.tat = Fraction(0)

    def _next(self, now: int, cost: int) -> Fraction:
        return max(Fraction(now), self.tat) + cost * self.rule.interval

    def _early(self, now: int, cost: int) -> Fraction:
        """By how many nanoseconds this cost comes too early; 0 or less when it fits."""
        return self._next(now, cost) - self.rule.burst * self.rule.interval - now

    def ask(self, now: int, cost: int) -> bool:
        return cost == 0 or self._early(now, cost) <= 0

    def take(self, now: int, cost: int) -> None:
        if cost:
            self.tat = self._next(now, cost)

    def report(self, now: int, denied_cost: int) -> Report:
        debt = max(Fraction(0), self.tat - now)
        tokens = self.rule.burst - debt / self.rule.interval
        retry: int | None = 0
        if denied_cost > self.rule.burst:
            retry = None
        elif denied_cost:
            retry = self.shown(self._early(now, denied_cost))
        return Report(
            allowed=not denied_cost,
            limit=self.rule.burst,
            remaining=min(self.rule.burst, max(0, floor(tokens))),
            reset_after_ns=self.shown(debt),
            retry_after_ns=retry,
        )

    def shown(self, duration: Fraction) -> int:
        """A duration as gcra reports it: exact, up to the next nanosecond."""
        return ceil(duration)


class Bucket(Gcra):
    """Token and leaking bucket: gcra that counts in whole tokens, so durations round up to min(1 s,
    T).
    """

    def shown(self, duration: Fraction) -> int:
        return ceil(round_up(duration, min(Fraction(SECOND), self.rule.interval)))


class FixedWindow(Algorithm):
    """At most `limit` in each window; windows are aligned to the epoch."""

    def __init__(self, rule: Rule) -> None:
        super().__init__(rule)
        self.window = -1
        self.count = 0

    def _used(self, now: int) -> int:
        return self.count if now // self.rule.period_ns == self.window else 0

    def ask(self, now: int, cost: int) -> bool:
        return cost == 0 or self._used(now) + cost <= self.rule.limit

    def take(self, now: int, cost: int) -> None:
        if cost:
            self.count = self._used(now) + cost
            self.window = now // self.rule.period_ns

    def report(self, now: int, denied_cost: int) -> Report:
        period = self.rule.period_ns
        rest = Fraction((now // period + 1) * period - now)
        if period >= SECOND:
            rest = round_up(rest, SECOND)
        retry: int | None = 0
        if denied_cost > self.rule.limit:
            retry = None
        elif denied_cost:
            retry = ceil(rest)
        return Report(
            allowed=not denied_cost,
            limit=self.rule.limit,
            remaining=max(0, self.rule.limit - self._used(now)),
            reset_after_ns=ceil(rest),
            retry_after_ns=retry,
        )


class SlidingWindow(Algorithm):
    """Two aligned windows: `previous * share + current + cost <= limit`."""

    def __init__(self, rule: Rule) -> None:
        super().__init__(rule)
        self.counts: dict[int, int] = {}

    def _windows(self, now: int) -> tuple[int, int, int]:
        """The start of the window that holds `now`, the count in it, and the count in the one
        before.
        """
        index = now // self.rule.period_ns
        return index * self.rule.period_ns, self.counts.get(index, 0), self.counts.get(index - 1, 0)

    def _weighted(self, now: int) -> Fraction:
        start, current, previous = self._windows(now)
        share = 1 - Fraction(now - start, self.rule.period_ns)
        return previous * share + current

    def ask(self, now: int, cost: int) -> bool:
        return cost == 0 or self._weighted(now) + cost <= self.rule.limit

    def take(self, now: int, cost: int) -> None:
        if cost:
            index = now // self.rule.period_ns
            kept = {i: n for i, n in self.counts.items() if i >= index - 1}
            kept[index] = kept.get(index, 0) + cost
            self.counts = kept

    def _first_fit(self, now: int, cost: int) -> int | None:
        """The least instant from `now` on at which `cost` fits with no other traffic."""
        limit, period = self.rule.limit, self.rule.period_ns
        if cost > limit:
            return None
        start, current, previous = self._windows(now)
        for begin, fading, fixed in ((start, previous, current), (start + period, current, 0)):
            # fading * (1 - e/period) + fixed + cost <= limit, solved for the elapsed time e.
            room = limit - fixed - cost
            if room < 0:
                continue
            elapsed = Fraction(period) * (1 - Fraction(room, fading)) if fading > room else 0
            if elapsed <= period:
                return max(now, begin + ceil(elapsed))
        raise AssertionError("a cost within the limit fits once the current window has faded")

    def report(self, now: int, denied_cost: int) -> Report:
        start, current, previous = self._windows(now)
        period, limit = self.rule.period_ns, self.rule.limit
        reset = 0
        if current:
            reset = start + 2 * period - now
        elif previous:
            reset = start + period - now
        retry: int | None = 0
        if denied_cost:
            instant = self._first_fit(now, denied_cost)
            retry = None if instant is None else instant - now
        return Report(
            allowed=not denied_cost,
            limit=limit,
            remaining=min(limit, max(0, floor(limit - self._weighted(now)))),
            reset_after_ns=reset,
            retry_after_ns=retry,
        )


ALGORITHMS: dict[str, Callable[[Rule], Algorithm]] = {
    "fixed_window": FixedWindow,
    "sliding_window": SlidingWindow,
    "token_bucket": Bucket,
    "leaking_bucket": Bucket,
    "gcra": Gcra,
}


class Model:
    """One key under one or several rules: all of them admit, or none is touched."""

    def __init__(self, using: str, rules: Sequence[Rule]) -> None:
        self.parts = [ALGORITHMS[using](rule) for rule in rules]

    def limit(self, now: int, cost: int) -> Report:
        """Takes `cost` at `now` from every rule, or from none.

        Denied: the report of the rule with the longest wait. Allowed: that of the rule with the
        fewest remaining, then with the longest reset. The first rule wins a tie.
        """
        denying = [part for part in self.parts if not part.ask(now, cost)]
        if denying:
            return max((part.report(now, cost) for part in denying), key=lambda r: r._wait_rank)
        for part in self.parts:
            part.take(now, cost)
        return self.peek(now)

    def peek(self, now: int) -> Report:
        """The state of the tightest rule."""
        reports = [part.report(now, 0) for part in self.parts]
        return min(reports, key=lambda r: (r.remaining, -r.reset_after_ns))

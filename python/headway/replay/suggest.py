"""Which limit should I set? The smallest quotas that would have left a share of the clients alone.

For a period P (a second, a minute, an hour) each client has a smallest limit N: with the quota
`N/P` (burst N, as in the quota language) none of its requests is denied, with N - 1 one is. It is
found exactly, in whole numbers:

- bucket family (token_bucket, leaking_bucket, gcra): requests i to j, of cost C in all, fit iff
  C <= N + N * (t_j - t_i) / P. So N is the largest of C * P / (P + t_j - t_i) over all i <= j,
  rounded up. `_bucket` finds it by raising N over one busy period after another until none is left
  that does not fit; each raise is to the need of the worst interval seen, so few are needed.
- fixed_window: the fullest window. sliding_window: the largest value of the definition's left side,
  previous * share + current, over all requests.

The quota that leaves 99 % of the clients alone is then the 99th percentile (nearest rank) of N over
the clients. How many requests the others would lose is counted with the limiter itself.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

from headway.replay.demand import Schedules
from headway.replay.requests import MOST_COST, SECOND

PERIODS = {"s": SECOND, "m": 60 * SECOND, "h": 3600 * SECOND}
"""The periods that are tried, in ns, by the name that the quota language has for them."""

PERCENTILES = (50.0, 90.0, 99.0, 99.9, 100.0)
"""Shares of the clients that are to be left alone, in percent."""


class Offer(NamedTuple):
    """A quota and what it would have done."""

    percentile: float
    quota: str
    """In the quota language."""
    clients_denied: int
    """Clients that would have lost at least one request."""
    requests_denied: int


class Suggestions(NamedTuple):
    """What to choose from."""

    clients: int
    offers: dict[str, list[Offer]]
    """By period, one for each of `PERCENTILES`."""
    limits: dict[str, list[int]]
    """By period, the smallest limit of every client, ascending."""

    @property
    def denying_nobody(self) -> str:
        """All periods in one quota, which denies nobody, to be pasted."""
        return "; ".join(offers[-1].quota for offers in self.offers.values())


def suggest(schedules: Schedules, *, using: str, cost: int = 1) -> Suggestions | None:
    """The offers for what clients did; None without a single client.

    Periods longer than the log are left out: it cannot say what a whole one of them holds.
    """
    if not schedules.times:
        return None
    first = min(times[0] for times in schedules.times.values())
    last = max(times[-1] for times in schedules.times.values())
    smallest = _SMALLEST[using]
    result = Suggestions(len(schedules.times), {}, {})
    for unit, period in PERIODS.items():
        if unit != "s" and last - first < period:
            break
        needs = {
            key: smallest(times, schedules.costs_of(key, cost), period)
            for key, times in schedules.times.items()
        }
        ordered = sorted(needs.values())
        result.limits[unit] = ordered
        result.offers[unit] = [
            _offer(schedules, needs, ordered, percentile, unit, using, cost)
            for percentile in PERCENTILES
        ]
    return result


def _offer(
    schedules: Schedules,
    needs: dict[bytes, int],
    ordered: list[int],
    percentile: float,
    unit: str,
    using: str,
    cost: int,
) -> Offer:
    rank = -(-len(ordered) * round(percentile * 10) // 1000)  # nearest rank, in whole numbers
    limit = min(ordered[max(rank, 1) - 1], MOST_COST)
    quota = f"{limit}/{unit}"
    denied = [key for key, need in needs.items() if need > limit]
    requests = sum(
        _denied_requests(quota, using, schedules.times[key], schedules.costs_of(key, cost))
        for key in denied
    )
    return Offer(percentile, quota, len(denied), requests)


def _denied_requests(quota: str, using: str, times: Sequence[int], costs: Sequence[int]) -> int:
    from headway._core import MemoryStore, Throttled, VirtualClock

    clock = VirtualClock(now_ns=0)
    store = MemoryStore(options={"MAX_SIZE": 1}, clock=clock)
    limit, set_now = Throttled(using=using, quota=quota, store=store).limit, clock.set
    denied = 0
    if max(costs) == min(costs) == 1:
        for now in times:
            set_now(now)
            if not limit(b"client"):
                denied += 1
        return denied
    for now, cost in zip(times, costs, strict=True):
        set_now(now)
        if not limit(b"client", cost):
            denied += 1
    return denied


def _bucket(times: Sequence[int], costs: Sequence[int], period: int) -> int:
    """The smallest limit (and burst) of a bucket that admits everything."""
    total, span = sum(costs), times[-1] - times[0]
    limit = max(1, -(-total * period // (period + span)))  # less does not admit all of it
    start = 0
    while limit < total:
        # Walk the busy periods: the bucket is full when one opens, and not again before the next.
        opened, used, need, first = times[start], 0, limit, start
        for at in range(start, len(times)):
            now = times[at]
            gone = now - opened
            if used * period <= gone * limit:
                if need > limit:
                    break
                opened, used, first = now, 0, at
                gone = 0
            used += costs[at]
            if used * period > (gone + period) * need:
                need = -(-used * period // (gone + period))
        if need == limit:
            break
        # Walk this one again: with more tokens it may turn out to be several.
        limit, start = need, first
    return limit


def _fixed(times: Sequence[int], costs: Sequence[int], period: int) -> int:
    """The smallest limit of fixed windows that admits everything."""
    window, used, need = -1, 0, 1
    for now, cost in zip(times, costs, strict=True):
        if now // period != window:
            window, used = now // period, 0
        used += cost
        if used > need:
            need = used
    return need


def _sliding(times: Sequence[int], costs: Sequence[int], period: int) -> int:
    """The smallest limit of a sliding window that admits everything."""
    window, previous, current, need = -1, 0, 0, 1
    for now, cost in zip(times, costs, strict=True):
        here, into = divmod(now, period)
        if here != window:
            previous = current if here == window + 1 else 0
            window, current = here, 0
        current += cost
        if cost and previous * (period - into) + current * period > need * period:
            need = -(-(previous * (period - into) + current * period) // period)
    return need


_SMALLEST: dict[str, Callable[[Sequence[int], Sequence[int], int], int]] = {
    "token_bucket": _bucket,
    "leaking_bucket": _bucket,
    "gcra": _bucket,
    "fixed_window": _fixed,
    "sliding_window": _sliding,
}

"""One row per key: what was asked, what was admitted, and the exact number beside it.

`LiveRows` keeps rows up to date while requests come in; `final_rows` computes them afresh from all
arrivals at the end, from the early and the late clock readings both. The final ones are the proof.
"""

from __future__ import annotations

import bisect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any

from headway._core import parse_quota
from headway.demo.recorder import Arrival
from headway.demo.reference import SECOND_NS, Exact, Reference, exact
from headway.demo.scenario import Route, keys

# Rows show the state of a moment ago, when every decision of that moment has been noted.
SETTLED_NS = 50_000_000


@dataclass(frozen=True)
class Row:
    """What one key saw. `longest_wait`: seconds told to a denied request, or spent in line."""

    key: str
    route: Route
    requests: int
    admitted: int
    exact: Exact
    longest_wait: float

    @property
    def denied(self) -> int:
        """Requests that were turned away."""
        return self.requests - self.admitted

    @property
    def agrees(self) -> bool:
        """Whether the admitted number is the exact one."""
        return self.admitted in self.exact

    @property
    def wait(self) -> str:
        """The longest wait, and whether it was spent in line or told to a denied request."""
        if not self.longest_wait:
            return "-"
        return f"{self.longest_wait:.2f} s {'in line' if self.route.timeout else 'told'}"

    def to_json(self) -> dict[str, Any]:
        """The row as plain data for the JSON report."""
        return {
            "key": self.key,
            "path": self.route.path,
            "quota": self.route.quota,
            "algorithm": self.route.using,
            "timeout": self.route.timeout,
            "requests": self.requests,
            "admitted": self.admitted,
            "exact": [self.exact.low, self.exact.high],
            "agrees": self.agrees,
            "denied": self.denied,
            "longest_wait": round(self.longest_wait, 6),
        }


def reference_for(route: Route, timeout: float | None) -> Reference:
    """A fresh reference for this route's quota; `timeout`: what a request may wait, in seconds."""
    return Reference(parse_quota(route.quota), route.using, timeout)


def final_rows(arrivals: Mapping[str, Sequence[Arrival]]) -> list[Row]:
    """The rows at the end, when every request has been decided."""
    return [_final_row(key, route, arrivals.get(key, ())) for key, route in keys().items()]


def _final_row(key: str, route: Route, arrivals: Sequence[Arrival]) -> Row:
    return Row(
        key=key,
        route=route,
        requests=len(arrivals),
        admitted=sum(arrival.admitted for arrival in arrivals),
        exact=exact(arrivals, parse_quota(route.quota), route.using, route.timeout),
        longest_wait=max((_wait(arrival, route) for arrival in arrivals), default=0.0),
    )


@dataclass
class _Tally:
    """One key's arrivals as far as they have been counted."""

    route: Route
    reference: Reference
    seen: int = 0  # of the recorder's list
    unfed: list[Arrival] = field(default_factory=list)  # the reference has not had them yet
    undecided: list[Arrival] = field(default_factory=list)  # or decided since the last look
    slots: list[Fraction] = field(default_factory=list)  # what the reference gave out, in order
    admitted: int = 0
    denied: int = 0
    longest_wait: float = 0.0


class LiveRows:
    """The rows while the demo runs; each call of `rows` takes in what is new."""

    def __init__(self, arrivals: Mapping[str, Sequence[Arrival]]) -> None:
        self._arrivals = arrivals
        self._tallies = {
            key: _Tally(route, reference_for(route, route.timeout)) for key, route in keys().items()
        }

    def rows(self, now_ns: int) -> list[Row]:
        """The rows as they stood a moment before `now_ns` (the limiter's clock)."""
        until_ns = now_ns - SETTLED_NS
        return [self._row(key, tally, until_ns) for key, tally in self._tallies.items()]

    def _row(self, key: str, tally: _Tally, until_ns: int) -> Row:
        arrivals = self._arrivals.get(key, ())
        new = arrivals[tally.seen : len(arrivals)]
        tally.seen += len(new)
        _feed(tally, new, until_ns)
        _count(tally, new, until_ns)
        exact_now = bisect.bisect_right(tally.slots, until_ns)
        return Row(
            key=key,
            route=tally.route,
            requests=tally.admitted + tally.denied,
            admitted=tally.admitted,
            exact=Exact(exact_now, exact_now),
            longest_wait=tally.longest_wait,
        )


def _feed(tally: _Tally, new: Sequence[Arrival], until_ns: int) -> None:
    """Give the reference every arrival up to `until_ns`, in order of time."""
    tally.unfed.extend(new)
    tally.unfed.sort(key=lambda arrival: arrival.before_ns)
    settled = bisect.bisect_right(tally.unfed, until_ns, key=lambda arrival: arrival.before_ns)
    for arrival in tally.unfed[:settled]:
        slot = tally.reference.arrive(arrival.before_ns)
        if slot is not None:
            tally.slots.append(slot)
    del tally.unfed[:settled]


def _count(tally: _Tally, new: Sequence[Arrival], until_ns: int) -> None:
    """Count the decisions taken up to `until_ns`."""
    still_open = []
    for arrival in (*tally.undecided, *new):
        if arrival.after_ns is None or arrival.after_ns > until_ns:
            still_open.append(arrival)
            continue
        tally.admitted += arrival.admitted
        tally.denied += not arrival.admitted
        tally.longest_wait = max(tally.longest_wait, _wait(arrival, tally.route))
    tally.undecided = still_open


def _wait(arrival: Arrival, route: Route) -> float:
    """Seconds that the request was told to wait, or, where waiting is offered, did wait."""
    if route.timeout is None:
        return arrival.retry_after
    if not arrival.admitted or arrival.after_ns is None:
        return 0.0
    return (arrival.after_ns - arrival.before_ns) / SECOND_NS

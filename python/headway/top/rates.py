"""From one snapshot to the next: how many requests a second.

A key has a rate once it was in two snapshots; a count that went down began anew, and has none. By
default the two are neighbours; a longer window gives a steadier number.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import Any

from headway._snapshot import KeyActivity, Snapshot, rank

__all__ = ["Moment", "Rates", "Row"]


_Who = tuple[str, str, str]


@dataclass(frozen=True, slots=True)
class Row:
    """A key and its rates, None where they are not known yet."""

    key: KeyActivity
    admitted_rate: float | None
    denied_rate: float | None


@dataclass(frozen=True, slots=True)
class Moment:
    """A snapshot with rates."""

    snapshot: Snapshot
    rows: tuple[Row, ...]
    admitted_rate: float | None
    denied_rate: float | None

    def as_json(self) -> dict[str, Any]:
        """The JSON of the snapshot, with `admitted_rate` and `denied_rate` beside the counts."""
        data = self.snapshot.as_json()
        data |= {"admitted_rate": self.admitted_rate, "denied_rate": self.denied_rate}
        for key, row in zip(data["keys"], self.rows, strict=True):
            key |= {"admitted_rate": row.admitted_rate, "denied_rate": row.denied_rate}
        return data

    def chosen(self, search: str, sort: str) -> list[Row]:
        """The rows with `search` in their key, sorted.

        By admitted or denied, those whose counts grow fastest come first.
        """
        wanted = search.casefold()
        rows = [row for row in self.rows if wanted in row.key.key.casefold()]
        rows.sort(key=lambda row: (-_sorting_rate(row, sort), rank(row.key, sort), row.key.key))
        return rows


class Rates:
    """Remembers the snapshots of the last `window` seconds, at least the one before.

    Where processes publish once a second, a window of some seconds keeps rates from flickering.
    """

    def __init__(self, window: float = 0.0) -> None:
        self._window = window
        self._before: deque[tuple[Snapshot, dict[_Who, KeyActivity]]] = deque()

    def take(self, snapshot: Snapshot) -> Moment:
        """The rates from the first snapshot remembered to this one."""
        before = self._before
        while len(before) > 1 and before[1][0].now <= snapshot.now - self._window:
            before.popleft()
        then, known = before[0] if before else (None, {})
        seconds = 0.0 if then is None else snapshot.now - then.now
        keys = {(key.key, key.algorithm, key.quota): key for key in snapshot.keys}
        rows = []
        for key in snapshot.keys:
            old = known.get((key.key, key.algorithm, key.quota))
            admitted, denied = _grown(old, key, seconds)
            rows.append(Row(key, admitted, denied))
        before.append((snapshot, keys))
        return Moment(snapshot, tuple(rows), *_grown(then, snapshot, seconds))


def _sorting_rate(row: Row, sort: str) -> float:
    rates = {"admitted": row.admitted_rate, "denied": row.denied_rate}
    return rates.get(sort) or 0.0


def _grown(
    before: KeyActivity | Snapshot | None, now: KeyActivity | Snapshot, seconds: float
) -> tuple[float | None, float | None]:
    if before is None:
        return None, None
    admitted = _rate(before.admitted, now.admitted, seconds)
    return admitted, _rate(before.denied, now.denied, seconds)


def _rate(before: int | None, now: int | None, seconds: float) -> float | None:
    if before is None or now is None or now < before or seconds <= 0:
        return None
    return (now - before) / seconds

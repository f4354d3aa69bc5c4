"""Counts over time in bounded memory: a timeline for plots, and the fullest second or minute."""

from __future__ import annotations

from collections.abc import Iterable

WIDTHS = (1, 2, 5, 10, 30, 60, 120, 300, 600, 1800, 3600, 7200, 21_600, 43_200, 86_400, 604_800)
"""Widths that a bin may have, in seconds. They divide minutes, hours, days or weeks."""


class Timeline:
    """How many events fell into each bin. Bins widen when there are more than `most` of them."""

    def __init__(self, most: int = 1024) -> None:
        self._most = most
        self.width = WIDTHS[0]
        """The width of a bin, in seconds."""
        self.bins: dict[int, int] = {}
        """Events by bin; bin b starts b * width seconds after the Unix epoch."""

    def add_runs(self, runs: Iterable[tuple[int, int]]) -> None:
        """Events by second: (second since the Unix epoch, how many)."""
        bins, width, most = self.bins, self.width, self._most
        for second, count in runs:
            where = second // width
            if where in bins:
                bins[where] += count
                continue
            bins[where] = count
            if len(bins) > most and width != WIDTHS[-1]:
                self.widen(next(wider for wider in WIDTHS if wider > width))
                bins, width = self.bins, self.width

    def widen(self, width: int) -> None:
        """Makes bins `width` seconds wide: one of `WIDTHS`, no less than the present one."""
        old, was, self.bins, self.width = self.bins, self.width, {}, width
        for where, count in old.items():
            where = where * was // width
            self.bins[where] = self.bins.get(where, 0) + count

    def widened_to_fit(self, most: int) -> Timeline:
        """A copy whose bins, the empty ones between the first and the last included, are at most
        `most`, if there is a width for that."""
        copy = Timeline(self._most)
        copy.bins, copy.width = dict(self.bins), self.width
        wider = [width for width in WIDTHS if width > self.width]
        while wider and copy.bins and max(copy.bins) - min(copy.bins) >= most:
            copy.widen(wider.pop(0))
        return copy


class Fullest:
    """Which interval held the most events, when they come in the order of time."""

    __slots__ = ("_count", "_interval", "count", "interval")

    def __init__(self) -> None:
        self.interval: int | None = None
        """Number of the fullest interval, the first of equals; None before the first event."""
        self.count = 0
        """Events in it."""
        self._interval: int | None = None
        self._count = 0

    def add(self, interval: int, count: int = 1) -> None:
        """`count` events in `interval`, which is no earlier than the one before."""
        if interval != self._interval:
            self._interval, self._count = interval, 0
        self._count += count
        if self._count > self.count:
            self.interval, self.count = interval, self._count

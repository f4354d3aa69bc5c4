"""What clients asked for, whatever the quota: how many requests, how fast, and when.

Two classes. `Demand` is cheap and always there: totals and peaks. `Schedules` keeps the instants of
every request of every client (8 bytes each), which is what suggesting a quota needs.
"""

from __future__ import annotations

from array import array
from collections import Counter
from collections.abc import Iterable, Sequence

from headway.replay.requests import Requests
from headway.replay.timeline import Timeline


class Demand:
    """Requests of all clients together and of each."""

    def __init__(self) -> None:
        self.requests = 0
        self.first_ns: int | None = None
        self.last_ns: int | None = None
        self.clients: Counter[bytes] = Counter()
        """Requests by client."""
        self.timeline = Timeline()
        self.peak_per_second = 0
        """The most requests of all clients in one second of the clock."""
        self.peak_per_minute = 0
        """The most requests of all clients in one minute of the clock."""
        self._peak_second: dict[bytes, int] = {}  # only clients with two requests in a second
        self._peak_minute: dict[bytes, int] = {}
        self._minute = 0  # the one that _this_minute counts
        self._this_minute: Counter[bytes] = Counter()

    def add(self, requests: Requests) -> None:
        """Takes the next requests, which come no earlier than those before."""
        keys = requests.batch.keys
        if self.first_ns is None:
            self.first_ns = requests.times[0]
        self.last_ns = requests.times[-1]
        self.requests += len(keys)
        self.peak_per_second = max(self.peak_per_second, *(count for _, count in requests.runs), 0)
        start = pending = 0  # where a second begins, and what is not counted into a minute yet
        for second, count in requests.runs:
            if second // 60 != self._minute:
                self._this_minute.update(keys[pending:start])
                self._end_minute()
                self._minute, pending = second // 60, start
            stop = start + count
            if count > 1 and len(set(keys[start:stop])) < count:
                _raise_peaks(self._peak_second, Counter(keys[start:stop]))
            start = stop
        self._this_minute.update(keys[pending:])
        self.timeline.add_runs(requests.runs)

    def _end_minute(self) -> None:
        self.peak_per_minute = max(self.peak_per_minute, self._this_minute.total())
        self.clients.update(self._this_minute)
        _raise_peaks(self._peak_minute, self._this_minute)
        self._this_minute = Counter()

    def finish(self) -> None:
        """Counts the last minute in: call it once, when all requests have been added."""
        self._end_minute()

    def peak_second(self, key: bytes) -> int:
        """The most requests of a client in one second of the clock."""
        return self._peak_second.get(key, 1 if key in self.clients else 0)

    def peak_minute(self, key: bytes) -> int:
        """The most requests of a client in one minute of the clock."""
        return self._peak_minute.get(key, 1 if key in self.clients else 0)


def _raise_peaks(peaks: dict[bytes, int], counts: Counter[bytes]) -> None:
    for key, count in counts.items():
        if count > 1 and count > peaks.get(key, 1):
            peaks[key] = count


class Schedules:
    """When each client asked, and for how much."""

    def __init__(self) -> None:
        self.times: dict[bytes, array[int]] = {}
        """By client: ns since the Unix epoch, in order."""
        self.costs: dict[bytes, array[int]] = {}
        """By client, beside `times`; empty where all requests cost the same."""

    def add(self, requests: Requests) -> None:
        """Takes the next requests."""
        _scatter(self.times, requests.batch.keys, requests.times)
        if requests.batch.costs is not None:
            _scatter(self.costs, requests.batch.keys, requests.batch.costs)

    def costs_of(self, key: bytes, cost: int) -> Sequence[int]:
        """What each request of `key` costs; `cost` is the price where there is only one."""
        return self.costs[key] if self.costs else array("q", (cost,)) * len(self.times[key])


def _scatter(rows: dict[bytes, array[int]], keys: Iterable[bytes], values: Iterable[int]) -> None:
    for key, value in zip(keys, values, strict=True):
        if key in rows:
            rows[key].append(value)
        else:
            rows[key] = array("q", (value,))

"""One quota on trial: a limiter in virtual time, and who it denied, when and how much.

The limiter is the one that users run (`Throttled` over a `MemoryStore`), only its clock is the
log's. An admitted request costs two calls into C and one lookup; the book-keeping is done for
denials, so that a quota that fits is also quick to try.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from itertools import repeat
from operator import floordiv

from headway.replay.requests import SECOND, Requests
from headway.replay.timeline import Fullest, Timeline

MINUTE = 60 * SECOND

KEYS_AT_MOST = 1 << 22
"""Clients that a replay keeps apart at once. Beyond it the store makes room, which is reported."""


class Denials:
    """What one client was denied."""

    __slots__ = (
        "_in_minute",
        "_minute",
        "_run",
        "count",
        "first_ns",
        "last_ns",
        "longest_run",
        "worst_minute",
        "worst_minute_count",
    )

    def __init__(self, now_ns: int) -> None:
        self.count = 0
        self.first_ns = now_ns
        self.last_ns = now_ns
        self.longest_run = 0
        """The most of the client's requests in a row that were denied."""
        self.worst_minute = self._minute = now_ns // MINUTE
        """The minute since the epoch that held the most denials, the first of equals."""
        self.worst_minute_count = self._in_minute = 0
        self._run = 0

    def add(self, now_ns: int) -> None:
        """One more, no earlier than the one before."""
        self.count += 1
        self.last_ns = now_ns
        self._run = run = self._run + 1
        if run > self.longest_run:
            self.longest_run = run
        minute = now_ns // MINUTE
        if minute != self._minute:
            self._minute, self._in_minute = minute, 0
        self._in_minute = here = self._in_minute + 1
        if here > self.worst_minute_count:
            self.worst_minute, self.worst_minute_count = minute, here

    def end_run(self) -> None:
        """The client was admitted again."""
        self._run = 0


class Lane:
    """Runs requests through one quota. `quota` is text in the quota language.

    Raises `DataError` for a quota that cannot be read, `SetUpError` for an unknown algorithm.
    """

    def __init__(self, quota: str, *, using: str, cost: int = 1) -> None:
        from headway._core import MemoryStore, Throttled, VirtualClock

        self.quota = quota
        self._cost = cost
        self._clock = VirtualClock(now_ns=0)
        self._store = MemoryStore(options={"MAX_SIZE": KEYS_AT_MOST}, clock=self._clock)
        self._limiter = Throttled(using=using, quota=quota, store=self._store)
        self._in_a_run: dict[bytes, Denials] = {}  # clients whose last request was denied
        self.using = self._limiter.using
        """The algorithm's name."""
        self.requests = 0
        self.denied = 0
        self.clients: dict[bytes, Denials] = {}
        """The clients that were denied at least once."""
        self.minutes = Fullest()
        """The minute since the epoch that held the most denials of all clients."""
        self.timeline = Timeline()
        """Denials of all clients over time."""

    @property
    def evictions(self) -> int:
        """Clients whose state was lost because the store was full: above 0, denials are missing."""
        return int(self._store.evictions)

    def most_limited(self, count: int) -> list[bytes]:
        """The clients with the most denials, most first; equals by their name."""
        return sorted(self.clients, key=lambda key: (-self.clients[key].count, key))[:count]

    def run(self, requests: Requests) -> None:
        """Takes the next requests, which come no earlier than those before."""
        keys, costs = requests.batch.keys, requests.batch.costs
        each_cost: Iterable[int] = repeat(self._cost, len(keys)) if costs is None else costs
        limit, set_now = self._limiter.limit, self._clock.set
        clients, in_a_run = self.clients, self._in_a_run
        denied: list[int] = []
        for now, key, cost in zip(requests.times, keys, each_cost, strict=True):
            set_now(now)
            if limit(key, cost):
                if key in in_a_run:
                    in_a_run.pop(key).end_run()
                continue
            denied.append(now)
            client = clients.get(key)
            if client is None:
                client = clients[key] = Denials(now)
            client.add(now)
            in_a_run[key] = client
        self.requests += len(keys)
        self.denied += len(denied)
        runs = Counter(map(floordiv, denied, repeat(SECOND))).items()
        self.timeline.add_runs(runs)
        for second, count in runs:
            self.minutes.add(second // 60, count)

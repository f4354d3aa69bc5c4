"""Servers that enforce limits, and clients that go by a ledger, in virtual time.

A server decides when a request arrives and says in its response what its kind says. The network
takes a random time each way, so responses overtake each other; some never come. Nothing sleeps: an
hour is a second or so. `Simulation.run` returns what the server has seen.
"""

from __future__ import annotations

import heapq
import math
import random
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from headway._core import Ledger

S = 1_000_000_000
MS = 1_000_000
START = 1_700_000_000 * S


class FixedWindow:
    """`limit` in each window; windows are aligned to the epoch, or begin with a request."""

    def __init__(self, limit: int, window: int, *, aligned: bool = True, offset: int = 0) -> None:
        self.limit, self.window, self.aligned, self.offset = limit, window, aligned, offset
        self.end, self.used = 0, 0

    def take(self, now: int, cost: int) -> bool:
        if now >= self.end:
            start = now - (now - self.offset) % self.window if self.aligned else now
            self.end, self.used = start + self.window, 0
        if self.used + cost > self.limit:
            return False
        self.used += cost
        return True

    def remaining(self, now: int) -> int:
        return self.limit - self.used

    def reset(self, now: int) -> int:
        return self.end

    def most(self, duration: int) -> float:
        return self.limit * duration / self.window


class SlidingWindow:
    """`limit` in any window; its reset is when all is free again."""

    def __init__(self, limit: int, window: int) -> None:
        self.limit, self.window = limit, window
        self.log: deque[int] = deque()

    def _forget(self, now: int) -> None:
        while self.log and self.log[0] <= now - self.window:
            self.log.popleft()

    def take(self, now: int, cost: int) -> bool:
        self._forget(now)
        if len(self.log) + cost > self.limit:
            return False
        self.log.extend([now] * cost)
        return True

    def remaining(self, now: int) -> int:
        self._forget(now)
        return self.limit - len(self.log)

    def reset(self, now: int) -> int:
        return self.log[-1] + self.window if self.log else now

    def most(self, duration: int) -> float:
        return self.limit * duration / self.window


class SlidingOldest(SlidingWindow):
    """The same; its reset is when the oldest request is forgotten, and one is free."""

    def reset(self, now: int) -> int:
        return self.log[0] + self.window if self.log else now


class LeakyBucket:
    """Holds `limit`, leaks it in a window; its reset is when it is empty."""

    def __init__(self, limit: int, window: int) -> None:
        self.limit, self.window = limit, window
        self.level, self.at = 0.0, 0

    def _leak(self, now: int) -> None:
        self.level = max(0.0, self.level - (now - self.at) * self.limit / self.window)
        self.at = now

    def take(self, now: int, cost: int) -> bool:
        self._leak(now)
        if self.level + cost > self.limit:
            return False
        self.level += cost
        return True

    def remaining(self, now: int) -> int:
        self._leak(now)
        return int(self.limit - self.level)

    def reset(self, now: int) -> int:
        return now + math.ceil(self.level * self.window / self.limit)

    def most(self, duration: int) -> float:
        return self.limit * duration / self.window


Server = FixedWindow | SlidingWindow | LeakyBucket
DIALECTS = ("exact", "ceil", "floor", "epoch", "silent")


def said(server: Server, dialect: str, now: int, skew: int, tells_window: bool) -> Any:
    """What the server says at `now`, as the ledger reads it. Its clock is ahead by `skew`."""
    left = max(0, server.reset(now) - now)
    kind, reset = {
        "exact": ("after", left),
        "ceil": ("after", -(-left // S) * S),
        "floor": ("after", left // S * S),
        "epoch": ("at", -(-(now + left + skew) // S) * S),
        "silent": (None, None),
    }[dialect]
    window = server.window if tells_window else None
    dimension = ("requests", "", server.limit, server.remaining(now), window, kind, reset)
    return ((dimension,), (now + skew) // S * S, None, None, False)


@dataclass
class Seen:
    served: int = 0
    refused: int = 0
    refused_at: list[int] = field(default_factory=list)


class Simulation:
    """`tasks` tasks that ask as fast as they may, for `duration`."""

    def __init__(
        self,
        server: Server,
        dialect: str,
        *,
        tasks: int,
        seed: int = 0,
        latency: tuple[int, int] = (5 * MS, 50 * MS),
        lost: float = 0.0,
        slow: float = 0.0,
        skew: int = 0,
        tells_window: bool = False,
        packs: bool = False,
    ) -> None:
        self.server, self.dialect, self.tasks = server, dialect, tasks
        self.random = random.Random(seed)
        self.latency, self.lost, self.slow, self.skew = latency, lost, slow, skew
        self.tells_window, self.packs = tells_window, packs
        self.ledger = Ledger()
        self.now = START + self.random.randrange(60 * S)
        self.events: list[tuple[int, int, Callable[[], None]]] = []
        self.count = 0
        self.waiting: deque[int] = deque()
        self.wake_at = 0
        self.seen = Seen()

    def at(self, instant: int, do: Callable[[], None]) -> None:
        self.count += 1
        heapq.heappush(self.events, (instant, self.count, do))

    def run(self, duration: int) -> Seen:
        end = self.now + duration
        self.waiting.extend(range(self.tasks))
        self.serve()
        while self.events and self.events[0][0] < end:
            self.now, _, do = heapq.heappop(self.events)
            do()
        return self.seen

    def serve(self) -> None:
        """The first in line asks; when it is refused, all wait."""
        while self.waiting:
            if self.packs:
                self.ledger = Ledger(self.ledger.state())
            answer = self.ledger.reserve(None, self.now, 10**18)
            if isinstance(answer, tuple):
                kind, wait, _sooner, _name = answer
                assert kind == "wait"
                assert wait > 0
                if not self.now < self.wake_at <= self.now + wait:
                    self.wake_at = self.now + wait
                    self.at(self.wake_at, self.serve)
                return
            self.send(self.waiting.popleft(), answer)

    def leg(self) -> int:
        if self.random.random() < self.slow:
            return self.random.randrange(1 * S, 5 * S)
        return self.random.randrange(*self.latency)

    def send(self, task: int, ticket: bytes) -> None:
        sent = self.now

        def arrive() -> None:
            now = self.now
            if self.server.take(now, 1):
                self.seen.served += 1
            else:
                self.seen.refused += 1
                self.seen.refused_at.append(now - START)
            heard = said(self.server, self.dialect, now, self.skew, self.tells_window)
            lost = self.random.random() < self.lost
            self.at(now + self.leg(), lambda: receive(None if lost else heard))

        def receive(heard: Any) -> None:
            if heard is None:
                self.ledger.fail(ticket, True, self.now)
            else:
                self.ledger.observe(ticket, heard, sent, self.now)
            self.waiting.append(task)
            self.serve()

        self.at(sent + self.leg(), arrive)

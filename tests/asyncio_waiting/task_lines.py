"""Tasks in line, as the tests of this folder look at them.

The one fact to know: what a virtual clock has served is handed to the event loop, and a task goes
on a few turns of the loop later. `turns()` gives it those turns without any time passing, so a
test can also say that somebody has *not* been served.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Any

import pytest

from headway import MemoryStore, VirtualClock
from headway.asyncio import Throttled

DEADLINE_S = 30.0
LONG = 1_000_000.0


async def turns(count: int = 12) -> None:
    """Lets the event loop do all that is ready, and what becomes ready by that."""
    for _ in range(count):
        await asyncio.sleep(0)


async def until(condition: Callable[[], object], what: str, deadline: float = DEADLINE_S) -> None:
    """Waits until a condition holds, and leaves the loop to others meanwhile."""
    end = time.monotonic() + deadline
    while not condition():
        if time.monotonic() > end:
            pytest.fail(f"not seen within {deadline} s: {what}")
        await asyncio.sleep(0.001)


class Line:
    """The line of one key in virtual time, and the names of those who were served, in order.

    The burst is taken at the start, so that everybody who joins waits.
    """

    def __init__(self, quota: str = "1/s burst 1", store: MemoryStore | None = None) -> None:
        self.store = store or MemoryStore(clock=VirtualClock(now_ns=10**18))
        assert self.store.clock is not None
        self.clock = self.store.clock
        self.throttle = Throttled("key", using="gcra", quota=quota, store=self.store)
        self.served: list[Any] = []

    async def use_up(self, cost: int = 1) -> None:
        """Takes what may be taken at once."""
        assert await self.throttle.limit("key", cost)

    async def wait(self, name: Any, cost: int = 1, timeout: float = LONG) -> Any:
        """Waits in line and notes its name when served."""
        result = await self.throttle.limit("key", cost, timeout)
        if result:
            self.served.append(name)
        return result

    async def join(self, name: Any, cost: int = 1, timeout: float = LONG) -> asyncio.Task[Any]:
        """A task that stands in line when this returns."""
        task = asyncio.ensure_future(self.wait(name, cost, timeout))
        await turns(2)
        return task

    async def advance(self, seconds: float) -> None:
        """Moves the clock and lets those go on who were served by that."""
        self.clock.advance(seconds)
        await turns()

    async def wait_for_next(self) -> float:
        """The seconds after which a call of cost 1 that came now would be served."""
        return float((await self.throttle.limit("key")).state.retry_after)

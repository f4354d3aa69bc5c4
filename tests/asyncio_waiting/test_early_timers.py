"""An event loop that watches no descriptors wakes waiters by its own timers, which may be early:
uvloop's are rounded to whole milliseconds, asyncio's go off a tick of the clock before their time.
"""

from __future__ import annotations

import asyncio
from typing import Any

from headway import MemoryStore
from headway.asyncio import Throttled

EARLY_S = 0.002


class Early(asyncio.SelectorEventLoop):
    """Calls back before the time, and watches no descriptors of others."""

    def add_reader(self, fd: Any, callback: Any, *args: Any) -> None:
        raise NotImplementedError

    def call_later(self, delay: float, callback: Any, *args: Any, **how: Any) -> Any:
        return super().call_later(max(delay - EARLY_S, 0), callback, *args, **how)


def test_a_waiter_is_served_though_the_timer_of_its_loop_is_early() -> None:
    async def main() -> list[bool]:
        limiter = Throttled("key", quota="50/s burst 1", store=MemoryStore(), timeout=60)
        return [bool(await limiter.limit()) for _ in range(4)]

    loop = Early()
    try:
        served = loop.run_until_complete(asyncio.wait_for(main(), 20))
    finally:
        loop.close()
    assert served == [True] * 4

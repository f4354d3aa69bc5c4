"""Waiting in line for a permit of a server, where trio runs the event loop.

One of the waiting tasks listens for all, as among threads, and does so in one of trio's threads. A
leader that is cancelled does not wait for that thread: what it may have read by then, the next one
asks the server for.
"""

import functools
import time
from typing import Any

import trio

from headway.limiters._line import PATIENCE, AwaitingLine, LedLine, Waiter

__all__ = ["TrioLine", "running"]


def running() -> Any:
    """What stands for the running event loop. RuntimeError where none is."""
    return trio.lowlevel.current_trio_token()


class TrioLine(LedLine, AwaitingLine):
    """The line of the tasks of an event loop of trio."""

    async def wait(self, waiter: Waiter, until: float) -> bool:
        waiter.signal = trio.Event()
        try:
            self.waiters[waiter.id] = waiter
            while not waiter.granted:
                now = time.monotonic()
                if now >= until:
                    break
                if self._leads(waiter):
                    with trio.move_on_after(min(until - now, 1e7)):
                        await self._turn(until)
                else:
                    with trio.move_on_after(min(until - now, PATIENCE)):
                        await waiter.signal.wait()
                    waiter.signal = trio.Event()
        finally:
            self._resign(waiter)
        return waiter.granted

    async def _listen_once(self, *words: Any) -> Any:
        ask = functools.partial(self._listening()._run, *words)
        return await trio.to_thread.run_sync(ask, abandon_on_cancel=True)

    async def _sleep(self, seconds: float) -> None:
        await trio.sleep(seconds)

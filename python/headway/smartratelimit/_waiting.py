"""Waiting for a ledger to let a request go: first come, first served, in threads and in tasks.

Only the first in a line asks. It sleeps until the instant that it was told, or until something was
learned that may free room, and asks again; the others wait behind it. Threads and tasks stand in
the same lines. What they share is `steps`, which says what to do next; how a thread or a task
sleeps is all that differs.
"""

import asyncio
import contextlib
import sys
import threading
from collections import deque
from collections.abc import Coroutine, Generator
from typing import Any

from headway import _core
from headway._forks import open_after_fork

__all__ = ["Line", "TaskWaiter", "ThreadWaiter", "pause", "shielded", "steps", "task_waiter"]

_POLL_LEAST_S = 0.004
_POLL_MOST_S = 0.25
_SLEEP_MAX_S = 86400.0


class Line:
    """Those who wait, in order."""

    __slots__ = ("_lock", "sooner", "until_ns", "waiters")

    def __init__(self) -> None:
        self._lock = open_after_fork(threading.Lock())
        self.waiters: deque[Any] = deque()
        self.until_ns = 0
        """The head has been told to wait until then; `sooner`: or less."""
        self.sooner = True

    def join(self, waiter: Any) -> None:
        with self._lock:
            self.waiters.append(waiter)

    def leave(self, waiter: Any) -> None:
        """Wakes the next one when it was the head that left."""
        with self._lock:
            # One that was interrupted as it joined or left is not there: the next may not know yet.
            was_head = waiter not in self.waiters or self.waiters[0] is waiter
            if waiter in self.waiters:
                self.waiters.remove(waiter)
            if was_head:
                self.until_ns, self.sooner = 0, True
            following = self.waiters[0] if was_head and self.waiters else None
        if following is not None:
            following.wake()

    def is_head(self, waiter: Any) -> bool:
        with self._lock:
            return bool(self.waiters) and self.waiters[0] is waiter

    def stir(self, always: bool = False) -> None:
        """Wake the head, if there may be room for it now."""
        if self.waiters and (self.sooner or always):
            with self._lock:
                head = self.waiters[0] if self.waiters else None
            if head is not None:
                head.wake()


def steps(
    line: Line, waiter: Any, clock: Any, max_wait_ns: int, polls: bool
) -> Generator[float | None, Any, bytes | tuple[Any, ...]]:
    """What the waiter is to do next: sleep for so many seconds or until woken, or (None) ask.

    What was answered is sent in. Returns the ticket, or the refusal that ends it: one that is no
    "wait". polls: other processes may free room of which nobody here would hear.
    """
    now = clock()
    deadline = now + max_wait_ns
    poll_s, told_until = _POLL_LEAST_S, 0
    while True:
        waiter.clear()
        if not line.is_head(waiter):
            now = clock()
            until = line.until_ns
            if now >= deadline or (until > deadline and not line.sooner):
                return ("too_long", max(0, until - now), False, None)
            yield (deadline - now) / 1e9
            continue
        line.sooner = True  # until it is known: what is learned meanwhile is not to be missed
        answer = yield None
        if type(answer) is not tuple or answer[0] != "wait":
            return answer  # type: ignore[no-any-return]
        now = clock()
        wait_ns, sooner = answer[1], answer[2]
        if now + wait_ns > deadline:
            return ("too_long", wait_ns, False, answer[3])
        line.until_ns, line.sooner = now + wait_ns, sooner
        seconds = wait_ns / 1e9
        if sooner and polls:
            if abs(now + wait_ns - told_until) > 10**6:
                poll_s, told_until = _POLL_LEAST_S, now + wait_ns
            seconds = min(seconds, poll_s)
            poll_s = min(2 * poll_s, _POLL_MOST_S)
        yield seconds


class ThreadWaiter:
    """A thread that can be woken. Signal handlers, Ctrl-C's too, run while it sleeps."""

    __slots__ = ("_event", "clear", "wake")

    def __init__(self) -> None:
        self._event = threading.Event()
        self.wake = self._event.set
        self.clear = self._event.clear

    def sleep(self, seconds: float) -> None:
        """Until woken, or for so long."""
        self._event.wait(min(seconds, _SLEEP_MAX_S))


class TaskWaiter:
    """A task of asyncio that any thread can wake."""

    __slots__ = ("_future", "_loop", "_woken")

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._future: asyncio.Future[None] | None = None
        self._woken = False

    def clear(self) -> None:
        self._woken = False

    def wake(self) -> None:
        self._woken = True  # before the future is looked at: `sleep` does it the other way round
        future = self._future
        if future is not None:
            with contextlib.suppress(RuntimeError):  # a closed loop: its task is gone with it
                self._loop.call_soon_threadsafe(_core._finish_future, future, None, None)

    async def sleep(self, seconds: float) -> None:
        self._future = future = self._loop.create_future()
        pause = min(seconds, _SLEEP_MAX_S)
        timer = self._loop.call_later(pause, _core._finish_future, future, None, None)
        try:
            if not self._woken:
                await future
        finally:
            timer.cancel()
            self._future = None


class _TrioWaiter:
    """The same where trio runs the loop."""

    __slots__ = ("_event", "_token", "_trio")

    def __init__(self) -> None:
        self._trio: Any = sys.modules["trio"]
        self._token = self._trio.lowlevel.current_trio_token()
        self._event = self._trio.Event()

    def clear(self) -> None:
        self._event = self._trio.Event()

    def wake(self) -> None:
        with contextlib.suppress(self._trio.RunFinishedError):
            self._token.run_sync_soon(self._event.set, idempotent=True)

    async def sleep(self, seconds: float) -> None:
        with self._trio.move_on_after(min(seconds, _SLEEP_MAX_S)):
            await self._event.wait()


def task_waiter() -> Any:
    """A waiter for the task that asks."""
    return _TrioWaiter() if in_trio() else TaskWaiter()


def in_trio() -> bool:
    """Whether trio runs this task."""
    if "trio" not in sys.modules:
        return False
    from headway import _trio

    return _trio.in_trio()


async def pause(seconds: float) -> None:
    """Sleep, in asyncio or in trio."""
    if in_trio():
        await sys.modules["trio"].sleep(seconds)
    else:
        await asyncio.sleep(seconds)


async def shielded(doing: Coroutine[Any, Any, None]) -> None:
    """Await something short to its end, though the task is cancelled meanwhile."""
    if in_trio():
        with sys.modules["trio"].CancelScope(shield=True):
            await doing
        return
    task = asyncio.ensure_future(doing)
    try:
        await asyncio.shield(task)
    except asyncio.CancelledError:
        if not task.done():
            await asyncio.wait([task])
        raise

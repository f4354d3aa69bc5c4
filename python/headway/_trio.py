"""Waiting in line where trio runs the event loop; the compiled `Call` delegates to it.

The place in line is polled, but not in a rhythm: it says when another look is worth while, and
calls when it is woken before that. A server is asked in one of trio's threads.
"""

import contextlib
import functools
from collections.abc import Callable
from typing import TYPE_CHECKING

import trio

if TYPE_CHECKING:
    from headway._core import TaskWait

__all__ = ["in_thread", "in_trio", "wait"]


def in_trio() -> bool:
    """Tell whether this code runs in a task of trio."""
    try:
        trio.lowlevel.current_task()
    except RuntimeError:
        return False
    return True


async def wait(place: "TaskWait") -> None:
    """Return when `place` has been decided. Cancelling it is the caller's business."""
    token = trio.lowlevel.current_trio_token()
    while True:
        news = trio.Event()
        place._on_wake(functools.partial(_tell, token, news))
        seconds = place._check()
        if seconds is None:
            place._on_wake(None)
            return
        with trio.move_on_after(seconds):
            await news.wait()


def _tell(token: trio.lowlevel.TrioToken, news: trio.Event) -> None:
    """Have trio look again; where its run has ended, nothing waits any more."""
    with contextlib.suppress(trio.RunFinishedError):
        token.run_sync_soon(news.set, idempotent=True)


async def in_thread(decide: Callable[[], None]) -> None:
    """Ask a server, as a thread does.

    It is not abandoned when it is cancelled: it ends within the store's deadlines, and then it is
    known what was decided.
    """
    await trio.to_thread.run_sync(decide)

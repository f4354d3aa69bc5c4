"""Calls that are awaited, as calls that `measuring` can repeat: one event loop for all of a
program, and many awaits in one run of it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

from measuring import Case

loop = asyncio.new_event_loop()
AWAITS = 200


def awaited(
    name: str,
    step: Callable[[], Awaitable[object]],
    share: float = 1.0,
    watched: Any = (),
    *,
    awaits: int = AWAITS,
) -> Case:
    """A case that awaits `step()` as often as another case is called, in runs of `awaits`."""

    async def many() -> None:
        for _ in range(awaits):
            await step()

    return Case(name, lambda: loop.run_until_complete(many()), share / awaits, watched)


def refusing(
    error: type[BaseException], step: Callable[[], Awaitable[object]]
) -> Callable[[], Coroutine[Any, Any, None]]:
    """The step, which must raise `error`."""

    async def raising() -> None:
        try:
            await step()
        except error:
            return
        raise AssertionError("no error was raised")

    return raising


async def turns(count: int = 4) -> None:
    """Lets every task go as far as it can."""
    for _ in range(count):
        await asyncio.sleep(0)


def cancelled(
    step: Callable[[], Coroutine[Any, Any, object]], before: Callable[[], object] = int
) -> Callable[[], Coroutine[Any, Any, None]]:
    """The step in a task that waits, and is cancelled in the turn in which `before` was called."""

    async def cancelling() -> None:
        task = loop.create_task(step())
        await turns()
        before()
        task.cancel()
        try:
            await task
        except asyncio.CancelledError:
            return
        raise AssertionError("it did not wait")

    return cancelling


def waiting(
    step: Callable[[], Coroutine[Any, Any, object]], then: Callable[[], object]
) -> Callable[[], Coroutine[Any, Any, None]]:
    """The step in a task that waits until `then` has been called."""

    async def serving() -> None:
        task = loop.create_task(step())
        await turns()
        assert not task.done()
        then()
        await task

    return serving

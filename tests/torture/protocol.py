"""Whether headway's awaitables behave as coroutines do, when they are driven by hand.

A sequence of actions (send, throw, close; before the start, while suspended, at the end) is done to
an awaitable of headway and to a coroutine that is suspended as often. Both must answer with the
same kinds of results: yielded, returned, or raised with the same type.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import itertools
from collections.abc import Callable, Iterator
from typing import Any

import headway
import headway.asyncio
from headway.limiters import AsyncSemaphore


class Own(Exception):
    """What is thrown in."""


async def _await(awaitable: Any) -> Any:
    return await awaitable


ACTIONS: dict[str, Callable[[Any], Any]] = {
    "send(None)": lambda c: c.send(None),
    "send(value)": lambda c: c.send(5),
    "throw(instance)": lambda c: c.throw(Own()),
    "throw(type)": lambda c: c.throw(Own),
    "throw(cancelled)": lambda c: c.throw(asyncio.CancelledError()),
    "throw(exit)": lambda c: c.throw(GeneratorExit()),
    "throw(stop)": lambda c: c.throw(StopIteration(3)),
    "throw(nonsense)": lambda c: c.throw(5),
    "close": lambda c: c.close(),
    "await": lambda c: _await(c).send(None),
}


def outcome(do: Callable[[Any], Any], awaitable: Any) -> str:
    try:
        value = do(awaitable)
    except StopIteration:
        return "returned"
    except BaseException as error:
        return f"raised {type(error).__name__}"
    return "none" if value is None else "yielded"


def results(awaitable: Any, actions: tuple[str, ...]) -> list[str]:
    return [outcome(ACTIONS[name], awaitable) for name in actions]


# --- the awaitables, each with a coroutine that is suspended as often


async def native_at_once() -> object:
    return object()


class _Pending:
    """Suspended for as long as it is not closed, however often it is resumed."""

    def __init__(self, future: Any) -> None:
        self.future = future

    def __await__(self) -> Iterator[Any]:
        while True:
            yield self.future


def native_waiting(loop: Any) -> Callable[[], Any]:
    async def wait() -> None:
        await _Pending(loop.create_future())

    return wait


def subjects(loop: Any) -> dict[str, tuple[Callable[[], Any], Callable[[], Any]]]:
    """By name: what makes headway's awaitable, and what makes its counterpart."""
    store = headway.MemoryStore(clock=headway.VirtualClock(10**18))
    free = headway.asyncio.Throttled("free", quota="1000000/s", store=store)
    slow = headway.asyncio.Throttled("slow", quota="1/h burst 1", timeout=1e6, store=store)
    headway.Throttled("slow", quota="1/h burst 1", store=store).limit()
    semaphore = AsyncSemaphore("semaphore", 10**6, connection=store)
    taken = AsyncSemaphore("taken", 1, connection=store)

    async def hold() -> None:
        async with taken:
            await loop.create_future()

    holder = hold()
    holder.send(None)
    KEPT.append(holder)

    @free  # type: ignore[misc]
    async def decorated() -> object:
        return object()

    return {
        "limit": (lambda: free.limit(), native_at_once),
        "peek": (lambda: free.peek(), native_at_once),
        "reset": (lambda: free.reset("other"), native_at_once),
        "with": (lambda: free.__aenter__(), native_at_once),
        "decorator": (lambda: decorated(), native_at_once),
        "semaphore": (lambda: semaphore.__aenter__(), native_at_once),
        "wait": (lambda: slow.limit(), native_waiting(loop)),
        "semaphore_wait": (lambda: taken.__aenter__(), native_waiting(loop)),
    }


KEPT: list[Any] = []


def sequences(length: int) -> list[tuple[str, ...]]:
    return [
        sequence for n in range(1, length + 1) for sequence in itertools.product(ACTIONS, repeat=n)
    ]


class Comparison:
    """Two awaitables of one kind, side by side. Everything runs within a callback of a loop, for
    headway asks for the running loop.
    """

    def __init__(self, kind: str) -> None:
        self.loop = asyncio.new_event_loop()
        self.ours, self.native = subjects(self.loop)[kind]
        self.kind = kind

    def differ(self, actions: tuple[str, ...]) -> str:
        return str(self.loop.run_until_complete(self._differ(actions)))

    async def _differ(self, actions: tuple[str, ...]) -> str:
        ours, native = self.ours(), self.native()
        got, expected = results(ours, actions), results(native, actions)
        for awaitable in (ours, native):
            with contextlib.suppress(RuntimeError):
                awaitable.close()
        if got == expected:
            return ""
        return f"{self.kind}: {', '.join(actions)}: {got}, a coroutine: {expected}"

    def close(self) -> None:
        KEPT.clear()
        gc.collect()
        self.loop.close()

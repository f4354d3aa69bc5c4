"""Does an awaited decision leave anything behind on other event loops, uvloop's and trio's? Where
one of them is not installed, its cases are left out.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

from measuring import Case, left_out, main

from headway import MemoryStore, VirtualClock
from headway import Throttled as SyncThrottled
from headway.asyncio import Throttled
from headway.exceptions import LimitedError
from headway.limiters import AsyncSemaphore, AsyncTokenBucket

AWAITS = 100
SHARE = 0.05
FREE = "1000000000000/s"
clock = VirtualClock(10**18)
store = MemoryStore(clock=clock)
free = Throttled("key", quota=FREE, store=store)
shut = Throttled("shut", quota="1/3650d", store=store)
SyncThrottled("shut", quota="1/3650d", store=store).limit()
slow = Throttled("slow", using="gcra", quota="1/s", store=store, timeout=1e6)
quick = Throttled("quick", quota="20000/s burst 1", store=MemoryStore(), timeout=5)
semaphore = AsyncSemaphore("free", 1, connection=MemoryStore())
bucket = AsyncTokenBucket("bucket", 10**12, 1, 10**12, connection=store)


async def context() -> None:
    async with free, bucket:
        pass


async def denied() -> None:
    try:
        async with shut:
            raise AssertionError("ran")
    except LimitedError:
        pass


async def fill() -> None:
    clock.advance(10)
    await slow.limit(timeout=-1)


def steps(prefix: str, at_once: Callable[..., Awaitable[Any]], sleep: Any) -> Iterator[Any]:
    """The name of each step, and the step."""

    async def enter() -> None:
        async with semaphore:
            await sleep(0)

    async def in_line() -> None:
        await fill()

        async def serve() -> None:
            await sleep(0)
            await sleep(0)
            clock.advance(3)

        await at_once(slow.limit, slow.limit, serve)

    async def semaphore_waits() -> None:
        await at_once(enter, enter, enter)

    yield f"{prefix}_allowed", lambda: free.limit()
    yield f"{prefix}_denied", denied
    yield f"{prefix}_peek", lambda: free.peek()
    yield f"{prefix}_context", context
    yield f"{prefix}_waiting", lambda: quick.limit()
    yield f"{prefix}_in_line", in_line
    yield f"{prefix}_semaphore", enter
    yield f"{prefix}_semaphore_waits", semaphore_waits


def many(step: Callable[[], Awaitable[object]]) -> Callable[[], Any]:
    async def times() -> None:
        for _ in range(AWAITS):
            await step()

    return times


def uncounted(name: str, call: Callable[[], object]) -> Case:
    """A wheel of uvloop is built for an interpreter that counts no references."""
    return Case(name, call, SHARE / AWAITS, counted=False)


def on_uvloop() -> Iterator[Case]:
    try:
        import uvloop
    except ImportError:
        left_out("uvloop", "it is not installed")
        return
    loop = uvloop.new_event_loop()

    async def at_once(*calls: Callable[[], Awaitable[object]]) -> None:
        await asyncio.gather(*(call() for call in calls))

    async def cancelled() -> None:
        await fill()
        task = asyncio.ensure_future(slow.limit())
        await asyncio.sleep(0)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)

    def a_loop_of_its_own() -> None:
        other = uvloop.new_event_loop()
        other.run_until_complete(quick.limit())
        other.run_until_complete(quick.limit())
        other.close()

    for name, step in [*steps("uvloop", at_once, asyncio.sleep), ("uvloop_cancelled", cancelled)]:
        run = many(step)
        yield uncounted(name, lambda run=run: loop.run_until_complete(run()))
    yield uncounted("uvloop_of_its_own", a_loop_of_its_own)


def on_trio() -> Iterator[Case]:
    try:
        import trio
    except ImportError:
        left_out("trio", "it is not installed")
        return

    async def at_once(*calls: Callable[[], Awaitable[object]]) -> None:
        async def run(call: Callable[[], Awaitable[object]]) -> None:
            await call()

        async with trio.open_nursery() as nursery:
            for call in calls:
                nursery.start_soon(run, call)

    async def cancelled() -> None:
        await fill()
        with trio.move_on_after(0):
            await slow.limit()

    for name, step in [*steps("trio", at_once, trio.sleep), ("trio_cancelled", cancelled)]:
        run = many(step)
        yield Case(name, lambda run=run: trio.run(run), SHARE / AWAITS)


def cases() -> Iterator[Case]:
    yield from on_uvloop()
    yield from on_trio()


if __name__ == "__main__":
    main(cases())

"""Does an awaited decision leave anything behind? Allowed, denied, waiting, cancelled, never
awaited; contexts, decorators and hooks of the asyncio package; loops that close under waiters.
"""

from __future__ import annotations

import asyncio
import warnings
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine

from looping import awaited, cancelled, loop, refusing, turns, waiting
from measuring import Case, main

import headway
from headway import MemoryStore, RateLimitResult, VirtualClock
from headway.asyncio import Throttled
from headway.exceptions import DataError, LimitedError
from headway.hooks import AsyncHook, HookContext

warnings.simplefilter("ignore", RuntimeWarning)

FREE = "1000000000000/s"
clock = VirtualClock(10**18)
store = MemoryStore(clock=clock)
free = Throttled(key="key", quota=FREE, store=store, timeout=10)
real = Throttled(key="key", quota=FREE, store=MemoryStore())
shut = Throttled(key="shut", quota="1/3650d", store=store)
headway.Throttled(key="shut", quota="1/3650d", store=store).limit()
slow = Throttled(key="slow", using="gcra", quota="1/s", store=store, timeout=1e6)
quick = Throttled(
    key="quick", using="gcra", quota="20000/s burst 1", store=MemoryStore(), timeout=5
)
KEY, WIDE = "a key", "ключ 🚀"


class Watching(AsyncHook):
    """A hook that passes everything on."""

    async def on_limit(
        self, call_next: Callable[[], Awaitable[RateLimitResult]], context: HookContext
    ) -> RateLimitResult:
        return await call_next()


hooked = Throttled(key="key", quota=FREE, store=store, hooks=[Watching(), Watching()])


@free
async def coroutine() -> int:
    return 1


@shut
async def denied() -> None:
    raise AssertionError("ran")


@free
async def async_generator() -> AsyncIterator[int]:
    yield 1


async def consume() -> list[int]:
    return [number async for number in async_generator()]


async def context() -> None:
    async with free:
        pass


async def denied_context() -> None:
    async with shut:
        raise AssertionError("ran")


async def raising_context() -> None:
    async with free:
        raise LookupError


async def fill() -> None:
    """Takes the slot of `slow`, so that the next must wait a second."""
    clock.advance(10)
    await slow.limit(timeout=-1)


def full(
    step: Callable[[], Awaitable[object]],
) -> Callable[[], Coroutine[object, object, None]]:
    async def filled() -> None:
        await fill()
        await step()

    return filled


async def five_in_line() -> None:
    tasks = [loop.create_task(slow.limit()) for _ in range(5)]
    await turns()
    tasks[2].cancel()
    clock.advance(5)
    await asyncio.gather(*tasks, return_exceptions=True)


async def timed_out() -> None:
    try:
        await asyncio.wait_for(slow.limit(), 0.0005)
    except asyncio.TimeoutError:
        return
    raise AssertionError("it did not wait")


async def gathered() -> None:
    await asyncio.gather(free.limit(), free.limit("other"))


async def thrown_into() -> None:
    call = slow.limit()
    call.send(None)
    try:
        call.throw(LookupError)
    except LookupError:
        return
    raise AssertionError("it was caught")


async def closed_while_waiting() -> None:
    call = slow.limit()
    call.send(None)
    call.close()


def close_a_loop_under_waiters() -> None:
    async def leaves_waiters() -> None:
        for task in [asyncio.ensure_future(slow.limit()) for _ in range(3)]:
            task._log_destroy_pending = False  # type: ignore[attr-defined]
        await turns()

    other = asyncio.new_event_loop()
    other.run_until_complete(fill())
    other.run_until_complete(leaves_waiters())
    other.close()


CASES = [
    awaited("allowed", free.limit),
    awaited("allowed_by_key", lambda: free.limit(KEY, 1), watched=(KEY,)),
    awaited("allowed_by_keywords", lambda: free.limit(key=WIDE, cost=1, timeout=-1)),
    awaited("allowed_in_real_time", real.limit),
    awaited("denied", shut.limit, watched=(shut,)),
    awaited("denied_at_once", lambda: shut.limit(timeout=5)),
    awaited("never_fits", lambda: shut.limit(cost=2, timeout=5)),
    awaited("peek", free.peek),
    awaited("reset", lambda: free.reset("nobody")),
    awaited("bad_key", refusing(DataError, lambda: refuse()), 0.2),
    awaited("context", context, 0.5),
    awaited("context_denied", refusing(LimitedError, denied_context), 0.2),
    awaited("context_raises", refusing(LookupError, raising_context), 0.2),
    awaited("decorated", coroutine, 0.5),
    awaited("decorated_denied", refusing(LimitedError, denied), 0.2),
    awaited("async_generator", consume, 0.1),
    awaited("hooks", hooked.limit, 0.1),
    awaited("hooks_in_a_context", lambda: hooked.__aenter__(), 0.1),
    awaited("gathered", gathered, 0.02),
    awaited("waiting", full(waiting(slow.limit, lambda: clock.advance(1))), 0.05),
    awaited("waiting_in_real_time", quick.limit, 0.01),
    awaited("waiting_in_a_context", full(waiting(slow.__aenter__, lambda: clock.advance(1))), 0.05),  # type: ignore[arg-type]
    awaited("five_in_line", full(five_in_line), 0.01),
    awaited("cancelled", full(cancelled(slow.limit)), 0.05),
    awaited("cancelled_when_served", full(cancelled(slow.limit, lambda: clock.advance(1))), 0.05),
    Case("timed_out", lambda: loop.run_until_complete(full(timed_out)()), 0.001),
    awaited("thrown_into", full(thrown_into), 0.1),
    awaited("closed_while_waiting", full(closed_while_waiting), 0.1),
    Case("never_awaited", lambda: free.limit(KEY), 0.1, watched=(KEY,)),
    Case("closed_before_it_began", lambda: free.limit(KEY).close(), watched=(KEY,)),
    Case("loop_closed_under_waiters", close_a_loop_under_waiters, 0.001),
    Case("a_loop_of_its_own", lambda: asyncio.run(coroutine()), 0.0005),
]


async def refuse() -> None:
    await free.limit("")


if __name__ == "__main__":
    main(CASES)

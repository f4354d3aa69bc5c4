"""Does a permit or a token leave anything behind? Semaphores and buckets of both kinds: entered,
waited for, refused, cancelled, left by the dead; and making them.
"""

from __future__ import annotations

import asyncio
import logging
from itertools import count
from typing import Any

from looping import awaited, cancelled, loop, refusing, turns, waiting
from measuring import Case, main, swallow

from headway import MemoryStore, VirtualClock
from headway.limiters import (
    AsyncSemaphore,
    AsyncTokenBucket,
    MaxSleepExceededError,
    SyncSemaphore,
    SyncTokenBucket,
)

logging.disable(logging.CRITICAL)

clock = VirtualClock(10**18)
store = MemoryStore(clock=clock)
STEADY: Any = {"refill_frequency": 1, "refill_amount": 10**12}
SLOW: Any = {"refill_frequency": 1, "refill_amount": 1}
free = SyncSemaphore("free", 3, connection=store)
free_async = AsyncSemaphore("free", 3, connection=store)
roomy = AsyncSemaphore("roomy", 1_000_000, connection=store)
taken = AsyncSemaphore("taken", 1, max_sleep=0, expiry=1, connection=store)
hasty = AsyncSemaphore("hasty", 1, max_sleep=0.5, connection=store)
hasty_threads = SyncSemaphore("shut", 1, max_sleep=1e-9, connection=MemoryStore())
hasty_threads.__enter__()
bucket = SyncTokenBucket("bucket", 10**12, **STEADY, connection=store)
bucket_async = AsyncTokenBucket("bucket", 10**12, **STEADY, connection=store)
empty = SyncTokenBucket("empty", 1, 86_400 * 3650, 1, connection=store)
empty_async = AsyncTokenBucket("empty", 1, 86_400 * 3650, 1, connection=store)
slow = AsyncTokenBucket("slow", 1, **SLOW, max_sleep=0, connection=store)
numbers = count()


def enter(limiter: Any) -> None:
    with limiter:
        pass


async def enter_async(limiter: Any) -> None:
    async with limiter:
        pass


def enter_twice() -> None:
    with free, free:
        pass


def leave_by_error() -> None:
    with free:
        raise LookupError


async def leave_by_error_async() -> None:
    async with free_async:
        raise LookupError


async def wait_for_a_permit() -> None:
    await taken.__aenter__()
    task = asyncio.ensure_future(enter_async(taken))
    await turns()
    await taken.__aexit__(None, None, None)
    await task


async def cancel_in_line() -> None:
    async with taken:
        await cancelled(lambda: enter_async(taken))()


async def cancel_when_handed_over() -> None:
    await taken.__aenter__()
    task = asyncio.ensure_future(enter_async(taken))
    await turns()
    await taken.__aexit__(None, None, None)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    assert taken._pool.held == 0


async def run_out_of_patience() -> None:
    async with hasty:
        waiting = asyncio.ensure_future(enter_async(hasty))
        await turns()
        clock.advance(1)
        try:
            await waiting
        except MaxSleepExceededError:
            return
        raise AssertionError("entered")


async def forget_a_permit() -> None:
    """A task ends with the permit in hand; another has it after its term."""

    async def forget() -> None:
        await taken.__aenter__()

    await asyncio.ensure_future(forget())
    heir = asyncio.ensure_future(enter_async(taken))
    await turns()
    clock.advance(1)
    await heir


# A semaphore remembers some permits whose tasks ended without leaving (LAPSED_KEPT in
# semaphore_type.c), up to twice as many before it looks through them and forgets the oldest.
REMEMBERED = 2_500


def fill_what_is_remembered() -> None:
    async def forget_many() -> None:
        for _ in range(REMEMBERED):
            await forget_a_permit()

    loop.run_until_complete(forget_many())


async def destroy_a_holder() -> None:
    async def hold() -> None:
        async with roomy:
            await asyncio.Event().wait()

    task = asyncio.ensure_future(hold())
    task._log_destroy_pending = False  # type: ignore[attr-defined]
    await turns()


async def take_the_token() -> None:
    clock.advance(1)
    await enter_async(slow)


async def wait_for_a_token() -> None:
    await take_the_token()
    await waiting(lambda: enter_async(slow), lambda: clock.advance(1))()


async def cancel_before_the_token() -> None:
    await take_the_token()
    await cancelled(lambda: enter_async(slow))()


def build(kind: Any, *values: Any) -> None:
    kind(str(next(numbers) % 100), *values, connection=store)


def empty_both() -> None:
    empty.__enter__()


empty_both()

CASES = [
    Case("semaphore", lambda: enter(free), watched=(free, None)),
    Case("semaphore_twice", enter_twice),
    Case("semaphore_raises", swallow(LookupError, leave_by_error)),
    Case(
        "semaphore_refuses",
        swallow(MaxSleepExceededError, lambda: enter(hasty_threads)),
        0.02,
    ),
    Case("semaphore_made", lambda: build(SyncSemaphore, 5), 0.05),
    Case("semaphore_defined_twice", lambda: SyncSemaphore("free", 9, connection=store), 0.02),
    Case("semaphore_tells", lambda: (repr(free), free.name, free.capacity, free._pool.held), 0.2),
    Case("async_semaphore_made", lambda: build(AsyncSemaphore, 5), 0.05),
    awaited("async_semaphore", lambda: enter_async(free_async), 0.5, watched=(free_async,)),
    awaited("async_semaphore_raises", refusing(LookupError, leave_by_error_async), 0.2),
    awaited("async_semaphore_waits", wait_for_a_permit, 0.03),
    awaited("async_semaphore_cancelled", cancel_in_line, 0.03),
    awaited("async_semaphore_cancelled_when_handed_over", cancel_when_handed_over, 0.03),
    awaited("async_semaphore_refuses", run_out_of_patience, 0.03),
    awaited("async_semaphore_forgotten", forget_a_permit, 0.03),
    awaited("async_semaphore_destroyed", destroy_a_holder, 0.02),
    Case("bucket", lambda: enter(bucket)),
    Case("bucket_refuses", swallow(MaxSleepExceededError, lambda: enter(empty)), 0.1),
    Case("bucket_made", lambda: build(SyncTokenBucket, 5, 1, 1), 0.03),
    Case("async_bucket_made", lambda: build(AsyncTokenBucket, 5, 1, 1), 0.03),
    awaited("async_bucket", lambda: enter_async(bucket_async), 0.5),
    awaited("async_bucket_waits", wait_for_a_token, 0.03),
    awaited("async_bucket_cancelled", cancel_before_the_token, 0.03),
    awaited(
        "async_bucket_refuses",
        refusing(MaxSleepExceededError, lambda: enter_async(empty_async)),
        0.1,
    ),
]

if __name__ == "__main__":
    fill_what_is_remembered()
    main(CASES)

"""Does a decision on a Redis server leave anything behind? By headway's own connection, by threads
and by tasks; by leases; by a client of the user's own; permits; and servers that do not answer.

Where there is no redis-server, or no redis-py, those cases are left out.
"""

from __future__ import annotations

import asyncio
import atexit
import logging
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

sys.path[:0] = [str(Path(__file__).resolve().parents[1] / "redis")]

from looping import awaited, loop, refusing  # noqa: E402
from measuring import Case, left_out, main, swallow  # noqa: E402

from headway import Throttled  # noqa: E402
from headway.asyncio import Throttled as AsyncThrottled  # noqa: E402
from headway.exceptions import LimitedError, StoreUnavailableError  # noqa: E402
from headway.limiters import AsyncSemaphore, AsyncTokenBucket, SyncSemaphore  # noqa: E402
from headway.limiters import MaxSleepExceededError as Late  # noqa: E402
from headway.store import RedisStore  # noqa: E402

MANY = "1000000000000/s"
NEVER = "1/1000h"
SHARE = 0.005
"""A round trip takes as long as some hundred decisions in memory."""
logging.disable(logging.CRITICAL)


def server_url() -> str:
    """The URL of a server of this program's own; empty where there is none."""
    if shutil.which("redis-server") is None:
        return ""
    from servers import RedisServer

    server = RedisServer()
    server.__enter__()
    atexit.register(server.close)
    return server.url


def threads(store: Any, prefix: str, share: float = SHARE) -> Iterator[Case]:
    argument = b"a key that is no constant".decode()
    plain = Throttled("key", quota=MANY, store=store)
    several = Throttled("key", quota=f"{MANY}; 1000000000000/m", store=store)
    never = Throttled("never", quota=NEVER, store=store)
    quick = Throttled("quick", quota="20000/s burst 1", timeout=5, store=store)
    never.limit()

    @plain
    def function() -> int:
        return 1

    def context() -> None:
        with plain:
            pass

    def denied_context() -> None:
        with never:
            raise AssertionError("ran")

    yield Case(f"{prefix}_admitted", lambda: plain.limit(argument), share, watched=(argument,))
    yield Case(f"{prefix}_several_rules", several.limit, share)
    yield Case(f"{prefix}_denied", never.limit, share)
    yield Case(f"{prefix}_waiting", quick.limit, share / 2)
    yield Case(f"{prefix}_peek", lambda: plain.peek(argument), share, watched=(argument,))
    yield Case(f"{prefix}_reset", lambda: plain.reset("other"), share)
    yield Case(f"{prefix}_settled", lambda: plain._settle("key", 0, 1), share)
    yield Case(f"{prefix}_decorated", function, share)
    yield Case(f"{prefix}_context", context, share)
    yield Case(f"{prefix}_context_denied", swallow(LimitedError, denied_context), share)
    yield Case(f"{prefix}_limiter_made", lambda: Throttled("key", quota="5/s", store=store), share)


def some(name: str, step: Any, share: float) -> Case:
    return awaited(name, step, share, awaits=20)


def tasks(store: Any, prefix: str, share: float = SHARE) -> Iterator[Case]:
    plain = AsyncThrottled("key", quota=MANY, store=store)
    never = AsyncThrottled("never", quota=NEVER, store=store)
    quick = AsyncThrottled("quick", quota="20000/s burst 1", timeout=5, store=store)
    slow = AsyncThrottled("slow", quota="1/h burst 1", timeout=1e9, store=store)

    async def context() -> None:
        async with plain:
            pass

    async def denied_context() -> None:
        async with never:
            raise AssertionError("ran")

    async def gathered() -> None:
        await asyncio.gather(plain.limit(), plain.limit("other"), never.limit())

    async def cancelled(turns: int) -> None:
        waiting = asyncio.ensure_future(slow.limit())
        for _ in range(turns):
            await asyncio.sleep(0)
        waiting.cancel()
        await asyncio.gather(waiting, return_exceptions=True)
        await plain.limit()  # behind what gives the slot back

    yield some(f"{prefix}_admitted", lambda: plain.limit(), share)
    loop.run_until_complete(never.limit())
    yield some(f"{prefix}_denied", lambda: never.limit(), share)
    yield some(f"{prefix}_waiting", lambda: quick.limit(), share / 2)
    yield some(f"{prefix}_peek", lambda: plain.peek(), share)
    yield some(f"{prefix}_reset", lambda: plain.reset("other"), share)
    yield some(f"{prefix}_context", context, share)
    yield some(f"{prefix}_context_denied", refusing(LimitedError, denied_context), share)
    yield some(f"{prefix}_gathered", gathered, share)
    yield some(f"{prefix}_cancelled_on_its_way", lambda: cancelled(1), share / 2)
    yield some(f"{prefix}_cancelled_in_its_slot", lambda: cancelled(30), share / 4)


def permits(store: Any) -> Iterator[Case]:
    free = SyncSemaphore("free", 3, expiry=5, connection=store)
    shut = SyncSemaphore("shut", 1, max_sleep=0.001, expiry=600, connection=store)
    free_async = AsyncSemaphore("free", 3, expiry=5, connection=store)
    shut_async = AsyncSemaphore("shut", 1, max_sleep=0.001, expiry=600, connection=store)
    taken = AsyncSemaphore("taken", 1, max_sleep=60, expiry=5, connection=store)
    bucket = AsyncTokenBucket("bucket", 10**12, 1, 10**12, connection=store)
    shut.__enter__()

    def enter(limiter: Any) -> None:
        with limiter:
            pass

    async def enter_async(limiter: Any) -> None:
        async with limiter:
            await asyncio.sleep(0)

    async def in_line() -> None:
        await asyncio.gather(*(enter_async(taken) for _ in range(3)))

    yield Case("semaphore", lambda: enter(free), SHARE / 2)
    yield Case("semaphore_refuses", swallow(Late, lambda: enter(shut)), SHARE / 5)
    yield some("async_semaphore", lambda: enter_async(free_async), SHARE / 2)
    yield some(
        "async_semaphore_refuses", refusing(Late, lambda: enter_async(shut_async)), SHARE / 5
    )
    yield some("async_semaphore_waits", in_line, SHARE / 5)
    yield some("async_bucket", lambda: enter_async(bucket), SHARE)


def stores(url: str) -> Iterator[Case]:
    def opened() -> None:
        store = RedisStore(url)
        Throttled("key", quota=MANY, store=store).limit()
        store.close()

    async def opened_async() -> None:
        store = RedisStore(url)
        await AsyncThrottled("key", quota=MANY, store=store).limit()
        store.close()

    away = RedisStore("unix:///nowhere/at/all", on_error="allow")
    refuses = RedisStore("unix:///nowhere/at/all")
    allowed = Throttled("key", quota=MANY, store=away)
    refused = Throttled("key", quota=MANY, store=refuses)
    refused_async = AsyncThrottled("key", quota=MANY, store=refuses)
    yield Case("store_opened", opened, SHARE / 10)
    yield some("store_opened_in_a_loop", opened_async, SHARE / 10)
    yield Case("away_allowed", allowed.limit, SHARE)
    yield Case("away_refused", swallow(StoreUnavailableError, refused.limit), SHARE)
    yield some(
        "away_refused_async", refusing(StoreUnavailableError, lambda: refused_async.limit()), SHARE
    )


def clients(url: str) -> Iterator[Case]:
    try:
        import redis
        import redis.asyncio
    except ImportError:
        left_out("clients", "there is no redis-py")
        return
    yield from threads(RedisStore(redis.Redis.from_url(url)), "client", SHARE / 3)
    yield from tasks(RedisStore(redis.asyncio.Redis.from_url(url)), "awaited_client", SHARE / 5)


def cases() -> Iterator[Case]:
    url = server_url()
    if not url:
        left_out("all", "there is no redis-server")
        return
    yield from threads(RedisStore(url), "thread")
    yield from tasks(RedisStore(url), "task")
    yield from threads(RedisStore(url, lease={"tokens": 20}), "lease")
    yield from tasks(RedisStore(url, lease={"tokens": 20}), "task_lease")
    yield from permits(RedisStore(url))
    yield from stores(url)
    yield from clients(url)


if __name__ == "__main__":
    main(cases())

"""trio: a server is asked in one of its threads, and waits are trio's own."""

from __future__ import annotations

import time

import pytest
import redis
import trio
from servers import RedisServer
from store_help import BUCKETS, USINGS

from headway import StoreUnavailableError
from headway.asyncio import Throttled
from headway.store import RedisStore


@pytest.mark.parametrize("using", USINGS)
def test_decisions_are_the_servers(server: RedisServer, using: str) -> None:
    async def main() -> None:
        limiter = Throttled(using=using, quota="3/h", store=RedisStore(server.url))
        admitted: list[bool] = []

        async def ask() -> None:
            admitted.append(bool(await limiter.limit("key")))

        async with trio.open_nursery() as nursery:
            for _ in range(6):
                nursery.start_soon(ask)
        assert sum(admitted) == 3
        assert (await limiter.peek("key")).remaining == 0
        await limiter.reset("key")
        assert (await limiter.peek("key")).remaining == 3

    trio.run(main)


@pytest.mark.parametrize("using", BUCKETS)
def test_waits_come_to_their_instant(server: RedisServer, using: str) -> None:
    async def main() -> None:
        store = RedisStore(server.url)
        limiter = Throttled("key", 5, using=using, quota="20/s burst 1", store=store)
        start = time.monotonic()
        async with trio.open_nursery() as nursery:
            for _ in range(5):
                nursery.start_soon(limiter.__aenter__)
        assert time.monotonic() - start >= 0.2

    trio.run(main)


def test_a_wait_that_is_cancelled_gives_its_slot_back(server: RedisServer) -> None:
    async def main() -> None:
        limiter = Throttled(using="gcra", quota="1/m burst 1", store=RedisStore(server.url))
        assert await limiter.limit("key")
        with trio.move_on_after(0.3) as scope:
            await limiter.limit("key", timeout=100)
        assert scope.cancelled_caught
        assert (await limiter.peek("key")).reset_after <= 60

    trio.run(main)


def test_windows_ask_again_when_it_is_time(server: RedisServer) -> None:
    async def main() -> None:
        store = RedisStore(server.url)
        limiter = Throttled(using="fixed_window", quota="1/1s", timeout=10, store=store)
        start = time.time()
        assert await limiter.limit("key")
        assert await limiter.limit("key")
        assert int(time.time()) > int(start)

    trio.run(main)


def test_a_client_that_blocks_is_asked_in_a_thread(server: RedisServer) -> None:
    async def main() -> None:
        client = redis.Redis(host="127.0.0.1", port=server.address[1])
        limiter = Throttled(quota="2/h", store=client)
        assert [bool(await limiter.limit("key")) for _ in range(3)] == [True, True, False]

    trio.run(main)


def test_nobody_there_is_an_error_of_the_store() -> None:
    async def main() -> None:
        limiter = Throttled(quota="2/h", store=RedisStore("redis://127.0.0.1:1"))
        with pytest.raises(StoreUnavailableError):
            await limiter.limit("key")
        allowed = Throttled(quota="2/h", store=RedisStore("redis://127.0.0.1:1?on_error=allow"))
        assert await allowed.limit("key")

    trio.run(main)

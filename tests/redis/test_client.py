"""A client of the user's own, of redis-py or fakeredis, wherever a store is taken.

It takes the same decisions under the same keys, so that it shares limits with headway's own.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Any

import fakeredis
import pytest
import redis
import redis.asyncio
from servers import RedisServer
from store_help import BUCKETS, USINGS, NoExecutor, repr_of
from topologies import Cluster, Sentinels

from headway import MemoryStore, SetUpError, StoreUnavailableError, Throttled
from headway.asyncio import Throttled as AsyncThrottled
from headway.choked import Choked
from headway.limiters import SyncTokenBucket
from headway.store import RedisStore, from_any

SECRET = "s3cret"


def client_of(server: RedisServer, **how: Any) -> redis.Redis:
    return redis.Redis(host="127.0.0.1", port=server.address[1], **how)


def awaited_client_of(server: RedisServer, **how: Any) -> redis.asyncio.Redis:
    return redis.asyncio.Redis(host="127.0.0.1", port=server.address[1], **how)


@pytest.mark.parametrize("using", USINGS)
def test_it_shares_a_limit_with_headways_own(server: RedisServer, using: str) -> None:
    how: dict[str, Any] = {"using": using, "quota": "4/h; 100/d"}
    own = Throttled(store=RedisStore(server.url), **how)
    theirs = Throttled(store=client_of(server), **how)
    assert [bool(one.limit("key")) for one in (own, theirs, own, theirs, own, theirs)] == [
        *[True] * 4,
        *[False] * 2,
    ]
    assert theirs.peek("key").remaining == own.peek("key").remaining == 0
    theirs.reset("key")
    assert own.peek("key").remaining == 4


@pytest.mark.parametrize("awaits", [True, False], ids=["asyncio", "in a thread"])
@pytest.mark.parametrize("using", USINGS)
def test_it_is_awaited_in_an_event_loop(server: RedisServer, using: str, awaits: bool) -> None:
    async def main() -> None:
        client: Any = awaited_client_of(server) if awaits else client_of(server)
        limiter = AsyncThrottled(using=using, quota="3/h", store=client)
        results = await asyncio.gather(*(limiter.limit("key") for _ in range(5)))
        assert sum(map(bool, results)) == 3
        assert (await limiter.peek("key")).remaining == 0
        await limiter.reset("key")
        assert (await limiter.peek("key")).remaining == 3
        if awaits:
            await client.aclose()

    asyncio.run(main())


def test_a_client_that_blocks_leaves_the_loops_executor_to_the_program(server: RedisServer) -> None:
    async def main() -> list[bool]:
        asyncio.get_running_loop().set_default_executor(NoExecutor())
        limiter = AsyncThrottled(quota="3/h", store=client_of(server))
        return list(map(bool, await asyncio.gather(*(limiter.limit("key") for _ in range(5)))))

    assert sorted(asyncio.run(main())) == [False] * 2 + [True] * 3


@pytest.mark.parametrize("using", BUCKETS)
def test_its_waits_are_reservations_too(server: RedisServer, using: str) -> None:
    async def main() -> float:
        client = awaited_client_of(server)
        limiter = AsyncThrottled(using=using, quota="20/s burst 1", timeout=5, store=client)
        start = time.monotonic()
        assert all(await asyncio.gather(*(limiter.limit("key") for _ in range(5))))
        took = time.monotonic() - start
        await client.aclose()
        return took

    assert asyncio.run(main()) >= 0.2
    start = time.monotonic()
    limiter = Throttled(using=using, quota="20/s burst 1", timeout=5, store=client_of(server))
    assert all(limiter.limit("other") for _ in range(3))
    assert time.monotonic() - start >= 0.1


@pytest.mark.parametrize("awaits", [True, False], ids=["asyncio", "in a thread"])
def test_a_wait_that_is_cancelled_gives_its_slot_back(server: RedisServer, awaits: bool) -> None:
    async def main() -> None:
        client: Any = awaited_client_of(server) if awaits else client_of(server)
        limiter = AsyncThrottled(using="gcra", quota="1/m burst 1", store=client)
        assert await limiter.limit("key")
        before = (await limiter.peek("key")).reset_after
        waiting = asyncio.ensure_future(limiter.limit("key", timeout=100))
        deadline = time.monotonic() + 10
        while (await limiter.peek("key")).reset_after < before + 50:
            assert time.monotonic() < deadline
        for _ in range(10):  # round trips: it has its answer, and sleeps
            await limiter.peek("key")
        waiting.cancel()
        while (await limiter.peek("key")).reset_after > before:
            assert time.monotonic() < deadline
        if awaits:
            await client.aclose()

    asyncio.run(main())


@pytest.mark.parametrize("using", USINGS)
@pytest.mark.parametrize("awaits", [True, False], ids=["asyncio", "in a thread"])
def test_a_call_that_is_cancelled_under_way_is_undone(
    start_server: Callable[..., RedisServer], awaits: bool, using: str
) -> None:
    server = start_server()

    async def main() -> None:
        client: Any = awaited_client_of(server) if awaits else client_of(server)
        limiter = AsyncThrottled(using=using, quota="5/d", store=client)
        assert await limiter.limit("key")
        server.pause()
        calls = [asyncio.ensure_future(limiter.limit("key")) for _ in range(3)]
        await asyncio.sleep(0.05)  # they are sent
        for call in calls:
            call.cancel()
        server.resume()
        deadline = time.monotonic() + 10
        seen = 0
        while seen < 20:  # whatever order the connections come in
            seen = seen + 1 if (await limiter.peek("key")).remaining == 4 else 0
            assert time.monotonic() < deadline
        if awaits:
            await client.aclose()

    asyncio.run(main())


@pytest.mark.slow
def test_a_client_of_a_cluster_is_asked(cluster: Cluster) -> None:
    host, port = cluster.addresses[0]
    client = redis.RedisCluster(host=host, port=port)
    own = RedisStore(cluster.url)
    for n in range(20):
        theirs = Throttled(quota="2/h; 50/d", store=client)  # type: ignore[arg-type]
        assert theirs.limit(f"key {n}")
        assert Throttled(quota="2/h; 50/d", store=own).limit(f"key {n}")
        assert not theirs.limit(f"key {n}")
    client.close()

    async def main() -> None:
        awaited = redis.asyncio.RedisCluster(host=host, port=port)
        limiter = AsyncThrottled(quota="2/h; 50/d", store=awaited)  # type: ignore[arg-type]
        assert not await limiter.limit("key 1")
        assert await limiter.limit("another")
        await awaited.aclose()

    asyncio.run(main())


@pytest.mark.slow
def test_a_client_of_sentinels_is_asked(sentinels: Sentinels) -> None:
    manager = redis.Sentinel(sentinels.addresses, socket_timeout=5)
    client = manager.master_for(sentinels.url.rsplit("/", 2)[1])
    limiter = Throttled(quota="2/h", store=client)
    assert [bool(limiter.limit("key")) for _ in range(3)] == [True, True, False]


@pytest.mark.parametrize("using", USINGS)
def test_fakeredis_decides_as_a_server_does(using: str) -> None:
    limiter = Throttled(using=using, quota="3/h; 100/d", store=fakeredis.FakeRedis())
    assert [bool(limiter.limit("key")) for _ in range(5)] == [True, True, True, False, False]
    assert limiter.peek("key").remaining == 0

    async def main() -> None:
        awaited = AsyncThrottled(using=using, quota="3/h", store=fakeredis.FakeAsyncRedis())
        assert [bool(await awaited.limit("key")) for _ in range(4)] == [True] * 3 + [False]

    asyncio.run(main())


def test_every_family_takes_a_client(server: RedisServer) -> None:
    client = client_of(server)
    with SyncTokenBucket("name", 2, 1, 2, connection=client) as entered:
        assert entered is None
    made = RedisStore(client)
    assert made.server == f"redis.Redis(127.0.0.1:{server.address[1]})"
    choke = Choked(client)  # type: ignore[arg-type]
    assert choke("key", "2/s")(lambda: 5)() == 5


def test_one_client_is_one_store(server: RedisServer) -> None:
    client = client_of(server)
    assert from_any(client) is from_any(client)
    assert Throttled(quota="1/s", store=client).store is from_any(client)
    assert from_any(client_of(server)) is not from_any(client)


@pytest.mark.parametrize("how", [{"decode_responses": True}, {"protocol": 3}, {"protocol": 2}])
def test_how_it_reads_replies_does_not_matter(server: RedisServer, how: dict[str, Any]) -> None:
    limiter = Throttled(quota="2/h", store=client_of(server, **how))
    assert [bool(limiter.limit(b"\xff\x00 key")) for _ in range(3)] == [True, True, False]
    server.command("SCRIPT", "FLUSH")
    assert not limiter.limit(b"\xff\x00 key")


def test_a_client_for_asyncio_is_not_asked_without_await(server: RedisServer) -> None:
    limiter = Throttled(quota="1/s", store=awaited_client_of(server))
    with pytest.raises(SetUpError, match="is a client for asyncio"):
        limiter.limit("key")


def test_nobody_there_is_an_error_of_the_store(start_server: Callable[..., RedisServer]) -> None:
    client = client_of(start_server(password="another"), password=SECRET, retry=None)
    with pytest.raises(StoreUnavailableError) as caught:
        Throttled(quota="1/s", store=client).limit("key")
    assert caught.value.fault == "login"
    assert SECRET not in repr_of(caught.value).replace(repr(client), "")
    server = start_server()
    server.kill()
    limiter = Throttled(quota="1/s", store=client_of(server, retry=None))
    with pytest.raises(StoreUnavailableError) as caught:
        limiter.limit("key")
    assert (caught.value.fault, caught.value.may_have_counted) == ("connect", False)
    server.start()
    assert limiter.limit("key")


def test_a_reply_that_is_late_may_have_counted(start_server: Callable[..., RedisServer]) -> None:
    server = start_server()
    limiter = Throttled(quota="1/s", store=client_of(server, socket_timeout=0.2, retry=None))
    limiter.limit("key")
    server.pause()
    with pytest.raises(StoreUnavailableError) as caught:
        limiter.limit("key")
    assert (caught.value.fault, caught.value.may_have_counted) == ("timeout", True)
    server.resume()


def test_on_error_holds_for_a_client(start_server: Callable[..., RedisServer]) -> None:
    server = start_server()
    server.kill()
    client = client_of(server, retry=None)
    assert Throttled(quota="1/h", store=RedisStore(client, on_error="allow")).limit("key")
    assert not Throttled(quota="1/h", store=RedisStore(client, on_error="deny")).limit("key")
    fallback = RedisStore(client, on_error=MemoryStore())
    limiter = Throttled(quota="1/h", store=fallback)
    assert [bool(limiter.limit("key")) for _ in range(2)] == [True, False]
    assert fallback.failures == 2


class Neither:
    def execute_command(self, *words: object) -> object:
        return None


@pytest.mark.parametrize("store", [Neither(), object(), 5, redis.Redis, b"redis://host"])
def test_what_is_no_client_is_refused(store: Any) -> None:
    with pytest.raises(SetUpError, match="Invalid store"):
        Throttled(quota="1/s", store=store)


def test_options_beside_a_client_are_refused(server: RedisServer) -> None:
    with pytest.raises(SetUpError, match="SOCKET_TIMEOUT"):
        RedisStore(client_of(server), {"SOCKET_TIMEOUT": 1})

"""The options of throttled.md that name classes: they select redis-py, made of these classes."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
import redis
import redis.asyncio
from servers import RedisServer
from store_help import repr_of
from topologies import Cluster, Sentinels

from headway import SetUpError, Throttled
from headway.asyncio import Throttled as AsyncThrottled
from headway.store import RedisStore

DOCUMENTED = {
    "CONNECTION_POOL_CLASS": "redis.connection.ConnectionPool",
    "REDIS_CLIENT_CLASS": "redis.client.Redis",
}


class Counting(redis.Redis):
    """A client of somebody's own."""

    asked = 0

    def execute_command(self, *words: Any, **how: Any) -> Any:
        Counting.asked += 1
        return super().execute_command(*words, **how)


class Factory:
    """A connection factory of somebody's own."""

    def __init__(self, options: dict[str, Any]) -> None:
        self.options = options

    def connect(self, url: str) -> redis.Redis:
        return Counting.from_url(url, **self.options.get("CONNECTION_POOL_KWARGS", {}))


def admits_two(store: RedisStore) -> bool:
    limiter = Throttled(quota="2/h", store=store)
    return [bool(limiter.limit("key")) for _ in range(3)] == [True, True, False]


@pytest.mark.parametrize("option", DOCUMENTED)
def test_naming_a_class_selects_redis_py(server: RedisServer, option: str) -> None:
    store = RedisStore(server.url, {option: DOCUMENTED[option]})
    assert type(store._client.client) is redis.Redis
    assert admits_two(store)


def test_the_classes_that_are_named_are_used(server: RedisServer) -> None:
    before = Counting.asked
    options = {
        "REDIS_CLIENT_CLASS": f"{__name__}.Counting",
        "CONNECTION_POOL_CLASS": "redis.BlockingConnectionPool",
        "CONNECTION_POOL_KWARGS": {"max_connections": 3},
        "REDIS_CLIENT_KWARGS": {"single_connection_client": False},
        "SOCKET_TIMEOUT": 2,
    }
    store = RedisStore(server.url, options)
    assert admits_two(store)
    assert Counting.asked > before
    pool = store._client.client.connection_pool
    assert isinstance(pool, redis.BlockingConnectionPool)
    assert (pool.max_connections, pool.connection_kwargs["socket_timeout"]) == (3, 2)


def test_a_factory_of_ones_own_makes_the_client(server: RedisServer) -> None:
    options = {
        "CONNECTION_FACTORY_CLASS": f"{__name__}.Factory",
        "CONNECTION_POOL_KWARGS": {"client_name": "made"},
    }
    store = RedisStore(server.url, options)
    assert type(store._client.client) is Counting
    assert admits_two(store)


def test_the_documents_factories_say_only_where(server: RedisServer) -> None:
    options = {"CONNECTION_FACTORY_CLASS": "throttled.store.ConnectionFactory"}
    store = RedisStore(server.url, options)
    assert store._client is None
    assert admits_two(store)


def test_classes_for_asyncio_make_a_client_for_asyncio(server: RedisServer) -> None:
    store = RedisStore(server.url, {"REDIS_CLIENT_CLASS": "redis.asyncio.Redis"})

    async def main() -> None:
        limiter = AsyncThrottled(quota="2/h", store=store)
        assert [bool(await limiter.limit("key")) for _ in range(3)] == [True, True, False]
        await store._client.client.aclose()

    asyncio.run(main())


@pytest.mark.slow
def test_with_sentinels_the_client_follows_the_primary(sentinels: Sentinels) -> None:
    service = sentinels.url.rsplit("/", 2)[1]
    where = {
        "CONNECTION_FACTORY_CLASS": "throttled.store.SentinelConnectionFactory",
        "SENTINELS": sentinels.addresses,
    }
    store = RedisStore(f"redis://{service}/0", {**where, **DOCUMENTED})
    assert isinstance(store._client.client, redis.Redis)
    assert admits_two(store)
    own = RedisStore(f"redis://{service}/0", where)
    assert own._client is None
    assert not Throttled(quota="2/h", store=own).limit("key")


@pytest.mark.slow
def test_with_a_cluster_the_client_is_one_of_a_cluster(cluster: Cluster) -> None:
    where = {
        "CONNECTION_FACTORY_CLASS": "throttled.store.ClusterConnectionFactory",
        "CLUSTER_NODES": cluster.addresses,
    }
    theirs = {**where, "REDIS_CLIENT_CLASS": "redis.cluster.RedisCluster"}
    store = RedisStore(options=theirs)
    assert isinstance(store._client.client, redis.RedisCluster)
    assert admits_two(store)
    assert RedisStore(options=where)._client is None


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"REDIS_CLIENT_CLASS": "redis.client.Nobody"}, "REDIS_CLIENT_CLASS is 'redis.client.Nob"),
        ({"REDIS_CLIENT_CLASS": "Redis"}, "must be the path of a class"),
        ({"CONNECTION_POOL_CLASS": 5}, "CONNECTION_POOL_CLASS is 5"),
        ({"CONNECTION_FACTORY_CLASS": "no.such.Factory"}, "cannot be imported"),
        (
            {"CONNECTION_FACTORY_CLASS": "throttled.store.SentinelConnectionFactory"},
            "needs SENTINELS",
        ),
        (
            {"CONNECTION_FACTORY_CLASS": "throttled.store.ClusterConnectionFactory"},
            "needs CLUSTER_NODES",
        ),
        ({**DOCUMENTED, "REDIS_CLIENT_KWARGS": 5}, "REDIS_CLIENT_KWARGS is 5"),
    ],
)
def test_what_is_wrong_with_them_is_said(options: dict[str, Any], says: str) -> None:
    with pytest.raises(SetUpError) as caught:
        RedisStore("redis://:s3cret@host", options)
    assert says in str(caught.value)
    assert "s3cret" not in repr_of(caught.value)

"""Leases where the server is a cluster, or trio runs the loop, or a proxy is slow."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest
from proxy import Proxy
from servers import RedisServer
from store_help import USINGS
from topologies import Cluster

from headway import Throttled
from headway.asyncio import Throttled as AsyncThrottled
from headway.store import RedisStore

SLOW = "36000/h burst 1000"
BIG = {"tokens": 10**6}


@pytest.fixture(scope="module")
def shards(redis_binary: str) -> Iterator[Cluster]:
    with Cluster(redis_binary) as topology:
        yield topology


@pytest.mark.slow
@pytest.mark.parametrize("using", ["gcra", "sliding_window"])
def test_in_a_cluster_every_node_gets_its_keys_back(using: str, shards: Cluster) -> None:
    store = RedisStore(shards.url, lease=BIG)
    limiter = Throttled(using=using, quota=f"{SLOW}; 72000/h burst 2000", store=store)
    for key in range(30):
        assert sum(bool(limiter.limit(f"{using} {key}")) for _ in range(12)) == 12
    store.close()
    limit = limiter.peek("fresh").limit
    left = [limiter.peek(f"{using} {key}").remaining for key in range(30)]
    assert min(left) >= limit - 12


@pytest.mark.slow
@pytest.mark.parametrize("using", ["gcra", "fixed_window"])
def test_a_slot_that_moves_takes_its_leases_along(using: str, shards: Cluster) -> None:
    store = RedisStore(shards.url, lease=BIG)
    limiter = Throttled(f"moving {using}", using=using, quota=SLOW, store=store)
    slot = shards.slot_of(f"moving {using}")
    admitted = sum(bool(limiter.limit()) for _ in range(100))
    owner = shards.owner(slot)
    shards.move_slot(slot, next(n for n in range(3) if shards.primary(n) is not owner))
    admitted += sum(bool(limiter.limit()) for _ in range(300))
    assert admitted == 400
    store.close()
    limit = limiter.peek().limit
    assert limit - 400 <= limiter.peek().remaining <= limit - 300


@pytest.mark.parametrize("using", USINGS)
def test_trio_leases_too(using: str, proxy: Proxy) -> None:
    trio = pytest.importorskip("trio")
    store = RedisStore(proxy.url, lease=BIG)
    limiter = AsyncThrottled("key", using=using, quota=SLOW, store=store)

    async def main() -> None:
        for _ in range(150):
            assert await limiter.limit()

    trio.run(main)
    assert proxy.requests.total() < 40


def test_a_slow_network_still_gets_blocks_that_outlive_their_way(proxy: Proxy) -> None:
    store = RedisStore(proxy.url, lease="10s")
    limiter = Throttled("key", using="gcra", quota="100000/s burst 100000", store=store)
    proxy.delay(0.01)
    for _ in range(3000):
        assert limiter.limit()
    assert proxy.requests.total() < 60


def test_threads_that_meet_at_a_key_are_all_served(server: RedisServer) -> None:
    store = RedisStore(server.url, lease=BIG)
    got: list[int] = []

    def work() -> None:
        limiter = Throttled(using="gcra", quota="100000/s burst 10", store=store)
        got.append(sum(bool(limiter.limit(f"key {n % 3}", timeout=5)) for n in range(100)))

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert got == [100] * 8

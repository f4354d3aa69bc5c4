"""A cluster: every key goes to the node that serves its slot, also while slots move, replicas take
over and nodes die.

One cluster serves all tests of a worker that leave it whole; who kills has one of its own.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from store_help import ask, descriptors
from topologies import Cluster

from headway import StoreUnavailableError, Throttled
from headway.asyncio import Throttled as AsyncThrottled
from headway.store import RedisStore

__all__ = ["ask"]


@pytest.fixture(scope="module")
def shards(redis_binary: str) -> Iterator[Cluster]:
    """A cluster that is whole before and after each test."""
    with Cluster(redis_binary) as topology:
        yield topology


def name_of(key: str) -> str:
    return f"headway:v1:gcra:{{{key}}}"


def test_every_key_is_where_the_cluster_looks_for_it(shards: Cluster) -> None:
    limiter = Throttled(using="gcra", quota="1/h", store=RedisStore(shards.url))
    keys = [f"key {n}" for n in range(150)] + ["ключ", "a}b", "{x}y", "\\", " ", "a\tb"]
    for key in keys:
        assert limiter.limit(key)
        assert not limiter.limit(key)
    for key in keys[:150]:
        slot = shards.slot_of(key)
        assert slot == shards.slot_of(name_of(key))
        assert shards.owner(slot).command("EXISTS", name_of(key)) == 1
    counts = [shards.primary(n).command("DBSIZE") for n in range(3)]
    assert sum(counts) >= len(keys)
    assert all(counts)


def test_a_node_is_asked_once_the_slots_are_known(shards: Cluster) -> None:
    store = RedisStore(shards.url)
    limiter = Throttled(using="gcra", quota="1000/s", store=store)
    for n in range(40):
        limiter.limit(f"warm {n}")
    before = moved(shards)
    for n in range(200):
        limiter.limit(f"more {n}")
    assert moved(shards) == before


def moved(cluster: Cluster) -> int:
    """How many redirects the nodes have given."""
    total = 0
    for node in cluster.nodes:
        stats = node.info("errorstats")
        total += sum(int(value.partition("=")[2]) for key, value in stats.items() if "MOVED" in key)
    return total


def test_several_rules_of_one_key_are_decided_together(
    shards: Cluster, ask: Callable[..., Any]
) -> None:
    store = RedisStore(shards.url)
    for n in range(10):
        how = {"key": f"rules {n} {ask.__name__}", "quota": "2/h, 5/d, 9/w"}
        assert [bool(ask(store, **how)) for _ in range(3)] == [True, True, False]


@pytest.mark.slow
def test_one_node_is_enough_to_find_the_others(shards: Cluster, ask: Callable[..., Any]) -> None:
    port = shards.replicas(0)[0].port
    for store in (
        RedisStore(f"redis+cluster://127.0.0.1:{port}/0"),
        RedisStore(None, {"CLUSTER_NODES": [("127.0.0.1", port)]}),
    ):
        for n in range(12):
            assert ask(store, key=f"found {n}", quota="100/h")


@pytest.mark.slow
def test_nodes_that_are_not_there_are_passed_over(shards: Cluster) -> None:
    store = RedisStore(f"redis+cluster://127.0.0.1:1,127.0.0.1:{shards.nodes[0].port}")
    assert Throttled("key", quota="100/h", store=store).limit()


@pytest.mark.slow
@pytest.mark.parametrize("how", ["thread", "task"])
def test_a_slot_that_moves_under_load_loses_no_decision(how: str, shards: Cluster) -> None:
    key = f"moving {how}"
    slot = shards.slot_of(key)
    target = next(n for n in range(3) if shards.primary(n) is not shards.owner(slot))
    store = RedisStore(shards.url)
    quota = "1/h burst 400"
    over = threading.Event()
    seen: list[bool] = []

    async def tasks() -> None:
        limiter = AsyncThrottled(key, using="gcra", quota=quota, store=store)
        while not over.is_set() or len(seen) < 500:
            seen.extend(map(bool, await asyncio.gather(*(limiter.limit() for _ in range(3)))))
            await asyncio.sleep(0.001)

    def work() -> None:
        if how == "task":
            return asyncio.run(tasks())
        limiter = Throttled(key, using="gcra", quota=quota, store=store)
        while not over.is_set() or len(seen) < 500:
            seen.append(bool(limiter.limit()))
        return None

    failed: list[BaseException] = []

    def guarded() -> None:
        try:
            work()
        except BaseException as error:
            failed.append(error)

    threads = [threading.Thread(target=guarded) for _ in range(1 if how == "task" else 3)]
    for thread in threads:
        thread.start()
    shards.begin_move(slot, target)
    time.sleep(0.1)
    shards.finish_move(slot, target)
    over.set()
    for thread in threads:
        thread.join(60)
    assert not failed
    assert sum(seen) == 400


@pytest.mark.slow
def test_a_key_that_is_neither_here_nor_there_is_asked_for(
    shards: Cluster, ask: Callable[..., Any]
) -> None:
    key = f"asked for {ask.__name__}"
    slot = shards.slot_of(key)
    target = next(n for n in range(3) if shards.primary(n) is not shards.owner(slot))
    how = {"key": key, "using": "gcra", "quota": "5/h"}
    store = RedisStore(shards.url)
    assert ask(store, **how)
    shards.begin_move(slot, target)
    try:
        assert ask(store, **how)  # still at the old owner's
        shards.move_keys(slot, target)
        assert ask(store, **how)  # ASK
        assert ask(RedisStore(shards.url), **how)
    finally:
        shards.finish_move(slot, target)
    assert ask(store, **how)  # MOVED
    assert not ask(store, **how)


@pytest.mark.slow
def test_several_rules_half_way_between_two_nodes_wait_for_the_move(
    shards: Cluster, ask: Callable[..., Any]
) -> None:
    key = f"half way {ask.__name__}"
    slot = shards.slot_of(key)
    target = next(n for n in range(3) if shards.primary(n) is not shards.owner(slot))
    how = {"key": key, "using": "gcra", "quota": "5/h, 50/d"}
    store = RedisStore(shards.url)
    assert ask(store, **how)
    shards.begin_move(slot, target)
    assert shards.move_keys(slot, target, 1) == 1
    helper = threading.Timer(0.2, shards.finish_move, (slot, target))
    helper.start()
    try:
        assert ask(store, **how)  # TRYAGAIN until the rest has come
    finally:
        helper.join(30)
    assert ask(store, "peek", **how).remaining == 3


@pytest.mark.slow
def test_a_failover_without_loss_keeps_the_quota(shards: Cluster, ask: Callable[..., Any]) -> None:
    key = f"handed over {ask.__name__}"
    slot = shards.slot_of(key)
    shard = next(n for n in range(3) if shards.primary(n) is shards.owner(slot))
    how = {"key": key, "using": "gcra", "quota": "3/h"}
    store = RedisStore(shards.url)
    assert ask(store, **how)
    shards.failover(shard)
    assert [bool(ask(store, **how)) for _ in range(3)] == [True, True, False]


@pytest.mark.slow
def test_a_closed_store_has_no_descriptor_of_any_node(shards: Cluster) -> None:
    before = descriptors()
    store = RedisStore(shards.url)
    limiter = Throttled(quota="100/h", store=store)
    for n in range(30):
        limiter.limit(f"key {n}")
    assert descriptors() >= before + 3
    store.close()
    assert descriptors() == before
    limiter.limit("key 0")
    del store, limiter
    assert descriptors() == before


@pytest.mark.slow
def test_the_death_of_a_primary_is_survived(cluster: Cluster) -> None:
    store = RedisStore(cluster.url + "?timeout=15&connect_timeout=1")
    limiter = Throttled("mortal", using="gcra", quota="1/h burst 10000", store=store)
    task = AsyncThrottled("mortal", using="gcra", quota="1/h burst 10000", store=store)
    assert limiter.limit()
    shard = next(
        n for n in range(3) if cluster.primary(n) is cluster.owner(cluster.slot_of("mortal"))
    )
    errors: list[StoreUnavailableError] = []

    async def as_tasks() -> None:
        while not over.is_set():
            try:
                await task.limit()
            except StoreUnavailableError as error:
                errors.append(error)
            await asyncio.sleep(0.02)
        assert await task.limit()

    def work() -> None:
        while not over.is_set():
            try:
                limiter.limit()
            except StoreUnavailableError as error:
                errors.append(error)
            time.sleep(0.02)

    over = threading.Event()
    threads = [
        threading.Thread(target=work),
        threading.Thread(target=lambda: asyncio.run(as_tasks())),
    ]
    for thread in threads:
        thread.start()
    cluster.kill_primary(shard)
    over.set()
    for thread in threads:
        thread.join(60)
        assert not thread.is_alive()
    assert limiter.limit()
    # What was under way when it died may be lost; nothing else is given up within the deadline.
    assert all(error.may_have_counted for error in errors), [str(error) for error in errors]

"""Semaphores wherever a server is and whoever asks it: clusters, sentinels, TLS, uvloop, trio,
clients of redis-py.
"""

# ruff: noqa: F811 (fixtures come from semaphore_help)

from __future__ import annotations

import asyncio
import importlib.util
import time
from collections.abc import Callable
from typing import Any

import pytest
from semaphore_help import AsTask, AsThread, held, in_line, until, way  # noqa: F401
from servers import RedisServer
from topologies import Cluster, Sentinels

from headway.exceptions import SetUpError
from headway.limiters import AsyncSemaphore, MaxSleepExceededError, SyncSemaphore, _line

Start = Callable[..., Any]


@pytest.mark.slow
@pytest.mark.parametrize("kind", [AsThread, AsTask], ids=["thread", "task"])
def test_a_cluster_moves_on_while_some_wait(cluster: Cluster, start: Start, kind: Any) -> None:
    semaphore = kind.kind("name", 1, max_sleep=60, connection=cluster.url)
    held_key = "limiters:v1:semaphore:{name}:held"
    slot = cluster.slot_of(held_key)
    shard = next(n for n in range(3) if cluster.primary(n).port == cluster.owner(slot).port)

    def line() -> int:
        return int(cluster.command(held_key, "ZCARD", held_key.replace("held", "line")))

    for change in (
        lambda: cluster.move_slot(slot, (shard + 1) % 3),
        lambda: cluster.failover((shard + 1) % 3),
    ):
        with SyncSemaphore("name", 1, expiry=1, connection=cluster.url):
            worker = start(lambda: kind.run(semaphore, lambda: "in"))
            until(lambda: line() == 1, "one in line")
            change()
        assert worker.result(60) == "in"
    until(lambda: cluster.command(held_key, "ZCARD", held_key) == 0, "all permits back")


@pytest.mark.slow
@pytest.mark.parametrize("kind", [AsThread, AsTask], ids=["thread", "task"])
def test_sentinels_put_another_in_charge_while_some_wait(
    sentinels: Sentinels, start: Start, kind: Any
) -> None:
    url = f"{sentinels.url}?timeout=15"
    semaphore = kind.kind("name", 1, max_sleep=60, connection=url)
    with SyncSemaphore("name", 1, expiry=1, connection=url):
        worker = start(lambda: kind.run(semaphore, lambda: "in"))
        until(lambda: in_line(sentinels.primary()) == 1, "one in line")
        sentinels.failover()
    assert worker.result(60) == "in"
    until(lambda: held(sentinels.primary()) == 0, "all permits back")


def test_by_tls(tls_server: RedisServer, certificates: Any, way: Any, start: Start) -> None:
    query = "&".join(
        f"{name}={value}"
        for name, value in {
            "ssl_ca_certs": certificates.ca,
            "ssl_certfile": certificates.client.certificate,
            "ssl_keyfile": certificates.client.key,
        }.items()
    )
    url = f"{tls_server.url}?{query}"
    semaphore = way.kind("name", 1, connection=url)
    with SyncSemaphore("name", 1, connection=url):
        worker = start(lambda: way.run(semaphore, lambda: "in"))
        until(lambda: in_line(tls_server) == 1, "one in line")
    assert worker.result() == "in"


@pytest.mark.skipif(importlib.util.find_spec("uvloop") is None, reason="uvloop is not installed")
def test_on_uvloop(server: RedisServer) -> None:
    import uvloop

    busy = [0, 0]

    async def main() -> None:
        semaphore = AsyncSemaphore("name", 2, connection=server.url)

        async def work() -> None:
            async with semaphore:
                busy[0] += 1
                busy[1] = max(busy)
                await asyncio.sleep(0.001)
                busy[0] -= 1

        await asyncio.gather(*(work() for _ in range(30)))

    loop = uvloop.new_event_loop()
    loop.run_until_complete(main())
    loop.close()
    assert busy == [0, 2]
    assert held(server) == 0


def test_tasks_of_trio_wait_in_the_same_line(server: RedisServer, start: Start) -> None:
    trio = pytest.importorskip("trio")
    order: list[str] = []

    async def enter(name: str) -> None:
        async with AsyncSemaphore("name", 1, connection=server.url):
            order.append(name)
            await trio.sleep(0)

    async def main() -> None:
        async with trio.open_nursery() as nursery:
            for number in range(3):
                nursery.start_soon(enter, f"task {number}")
                with trio.fail_after(30):
                    while await trio.to_thread.run_sync(in_line, server) < number + 1:
                        await trio.sleep(0.001)

    def thread() -> None:
        with SyncSemaphore("name", 1, connection=server.url):
            order.append("thread")

    with SyncSemaphore("name", 1, connection=server.url):
        tasks = start(lambda: trio.run(main))
        until(lambda: in_line(server) == 3, "three tasks in line")
        worker = start(thread)
        until(lambda: in_line(server) == 4, "a thread in line too")
    tasks.result()
    worker.result()
    assert order == ["task 0", "task 1", "task 2", "thread"]
    assert held(server) == 0


def test_a_task_of_trio_that_is_cancelled_or_late_leaves_the_line(
    server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    trio = pytest.importorskip("trio")
    monkeypatch.setattr(_line, "LOOK", 120.0)

    async def main() -> None:
        with trio.move_on_after(0.2) as scope:
            await AsyncSemaphore("name", 1, connection=server.url).__aenter__()
        assert scope.cancelled_caught
        began = time.monotonic()
        with pytest.raises(MaxSleepExceededError):
            await AsyncSemaphore("name", 1, max_sleep=0.2, connection=server.url).__aenter__()
        assert 0.2 <= time.monotonic() - began < 60  # not as long as the list is listened to

    with SyncSemaphore("name", 1, connection=server.url):
        trio.run(main)
        until(lambda: in_line(server) == 0, "an empty line")


def test_a_client_of_redis_py_will_do_for_threads_and_tasks(
    server: RedisServer, way: Any, start: Start
) -> None:
    client = pytest.importorskip("redis.client").Redis(port=server.port)
    semaphore = way.kind("name", 1, connection=client)
    with SyncSemaphore("name", 1, connection=client):
        worker = start(lambda: way.run(semaphore, lambda: "in"))
        until(lambda: in_line(server) == 1, "one in line")
    assert worker.result() == "in"
    assert held(server) == 0
    client.close()


def test_a_client_for_asyncio_will_do_for_its_tasks(server: RedisServer) -> None:
    client = pytest.importorskip("redis.asyncio").Redis(port=server.port)
    busy = [0, 0]

    async def main() -> None:
        semaphore = AsyncSemaphore("name", 2, expiry=0.3, connection=client)

        async def work() -> None:
            async with semaphore:
                busy[0] += 1
                busy[1] = max(busy)
                await asyncio.sleep(0.05)
                busy[0] -= 1

        await asyncio.gather(*(work() for _ in range(8)))
        async with semaphore:  # renewed for longer than it would last by itself
            await asyncio.sleep(1.0)
            assert held(server) == 1
        deadline = time.monotonic() + 10
        while held(server):  # a renewal may come in between: then it is given back once more
            assert time.monotonic() < deadline
            await asyncio.sleep(0.01)
        with pytest.raises(SetUpError, match="without await"):
            _ = semaphore._pool.held
        await client.aclose()

    asyncio.run(main())
    assert busy == [0, 2]


def test_a_client_for_asyncio_is_not_for_threads() -> None:
    client = pytest.importorskip("redis.asyncio").Redis()
    with pytest.raises(SetUpError, match="AsyncSemaphore takes"):
        SyncSemaphore("name", 1, connection=client)

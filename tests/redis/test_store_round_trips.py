"""A decision is one request and one reply; those who ask at once share a write and a connection.

A proxy counts what comes to the server. It makes the server slow where callers must meet.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from typing import Any

import pytest
from proxy import Proxy
from servers import RedisServer
from store_help import USINGS, ask

from headway import Throttled
from headway.asyncio import Throttled as AsyncThrottled
from headway.store import RedisStore

__all__ = ["ask"]


@pytest.mark.parametrize("using", USINGS)
@pytest.mark.parametrize("quota", ["5/s", "5/s, 9/m, 99/h"])
def test_a_decision_is_one_request_however_many_rules(using: str, quota: str, proxy: Proxy) -> None:
    limiter = Throttled("key", using=using, quota=quota, store=RedisStore(proxy.url))
    limiter.limit()  # connects, and loads the script
    proxy.requests.clear()
    for _ in range(20):
        limiter.limit()
    limiter.peek()
    assert proxy.requests == {"EVALSHA": 21}
    assert proxy.connections == 1


@pytest.mark.parametrize("using", ["token_bucket", "leaking_bucket", "gcra"])
def test_a_wait_is_one_request_too(using: str, proxy: Proxy, ask: Callable[..., Any]) -> None:
    store = RedisStore(proxy.url)
    ask(store, using=using, quota="5/s burst 1")
    proxy.requests.clear()
    assert ask(store, using=using, quota="5/s burst 1", timeout=10)
    assert proxy.requests["EVALSHA"] == 1


def test_a_store_that_is_made_connects_to_nobody(proxy: Proxy) -> None:
    store = RedisStore(proxy.url)
    Throttled("key", quota="5/s", store=store)
    assert proxy.connections == 0


def test_threads_share_one_connection_and_its_writes(proxy: Proxy) -> None:
    limiter = Throttled("key", quota="5/s", store=RedisStore(proxy.url))
    limiter.limit()
    proxy.delay(0.002)
    proxy.requests.clear()
    reads = proxy.reads

    def work() -> None:
        for _ in range(25):
            limiter.limit()

    threads = [threading.Thread(target=work) for _ in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert proxy.requests == {"EVALSHA": 400}
    assert proxy.reads - reads < 200
    assert proxy.connections == 1


def test_the_tasks_of_one_turn_are_one_write(proxy: Proxy) -> None:
    limiter = AsyncThrottled("key", quota="5/s", store=RedisStore(proxy.url))

    async def main() -> None:
        await limiter.limit()
        proxy.requests.clear()
        reads = proxy.reads
        await asyncio.gather(*(limiter.limit() for _ in range(200)))
        assert proxy.requests == {"EVALSHA": 200}
        assert proxy.reads - reads <= 4  # a large write may come in pieces

    asyncio.run(main())
    assert proxy.connections == 1


def test_limiters_that_name_one_url_share_a_connection(proxy: Proxy) -> None:
    first = Throttled("key", quota="5/s", store=proxy.url)
    second = Throttled("key", quota="9/s", using="gcra", store=proxy.url)
    assert first.store is second.store
    first.limit()
    second.limit()
    assert proxy.connections == 1


def test_scripts_are_sent_in_full_once(server: RedisServer, proxy: Proxy) -> None:
    limiter = Throttled("key", quota="5/s", store=RedisStore(proxy.url))
    for _ in range(5):
        limiter.limit()
    assert (proxy.requests["EVALSHA"], proxy.requests["EVAL"]) == (5, 1)


def test_a_flushed_script_is_sent_again_under_load(server: RedisServer, proxy: Proxy) -> None:
    limiter = Throttled("key", using="gcra", quota="1/h burst 150", store=RedisStore(proxy.url))
    task = AsyncThrottled("key", using="gcra", quota="1/h burst 150", store=limiter.store)
    admitted: list[int] = []
    over = threading.Event()

    def flush() -> None:
        with server.connect() as wire:
            while not over.is_set():
                wire.command("SCRIPT", "FLUSH")
                over.wait(0.003)

    def work() -> None:
        admitted.append(sum(bool(limiter.limit()) for _ in range(50)))

    async def main() -> int:
        return sum(map(bool, await asyncio.gather(*(task.limit() for _ in range(50)))))

    flusher = threading.Thread(target=flush)
    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in (flusher, *threads):
        thread.start()
    admitted.append(asyncio.run(main()))
    for thread in threads:
        thread.join(30)
    over.set()
    flusher.join(30)
    assert sum(admitted) == 150

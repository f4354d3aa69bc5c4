"""An event loop's own connection: names are looked up beside the loop, and a fork's child leaves
the parent's alone.
"""

from __future__ import annotations

import asyncio
import gc
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from types import FrameType

import pytest
from servers import RedisServer
from store_help import SLACK_S, NoExecutor, child

from headway import StoreUnavailableError
from headway._redis_topology import Cluster
from headway.asyncio import Throttled
from headway.store import RedisStore


def named(server: RedisServer, options: str = "") -> RedisStore:
    """A store by the server's name instead of its number."""
    return RedisStore(f"redis://localhost:{server.port}/0{options}")


def clients(server: RedisServer, name: str) -> list[str]:
    """The ids of the connections of this name."""
    lines = server.command("CLIENT", "LIST").splitlines()
    fields = [dict(word.partition("=")[::2] for word in line.split()) for line in lines]
    return [field["id"] for field in fields if field["name"] == name]


def test_a_name_is_looked_up_beside_the_loop(server: RedisServer) -> None:
    limiter = Throttled("key", quota="5/m", store=named(server))

    async def main() -> None:
        free = threading.Event()
        loop = asyncio.get_running_loop()
        loop.set_default_executor(ThreadPoolExecutor(1))
        busy = loop.run_in_executor(None, free.wait)
        tasks = [asyncio.ensure_future(limiter.limit()) for _ in range(3)]
        _, pending = await asyncio.wait(tasks, timeout=0.1)
        assert len(pending) == 3  # the loop runs, and the only thread is not free yet
        free.set()
        await busy
        assert all(await asyncio.gather(*tasks))

    asyncio.run(main())


def test_looking_up_a_name_counts_as_connecting(server: RedisServer) -> None:
    limiter = Throttled("key", quota="5/m", store=named(server, "?connect_timeout=0.2"))

    async def main() -> None:
        free = threading.Event()
        loop = asyncio.get_running_loop()
        loop.set_default_executor(ThreadPoolExecutor(1))
        busy = loop.run_in_executor(None, free.wait)
        since = time.monotonic()
        with pytest.raises(StoreUnavailableError) as caught:
            await limiter.limit()
        assert caught.value.fault == "timeout"
        assert 0.2 <= time.monotonic() - since < 0.2 + SLACK_S
        free.set()
        await busy
        end = time.monotonic() + 5
        while True:
            try:
                assert await limiter.limit()
                break
            except StoreUnavailableError:
                assert time.monotonic() < end
                await asyncio.sleep(0.02)

    asyncio.run(main())


def test_a_name_that_is_none_is_an_address_fault() -> None:
    limiter = Throttled("key", quota="5/m", store=RedisStore("redis://nobody.invalid:6379/0"))

    async def main() -> None:
        with pytest.raises(StoreUnavailableError) as caught:
            await limiter.limit()
        assert caught.value.fault == "address"

    asyncio.run(main())


def test_a_store_closed_while_its_name_is_looked_up_harms_nobody(server: RedisServer) -> None:
    async def main() -> None:
        for _ in range(5):
            limiter = Throttled("key", quota="5/m", store=named(server))
            task = asyncio.ensure_future(limiter.limit())
            await asyncio.sleep(0)
            task.cancel()
            limiter.store.close()
            del limiter
            await asyncio.wait([task])
            gc.collect()
        assert await Throttled("other", quota="5/m", store=named(server)).limit()

    asyncio.run(main())


def test_a_child_never_touches_the_connection_of_its_parents_loop(server: RedisServer) -> None:
    limiter = Throttled("key", quota="9/m", store=RedisStore(server.url + "?client_name=forks"))

    async def main() -> None:
        assert await limiter.limit()
        before = clients(server, "forks")
        assert len(before) == 1
        under_way = [asyncio.ensure_future(limiter.limit()) for _ in range(3)]
        await asyncio.sleep(0)

        def work() -> bytes:
            asyncio.events._set_running_loop(None)
            for task in under_way:
                task.get_coro().close()  # type: ignore[union-attr]
            assert asyncio.run(limiter.limit())
            limiter.store.close()
            gc.collect()
            return b"done"

        with child(work) as said:
            assert said() == b"done"
        assert all(await asyncio.gather(*under_way))
        assert clients(server, "forks") == before
        assert (await limiter.peek()).remaining == 4

    asyncio.run(main())


def test_a_store_that_is_closed_while_another_loop_comes_closes_those_it_had(
    server: RedisServer,
) -> None:
    limiter = Throttled("key", quota="5/m", store=named(server, "?client_name=comes"))
    late = asyncio.new_event_loop()

    def ask() -> None:
        late.run_until_complete(limiter.limit())

    def profile(frame: FrameType, event: str, _: object) -> None:
        if event == "return" and frame.f_code.co_name in ("items", "keyrefs"):
            sys.setprofile(None)
            thread = threading.Thread(target=ask)
            thread.start()
            thread.join()

    async def main() -> None:
        await limiter.limit()
        sys.setprofile(profile)
        try:
            limiter.store.close()
        finally:
            sys.setprofile(None)
        end = time.monotonic() + 10
        while len(clients(server, "comes")) != 1 and time.monotonic() < end:
            await asyncio.sleep(0.001)
        assert len(clients(server, "comes")) == 1  # of the loop that came

    try:
        asyncio.run(main())
    finally:
        limiter.store.close()
        late.run_until_complete(asyncio.sleep(0))
        late.close()


def test_a_task_that_looks_for_who_serves_leaves_the_loops_executor_to_the_program(
    server: RedisServer,
) -> None:
    looked: list[int] = []

    class Nowhere(Cluster):
        def _look(self, store: RedisStore) -> None:
            looked.append(threading.get_ident())

    async def main() -> int:
        asyncio.get_running_loop().set_default_executor(NoExecutor())
        await Nowhere([]).refresh_async(RedisStore(server.url))
        return threading.get_ident()

    assert asyncio.run(main()) not in looked
    assert len(looked) == 1

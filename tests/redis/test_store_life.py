"""What a store holds, and when it lets go of it: descriptors, memory, connections, across forks,
event loops and the garbage collector.
"""

from __future__ import annotations

import asyncio
import gc
import threading
import time
import weakref
from collections.abc import Callable

import pytest
from proxy import Proxy
from servers import RedisServer
from store_help import child, descriptors, descriptors_settle_at, resident_kib

from effort import rounds
from headway import StoreUnavailableError, Throttled
from headway.asyncio import Throttled as AsyncThrottled
from headway.store import RedisStore

QUOTA = "1000000/s"


def test_a_closed_store_has_no_descriptor_and_connects_again(server: RedisServer) -> None:
    before = descriptors()
    store = RedisStore(server.url)
    limiter = Throttled("key", quota=QUOTA, store=store)
    limiter.limit()
    assert descriptors() == before + 1
    store.close()
    store.close()
    assert descriptors() == before
    assert limiter.limit()
    store.close()
    assert descriptors() == before


def test_a_store_that_is_collected_leaves_no_descriptor(server: RedisServer) -> None:
    before = descriptors()
    store = RedisStore(server.url)
    gone = weakref.ref(store)
    Throttled("key", quota=QUOTA, store=store).limit()
    del store
    assert descriptors() == before
    assert gone() is None


def test_a_closed_store_has_no_descriptor_in_a_running_loop(server: RedisServer) -> None:
    async def main() -> None:
        store = RedisStore(server.url)
        limiter = AsyncThrottled("key", quota=QUOTA, store=store)
        before = descriptors()
        await limiter.limit()
        assert descriptors() == before + 1
        store.close()
        await asyncio.sleep(0)
        assert descriptors() == before
        assert await limiter.limit()

    asyncio.run(main())


def test_a_collected_store_has_no_descriptor_in_a_running_loop(server: RedisServer) -> None:
    async def use() -> None:
        await AsyncThrottled("key", quota=QUOTA, store=RedisStore(server.url)).limit()

    async def main() -> None:
        before = descriptors()
        for _ in range(5):
            await use()
        end = time.monotonic() + 5
        while descriptors() != before and time.monotonic() < end:
            await asyncio.sleep(0.001)
        assert descriptors() == before

    asyncio.run(main())


def test_loops_that_are_over_leave_no_descriptor(server: RedisServer) -> None:
    limiter = AsyncThrottled("key", quota=QUOTA, store=RedisStore(server.url))
    before = descriptors()

    async def main() -> None:
        await limiter.limit()

    for _ in range(20):
        asyncio.run(main())
    assert descriptors() == before


def test_each_loop_of_each_thread_has_a_connection_of_its_own(proxy: Proxy) -> None:
    limiter = AsyncThrottled(
        "key", using="gcra", quota="1/h burst 100", store=RedisStore(proxy.url)
    )
    seen: list[int] = []

    async def main() -> None:
        seen.append(sum(map(bool, await asyncio.gather(*(limiter.limit() for _ in range(50))))))

    threads = [threading.Thread(target=lambda: asyncio.run(main())) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert len(seen) == 6
    assert sum(seen) == 100
    assert proxy.connections == 6


def test_a_loop_closed_under_waiters_harms_nobody(server: RedisServer) -> None:
    store = RedisStore(server.url)
    limiter = AsyncThrottled("key", using="gcra", quota="1/m burst 1", store=store)
    before = descriptors()
    loop = asyncio.new_event_loop()
    loop.set_exception_handler(lambda *_: None)

    async def main() -> list[asyncio.Future[object]]:
        await limiter.limit()
        tasks = [asyncio.ensure_future(limiter.limit(timeout=500)) for _ in range(3)]
        tasks.append(asyncio.ensure_future(limiter.limit("other", timeout=500)))
        await asyncio.sleep(0.05)
        return tasks  # type: ignore[return-value]

    tasks = loop.run_until_complete(main())
    loop.close()
    for task in tasks:
        task._log_destroy_pending = False  # type: ignore[attr-defined]
    del tasks, task, loop
    gc.collect()
    assert descriptors() <= before
    assert Throttled("third", quota=QUOTA, store=store).limit()
    assert asyncio.run(_limit(AsyncThrottled("third", quota=QUOTA, store=store)))


async def _limit(limiter: AsyncThrottled) -> object:
    return await limiter.limit()


def test_a_store_closed_under_callers_fails_none_of_them(server: RedisServer) -> None:
    store = RedisStore(server.url)
    limiter = Throttled("key", quota=QUOTA, store=store)
    failed: list[BaseException] = []
    over = threading.Event()

    def work() -> None:
        try:
            while not over.is_set():
                assert limiter.limit()
        except BaseException as error:
            failed.append(error)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for _ in range(200):
        store.close()
    over.set()
    for thread in threads:
        thread.join(30)
    assert not failed


def test_a_forked_child_opens_a_connection_of_its_own(proxy: Proxy) -> None:
    limiter = Throttled("key", using="gcra", quota="1/h burst 30", store=RedisStore(proxy.url))
    assert limiter.limit()

    def work() -> bytes:
        return str(sum(bool(limiter.limit()) for _ in range(10))).encode()

    with child(work) as said:
        mine = sum(bool(limiter.limit()) for _ in range(10))
        assert said() == b"10"
    assert mine == 10
    assert limiter.peek().remaining == 9
    assert proxy.connections == 2


def test_a_fork_while_threads_decide_harms_neither_side(server: RedisServer) -> None:
    limiter = Throttled("key", quota=QUOTA, store=RedisStore(server.url))
    failed: list[BaseException] = []
    over = threading.Event()

    def work() -> None:
        try:
            while not over.is_set():
                assert limiter.limit()
        except BaseException as error:
            failed.append(error)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for _ in range(10):
        with child(lambda: b"yes" if all(limiter.limit() for _ in range(20)) else b"no") as said:
            assert said() == b"yes"
    over.set()
    for thread in threads:
        thread.join(30)
    assert not failed


def test_a_child_of_a_running_loop_has_loops_of_its_own(server: RedisServer) -> None:
    limiter = AsyncThrottled(
        "key", using="gcra", quota="1/h burst 30", store=RedisStore(server.url)
    )

    async def several() -> int:
        return sum([bool(await limiter.limit()) for _ in range(10)])

    async def main() -> None:
        assert await limiter.limit()

        def work() -> bytes:
            asyncio.events._set_running_loop(None)
            return str(asyncio.run(several())).encode()

        with child(work) as said:
            assert said() == b"10"
        assert await several() == 10

    asyncio.run(main())


@pytest.mark.parametrize("how", ["thread", "task"])
def test_decisions_leak_neither_memory_nor_descriptors(how: str, server: RedisServer) -> None:
    store = RedisStore(server.url)
    quota = f"{QUOTA}, 900000000/h"

    def by_thread(count: int) -> None:
        limiter = Throttled("key", quota=quota, store=store)
        for n in range(count // 2):
            assert limiter.limit(f"key {n}").state.limit
            limiter.peek("key")

    async def as_tasks(count: int) -> None:
        limiter = AsyncThrottled("key", quota=quota, store=store)
        for n in range(count // 100):
            await asyncio.gather(*(limiter.limit(f"key {n}") for _ in range(50)))
            await asyncio.gather(*(limiter.peek() for _ in range(50)))

    run: Callable[[int], None] = (
        by_thread if how == "thread" else lambda n: asyncio.run(as_tasks(n))
    )
    run(2_000)
    store.close()
    open_before, before = descriptors(), resident_kib()
    run(10_000)
    store.close()
    assert descriptors_settle_at(open_before) == open_before
    assert resident_kib() - before < 2_000


@pytest.mark.parametrize("how", ["thread", "task"])
def test_reconnecting_leaks_neither_memory_nor_descriptors(how: str, proxy: Proxy) -> None:
    store = RedisStore(proxy.url)
    sync = Throttled("key", quota=QUOTA, store=store)
    task = AsyncThrottled("key", quota=QUOTA, store=store)

    def survive(ask: Callable[[], object]) -> None:
        proxy.cut_reply("EVALSHA")
        with pytest.raises(StoreUnavailableError):
            ask()
        assert ask()

    async def main(count: int) -> None:
        for _ in range(count):
            proxy.cut_reply("EVALSHA")
            with pytest.raises(StoreUnavailableError):
                await task.limit()
            assert await task.limit()

    def run(count: int) -> None:
        if how == "task":
            asyncio.run(main(count))
        else:
            for _ in range(count):
                survive(sync.limit)

    run(20)
    store.close()
    before = resident_kib()
    seen = proxy.connections
    run(200)
    assert proxy.connections - seen >= 200
    assert resident_kib() - before < 4_000
    assert proxy.links <= 2


@pytest.mark.parametrize("how", ["thread", "task"])
def test_a_thousand_refused_connections_leak_nothing(how: str) -> None:
    def refused() -> None:
        with pytest.raises(StoreUnavailableError):
            Throttled("key", quota=QUOTA, store=RedisStore("redis://127.0.0.1:1")).limit()

    async def awaited(times: int) -> None:
        for _ in range(times):
            limiter = AsyncThrottled("key", quota=QUOTA, store=RedisStore("redis://127.0.0.1:1"))
            with pytest.raises(StoreUnavailableError):
                await limiter.limit()

    def several(times: int) -> None:
        if how == "task":
            asyncio.run(awaited(times))
        else:
            for _ in range(times):
                refused()

    several(200)
    descriptors_before, before = descriptors(), resident_kib()
    several(1_000)
    assert descriptors_settle_at(descriptors_before) == descriptors_before
    assert resident_kib() - before < 2_048


@pytest.mark.rounds
def test_failed_connections_leak_no_descriptor() -> None:
    before = descriptors()
    for _ in range(rounds(15, 100)):
        for url in ("redis://127.0.0.1:1", "unix:///nowhere", "rediss://127.0.0.1:1"):
            with pytest.raises(StoreUnavailableError):
                Throttled("key", quota=QUOTA, store=RedisStore(url)).limit()
    assert descriptors_settle_at(before) == before

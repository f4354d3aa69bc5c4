"""Event loops on a file: nothing blocks one, its executor stays the program's, and there is no
thread for each task or name.
"""

from __future__ import annotations

import asyncio
import sqlite3
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from headway import SQLiteStore
from headway.asyncio import Throttled
from headway.limiters import AsyncSemaphore, SyncSemaphore
from headway.limiters import _watcher as watching
from headway.smartratelimit import AsyncRateLimiter
from headway.store import AtomicStore

DEADLINE_S = 60.0


class Held:
    """Another process' connection that writes the file."""

    def __init__(self, path: Path) -> None:
        self._other = sqlite3.connect(path, timeout=10, isolation_level=None)
        self._other.execute("BEGIN IMMEDIATE")

    def release(self) -> None:
        self._other.execute("ROLLBACK")
        self._other.close()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "x.db"


async def within(work: Any) -> Any:
    return await asyncio.wait_for(work, DEADLINE_S)


def test_a_limiter_of_clients_goes_on_while_another_process_has_the_file(path: Path) -> None:
    """The loop itself frees the file: a loop that is blocked would wait in vain."""
    url = "https://a.example/x"

    async def main() -> None:
        limiter = AsyncRateLimiter(f"sqlite:///{path}", fail_closed=True)
        await limiter._enter("GET", url, {}, None)
        held = Held(path)
        asking = asyncio.ensure_future(limiter._enter("GET", url, {}, None))
        for _ in range(5):
            await asyncio.sleep(0.01)
        assert not asking.done()
        held.release()
        await within(asking)

    asyncio.run(main())


def test_tasks_that_wait_for_the_file_leave_the_executor_of_the_program_alone(path: Path) -> None:
    async def main() -> None:
        store = SQLiteStore(path)
        throttle = Throttled(using="fixed_window", quota="1000/d", store=store)
        await throttle.limit("key")
        held = Held(path)
        asking = [asyncio.ensure_future(throttle.limit("key")) for _ in range(100)]
        for _ in range(5):
            await asyncio.sleep(0.01)
        loop = asyncio.get_running_loop()
        assert await within(loop.run_in_executor(None, lambda: "done")) == "done"
        assert not any(each.done() for each in asking)
        held.release()
        await within(asyncio.gather(*asking))
        assert (await throttle.peek("key")).remaining == 1000 - 101

    asyncio.run(main())


def test_a_task_that_is_cancelled_before_its_turn_takes_nothing(path: Path) -> None:
    async def main() -> None:
        store = SQLiteStore(path)
        throttle = Throttled(using="fixed_window", quota="1000/d", store=store)
        await throttle.limit("key")
        held = Held(path)
        asking = [asyncio.ensure_future(throttle.limit("key")) for _ in range(20)]
        await asyncio.sleep(0.05)
        for each in asking[1:]:
            each.cancel()
        await asyncio.wait(asking[1:])
        held.release()
        await within(asking[0])
        assert (await throttle.peek("key")).remaining == 1000 - 2

    asyncio.run(main())


def test_many_tasks_at_a_semaphore_need_two_threads(path: Path, name: str) -> None:
    async def main() -> int:
        semaphore = AsyncSemaphore(name, 3, max_sleep=60, connection=SQLiteStore(path))
        most = 0

        async def visit() -> None:
            nonlocal most
            async with semaphore:
                most = max(most, threading.active_count())

        before = threading.active_count()
        await within(asyncio.gather(*(visit() for _ in range(150))))
        return most - before

    # One does what the tasks ask for, one looks for news, one keeps leases.
    assert asyncio.run(main()) <= 3


@pytest.fixture
def name() -> str:
    return "a name of these tests"


class Failing(AtomicStore):
    """A store of the user's own, whose disk may be gone."""

    def __init__(self) -> None:
        self.values: dict[bytes, bytes | None] = {}
        self.lock = threading.Lock()
        self.is_gone = False
        self.asked = 0

    def update(self, key: bytes, step: Callable[[bytes | None], Any]) -> Any:
        with self.lock:
            self.asked += 1
            if self.is_gone:
                raise OSError("the disk is gone")
            new, answer = step(self.values.get(key))
            self.values[key] = new
            return answer


def test_what_a_store_of_ones_own_raises_is_for_the_task_that_waits(name: str) -> None:
    store = Failing()

    async def main() -> None:
        semaphore = AsyncSemaphore(name, 1, max_sleep=0, connection=store)
        async with semaphore:
            waiting = asyncio.ensure_future(semaphore.__aenter__())
            line: Any = semaphore._pool.permits.lines.of_loop()  # type: ignore[attr-defined]
            while not line.waiters:
                await asyncio.sleep(0.001)
            store.is_gone = True
            asked = store.asked
            with pytest.raises(OSError, match="the disk is gone"):
                await within(waiting)
            assert store.asked - asked < 50
            store.is_gone = False

    asyncio.run(main())


def test_while_nothing_happens_no_name_is_read(
    path: Path, monkeypatch: pytest.MonkeyPatch, eventually: Callable[..., None]
) -> None:
    monkeypatch.setattr(watching, "SURELY_S", 1e6)
    looks, reads = [0], [0]

    def count(method: str, counted: list[int]) -> None:
        original = getattr(SQLiteStore, method)

        def call(self: SQLiteStore, *words: Any) -> Any:
            counted[0] += 1
            return original(self, *words)

        monkeypatch.setattr(SQLiteStore, method, call)

    count("_data_version", looks)
    count("get", reads)
    store = SQLiteStore(path)
    semaphores = [SyncSemaphore(f"s{n}", 1, max_sleep=60, connection=store) for n in range(5)]
    for semaphore in semaphores:
        semaphore.__enter__()

    def visit(semaphore: SyncSemaphore) -> None:
        with semaphore:
            pass

    visitors = [threading.Thread(target=visit, args=(each,)) for each in semaphores]
    for visitor in visitors:
        visitor.start()
    watcher = watching.watcher_of(store)
    eventually(lambda: len(watcher._listeners) == 5, "five who listen")

    def fifty_looks() -> int:
        """How often names were read during fifty looks at the file. Once in two seconds those in
        line say that they wait still, which is a change."""
        before, began = reads[0], looks[0]
        eventually(lambda: looks[0] >= began + 50, "fifty looks")
        return reads[0] - before

    assert min(fifty_looks() for _ in range(5)) == 0
    for semaphore in semaphores:
        semaphore.__exit__(None, None, None)
    for visitor in visitors:
        visitor.join(DEADLINE_S)
        assert not visitor.is_alive()


def test_a_listeners_connection_is_closed_when_nobody_has_waited_for_a_while(
    path: Path, monkeypatch: pytest.MonkeyPatch, eventually: Callable[..., None]
) -> None:
    monkeypatch.setattr("headway.limiters._line.QUIET", 0.05)
    store = SQLiteStore(path)
    threaded = SyncSemaphore("threads", 1, max_sleep=60, connection=store)
    with threaded:
        visitor = threading.Thread(target=lambda: threaded.__enter__())
        visitor.start()
        line: Any = threaded._pool.permits.lines.of_threads()  # type: ignore[attr-defined]
        eventually(lambda: line._blocking is not None, "a connection to listen on")
    visitor.join(DEADLINE_S)
    eventually(lambda: line._blocking is None, "the connection is closed")

    async def main() -> None:
        semaphore = AsyncSemaphore("tasks", 1, max_sleep=60, connection=store)
        async with semaphore:
            waiting = asyncio.ensure_future(semaphore.__aenter__())
            line: Any = semaphore._pool.permits.lines.of_loop()  # type: ignore[attr-defined]
            while line._blocking is None:
                await asyncio.sleep(0.001)
        await within(waiting)

        async def closed() -> None:
            while line._blocking is not None:
                await asyncio.sleep(0.005)

        await within(closed())

    asyncio.run(main())

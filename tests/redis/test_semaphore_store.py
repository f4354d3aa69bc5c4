"""Semaphores on a server, in one process: as a thread uses them and as a task does."""

# ruff: noqa: F811 (fixtures come from semaphore_help)

from __future__ import annotations

import asyncio
import gc
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest
from semaphore_help import commands, held, in_line, until, way  # noqa: F401
from servers import RedisServer

from headway import MemoryStore
from headway.limiters import (
    AsyncSemaphore,
    MaxSleepExceededError,
    SyncSemaphore,
    _line,
    _permits,
)
from headway.store import RedisStore


@pytest.fixture
def store(server: RedisServer) -> RedisStore:
    return RedisStore(server.url)


def test_a_permit_is_held_in_the_block_and_free_after_it(
    way: Any, store: RedisStore, server: RedisServer
) -> None:
    semaphore = way.kind("name", 1, connection=store)
    assert way.run(semaphore, lambda: held(server)) == 1
    assert held(server) == 0
    assert (semaphore.capacity, semaphore._pool.held, semaphore._pool.waiting) == (1, 0, 0)


def test_leaving_by_an_error_gives_the_permit_back(
    way: Any, store: RedisStore, server: RedisServer
) -> None:
    def fail() -> None:
        raise KeyError("own")

    with pytest.raises(KeyError, match="own"):
        way.run(way.kind("name", 1, connection=store), fail)
    assert held(server) == 0


def test_who_waits_too_long_is_told_who_holds_and_who_waits(
    way: Any, store: RedisStore, server: RedisServer, eventually: Any
) -> None:
    with SyncSemaphore("name", 1, connection=store):
        start = time.monotonic()
        with pytest.raises(MaxSleepExceededError) as caught:
            way.run(way.kind("name", 1, max_sleep=0.2, connection=store))
        assert time.monotonic() - start >= 0.2
        assert str(caught.value) == (
            "Semaphore 'name': no permit in max_sleep=0.2 s; 1 of 1 are held, 0 are waiting."
        )
        eventually(lambda: in_line(server) == 0, "an empty line")


def test_a_url_and_redis_url_name_the_same_permits(
    way: Any, server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("REDIS_URL", server.url)
    with SyncSemaphore("name", 1, connection=server.url):
        with pytest.raises(MaxSleepExceededError):
            way.run(way.kind("name", 1, max_sleep=0.01))


@pytest.mark.parametrize("name", ["}", "\\", "{x}", "a b", "naïve ✓", "}{", "a" * 1000])
def test_any_name_will_do(way: Any, store: RedisStore, server: RedisServer, name: str) -> None:
    keys: list[str] = []
    way.run(
        way.kind(name, 1, connection=store), lambda: keys.extend(server.command("KEYS", "*held"))
    )
    mark = "\\" if name[0] in "}\\" else ""
    assert keys == [f"limiters:v1:semaphore:{{{mark}{name}}}:held"]


def test_threads_and_tasks_of_several_loops_are_served_in_the_order_of_asking(
    store: RedisStore, server: RedisServer, start: Callable[..., Any]
) -> None:
    order: list[int] = []

    def thread(number: int) -> None:
        with SyncSemaphore("name", 1, connection=store):
            order.append(number)

    async def task(number: int) -> None:
        async with AsyncSemaphore("name", 1, connection=store):
            order.append(number)

    workers = []
    with SyncSemaphore("name", 1, connection=store):
        for number in range(9):
            if number % 2:
                workers.append(start(lambda number=number: thread(number)))
            else:
                workers.append(start(lambda number=number: asyncio.run(task(number))))
            until(lambda number=number: in_line(server) == number + 1, "another one in line")
    for worker in workers:
        worker.result()
    assert order == list(range(9))


def test_no_more_than_the_capacity_are_inside_and_everybody_is_told_of_his_turn(
    store: RedisStore, start: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    # Without the looks that would find a permit of which somebody was not told, and without the
    # beat after which it is taken from him.
    monkeypatch.setattr(_line, "LOOK", 60.0)
    monkeypatch.setattr(_permits, "BEAT", 60.0)
    inside = [0, 0]
    lock = threading.Lock()

    def visit(change: int) -> None:
        with lock:
            inside[0] += change
            inside[1] = max(inside)

    def thread() -> int:
        semaphore = SyncSemaphore("name", 3, connection=store)
        for _ in range(15):
            with semaphore:
                visit(1)
                visit(-1)
        return 15

    async def tasks() -> int:
        semaphore = AsyncSemaphore("name", 3, connection=store)

        async def work() -> None:
            async with semaphore:
                visit(1)
                await asyncio.sleep(0)
                visit(-1)

        await asyncio.gather(*(work() for _ in range(60)))
        return 60

    workers = [start(thread) for _ in range(6)]
    workers += [start(lambda: asyncio.run(tasks())) for _ in range(2)]
    assert sum(worker.result() for worker in workers) == 6 * 15 + 2 * 60
    assert inside[0] == 0
    assert 1 <= inside[1] <= 3


@pytest.mark.parametrize("kind", ["threads", "tasks"])
def test_a_crowd_that_waits_asks_the_server_next_to_nothing(
    store: RedisStore, server: RedisServer, start: Callable[..., Any], kind: str
) -> None:
    def thread() -> None:
        with SyncSemaphore("name", 1, connection=store):
            pass

    async def crowd() -> None:
        semaphore = AsyncSemaphore("name", 1, connection=store)

        async def enter() -> None:
            async with semaphore:
                pass

        await asyncio.gather(*(enter() for _ in range(20)))

    with SyncSemaphore("name", 1, connection=store):
        before = commands(server)
        if kind == "threads":
            workers = [start(thread) for _ in range(20)]
        else:
            workers = [start(lambda: asyncio.run(crowd()))]
        until(lambda: in_line(server) == 20, "all in line")
        since = time.monotonic()
        time.sleep(1.0)  # this second is what is measured
        asked = commands(server) - before
        seconds = time.monotonic() - since
    for worker in workers:
        worker.result()
    print(f"20 {kind} in line for {seconds:.1f} s: {asked} commands")
    assert asked < 30 * seconds


def test_a_cancelled_waiter_leaves_the_line_and_the_next_one_comes(
    store: RedisStore, server: RedisServer
) -> None:
    async def main() -> None:
        semaphore = AsyncSemaphore("name", 1, connection=store)

        async def enter() -> str:
            async with semaphore:
                return "in"

        async with semaphore:
            first, second = asyncio.create_task(enter()), asyncio.create_task(enter())
            while await asyncio.to_thread(in_line, server) < 2:
                await asyncio.sleep(0.001)
            first.cancel()
            while await asyncio.to_thread(in_line, server) > 1:
                await asyncio.sleep(0.001)
        assert await second == "in"
        assert first.cancelled()

    asyncio.run(main())
    assert (held(server), in_line(server)) == (0, 0)


def test_a_waiter_cancelled_at_any_moment_costs_no_permit(
    store: RedisStore, server: RedisServer
) -> None:
    async def main() -> None:
        semaphore = AsyncSemaphore("name", 1, connection=store)

        async def enter() -> None:
            async with semaphore:
                await asyncio.sleep(0)

        for turn in range(60):
            tasks = [asyncio.create_task(enter()) for _ in range(3)]
            for _ in range(turn % 12):
                await asyncio.sleep(0.0002)
            tasks[turn % 3].cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    asyncio.run(main())
    until(lambda: held(server) == in_line(server) == 0, "all permits back", 8)


def test_a_holder_may_outlive_its_expiry(way: Any, store: RedisStore, server: RedisServer) -> None:
    def stay() -> None:
        other = SyncSemaphore("name", 1, max_sleep=1.0, connection=store)
        with pytest.raises(MaxSleepExceededError):
            other.__enter__()

    way.run(way.kind("name", 1, expiry=0.3, connection=store), stay)


def test_a_blocked_event_loop_keeps_its_permits(store: RedisStore, server: RedisServer) -> None:
    async def main() -> None:
        async with AsyncSemaphore("name", 1, expiry=0.3, connection=store):
            with pytest.raises(
                MaxSleepExceededError
            ):  # in this thread: nothing else of the loop runs
                SyncSemaphore("name", 1, max_sleep=1.0, connection=store).__enter__()

    asyncio.run(main())


def test_news_that_overtake_the_reply_to_a_newcomer_are_not_lost(
    store: RedisStore,
    server: RedisServer,
    start: Callable[..., Any],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(_line, "LOOK", 60.0)
    reply_is_read, entered = threading.Event(), threading.Event()
    ask = _permits.Permits.ask

    def slow_for_one(*args: Any) -> Any:
        answer = ask(*args)
        if threading.current_thread() is newcomer and args[2][0][0] == "enter":
            assert reply_is_read.wait(30)
        return answer

    def enter() -> None:
        with SyncSemaphore("name", 1, connection=store):
            if threading.current_thread() is newcomer:
                entered.set()

    def newcomer_enters() -> None:
        nonlocal newcomer
        newcomer = threading.current_thread()
        enter()

    newcomer: threading.Thread | None = None
    monkeypatch.setattr(_permits.Permits, "ask", slow_for_one)
    workers = []
    with SyncSemaphore("name", 1, connection=store):
        for number, work in enumerate((enter, newcomer_enters, enter)):
            workers.append(start(work))
            until(lambda number=number: in_line(server) == number + 1, "another one in line")
    until(lambda: in_line(server) == 1 and held(server) == 1, "the newcomer's turn")
    workers[0].result()
    until(lambda: server.command("KEYS", "*news*") == [], "the last one to have read the news")
    reply_is_read.set()
    assert entered.wait(30)
    for worker in workers:
        worker.result()


def test_a_permit_got_by_waiting_is_kept_too(
    way: Any,
    store: RedisStore,
    server: RedisServer,
    start: Callable[..., Any],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(_permits, "BEAT", 0.5)  # as long as it is his without more
    monkeypatch.setattr(_line, "LOOK", 0.2)
    semaphore = way.kind("name", 1, expiry=0.4, connection=store)
    entered, go = threading.Event(), threading.Event()

    def stay() -> None:
        entered.set()
        assert go.wait(30)

    with SyncSemaphore("name", 1, connection=store):
        worker = start(lambda: way.run(semaphore, stay))
        until(lambda: in_line(server) == 1, "one in line")
    assert entered.wait(30)
    with pytest.raises(MaxSleepExceededError):
        SyncSemaphore("name", 1, max_sleep=1.2, connection=store).__enter__()
    go.set()
    worker.result()
    assert held(server) == 0


def test_a_thread_that_ends_in_the_block_frees_its_permit_after_expiry(
    store: RedisStore, start: Callable[..., Any]
) -> None:
    semaphore = SyncSemaphore("name", 1, expiry=0.5, connection=store)
    entered = time.monotonic()
    start(semaphore.__enter__).result()
    with SyncSemaphore("name", 1, connection=store):
        assert 0.45 <= time.monotonic() - entered < 25


def test_a_leave_ends_the_own_permit_first_and_then_that_of_one_who_is_gone(
    store: RedisStore, server: RedisServer, start: Callable[..., Any]
) -> None:
    semaphore = SyncSemaphore("name", 3, expiry=30, connection=store)
    start(semaphore.__enter__).result()
    gone = server.command("ZRANGE", "limiters:v1:semaphore:{name}:held", 0, -1)
    semaphore.__enter__()
    semaphore.__exit__(None, None, None)
    assert server.command("ZRANGE", "limiters:v1:semaphore:{name}:held", 0, -1) == gone
    semaphore.__exit__(None, None, None)
    assert held(server) == 0
    semaphore.__exit__(None, None, None)  # as often as it was entered, and no more


def test_a_semaphore_may_be_entered_several_times_by_one(
    way: Any, store: RedisStore, server: RedisServer
) -> None:
    semaphore = way.kind("name", 2, connection=store)
    if way.kind is SyncSemaphore:
        with semaphore, semaphore:
            assert held(server) == 2
    else:

        async def main() -> None:
            async with semaphore, semaphore:
                assert held(server) == 2

        asyncio.run(main())
    assert held(server) == 0


def test_a_generator_that_is_dropped_in_the_block_gives_its_permit_back(
    store: RedisStore, server: RedisServer
) -> None:
    semaphore = AsyncSemaphore("name", 1, connection=store)

    async def numbers() -> Any:
        async with semaphore:
            yield 1
            yield 2

    async def main() -> None:
        generator = numbers()
        assert await anext(generator) == 1
        del generator
        gc.collect()
        for _ in range(3000):
            if await asyncio.to_thread(held, server) == 0:
                return
            await asyncio.sleep(0.002)
        pytest.fail("it is held still")

    asyncio.run(main())


def test_closing_the_store_hangs_up_and_harms_nobody(way: Any, store: RedisStore) -> None:
    semaphore = way.kind("name", 1, connection=store)
    way.run(semaphore, store.close)
    way.run(semaphore)


def test_a_waiter_gets_its_permit_though_the_store_is_closed_meanwhile(
    way: Any, store: RedisStore, server: RedisServer, start: Callable[..., Any]
) -> None:
    semaphore = way.kind("name", 1, connection=store)
    with SyncSemaphore("name", 1, connection=store):
        worker = start(lambda: way.run(semaphore, lambda: "in"))
        until(lambda: in_line(server) == 1, "one in line")
        store.close()
    assert worker.result() == "in"


def test_the_first_definition_of_a_name_holds_in_the_process(
    store: RedisStore, caplog: pytest.LogCaptureFixture
) -> None:
    first = SyncSemaphore("name", 2, connection=store)
    assert AsyncSemaphore("name", 3, connection=store).capacity == 2
    assert "'name' is defined twice" in caplog.text
    del first


def test_a_fallback_store_has_permits_of_its_own(way: Any, start_server: Any) -> None:
    server = start_server()
    store = RedisStore(server.url, on_error=MemoryStore())
    semaphore = way.kind("name", 1, max_sleep=0.05, connection=store)
    other = way.kind("name", 1, max_sleep=0.05, connection=store)
    way.run(semaphore)
    server.kill()

    def blocked() -> None:
        with pytest.raises(MaxSleepExceededError):
            way.run(other)

    way.run(semaphore, blocked)
    way.run(other)
    assert store.failures >= 3
    server.start()
    until(lambda: way.run(semaphore, lambda: held(server)) == 1, "the server's permits again")


def test_a_permit_left_by_another_thread_is_free_though_a_dead_one_s_has_lapsed(
    store: RedisStore, server: RedisServer
) -> None:
    semaphore = SyncSemaphore("name", 1, max_sleep=20, expiry=1.5, connection=store)

    def in_thread(work: Callable[..., Any], *args: Any) -> None:
        thread = threading.Thread(target=work, args=args)
        thread.start()
        thread.join()

    in_thread(semaphore.__enter__)  # has a permit and is gone
    with semaphore:  # once that has lapsed
        pass
    semaphore.__enter__()
    in_thread(semaphore.__exit__, None, None, None)
    assert held(server) == 0


def test_a_permit_awaited_under_wait_for_is_kept_while_its_block_runs(
    store: RedisStore, server: RedisServer
) -> None:
    """asyncio.wait_for() of Python 3.11 and earlier awaits in a task that ends at once."""
    semaphore = AsyncSemaphore("name", 1, max_sleep=20, expiry=1.5, connection=store)
    inside: list[int] = []
    most = 0

    async def visit(number: int) -> None:
        nonlocal most
        await asyncio.wait_for(semaphore.__aenter__(), 30)
        inside.append(number)
        most = max(most, len(inside))
        await asyncio.sleep(2.5)
        inside.remove(number)
        await semaphore.__aexit__(None, None, None)

    async def main() -> None:
        await asyncio.gather(visit(1), visit(2))

    asyncio.run(main())
    assert most == 1
    assert held(server) == 0

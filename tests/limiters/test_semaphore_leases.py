"""A permit is a lease: who holds it and lives keeps it, however long; who is gone without having
left loses it after `expiry`, and not before.

Nobody looks at a holder before a permit is missing, so every test has somebody waiting.
"""

from __future__ import annotations

import asyncio
import gc
import time
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from headway import MemoryStore, VirtualClock
from headway.limiters import AsyncSemaphore, SyncSemaphore

Start = Callable[[Callable[[], Any]], Any]
Eventually = Callable[..., None]
Turns = Callable[[], Awaitable[None]]
EXPIRY = 30


@pytest.fixture
def semaphore(name: str, store: MemoryStore) -> AsyncSemaphore:
    """One permit, leases of 30 seconds, and no end of waiting."""
    return AsyncSemaphore(name, 1, max_sleep=0, expiry=EXPIRY, connection=store)


@pytest.fixture
def for_threads(semaphore: AsyncSemaphore, store: MemoryStore) -> SyncSemaphore:
    """The same permit, for threads."""
    return SyncSemaphore(semaphore.name, 1, max_sleep=0, expiry=EXPIRY, connection=store)


def waiter(
    semaphore: SyncSemaphore, start: Start, eventually: Eventually, name: object = "waiter"
) -> Any:
    """A thread that stands in line, and leaves the block as soon as it is in it."""

    def enter() -> object:
        with semaphore:
            return name

    before = semaphore._pool.waiting
    worker = start(enter)
    eventually(lambda: semaphore._pool.waiting > before, "a thread in line")
    return worker


async def hold(semaphore: AsyncSemaphore, until: asyncio.Event) -> None:
    async with semaphore:
        await until.wait()


class TestThreads:
    def test_the_permit_of_a_thread_that_died_is_free_after_expiry_and_not_before(
        self, for_threads: SyncSemaphore, clock: VirtualClock, start: Start, eventually: Eventually
    ) -> None:
        start(for_threads.__enter__).result()
        worker = waiter(for_threads, start, eventually)
        clock.advance(ns=EXPIRY * 10**9 - 1)
        worker.join(0.05)
        assert worker.is_alive()
        clock.advance(ns=1)
        assert worker.result() == "waiter"
        assert for_threads._pool.held == 0

    def test_a_newcomer_finds_a_permit_that_lapsed_before_it_came(
        self, for_threads: SyncSemaphore, clock: VirtualClock, start: Start
    ) -> None:
        start(for_threads.__enter__).result()
        clock.advance(EXPIRY)
        with for_threads:
            assert for_threads._pool.held == 1

    def test_a_thread_that_lives_keeps_its_permit_with_waiters_pressing(
        self, for_threads: SyncSemaphore, clock: VirtualClock, start: Start, eventually: Eventually
    ) -> None:
        with for_threads:
            workers = [waiter(for_threads, start, eventually, number) for number in range(3)]
            for _ in range(20):
                clock.advance(EXPIRY * 1.5)
                workers[0].join(0.005)
                assert for_threads._pool.held == 1
            assert all(worker.is_alive() for worker in workers)
        assert [worker.result() for worker in workers] == [0, 1, 2]

    def test_after_another_term_a_holder_that_died_meanwhile_is_found(
        self, for_threads: SyncSemaphore, clock: VirtualClock, start: Start, eventually: Eventually
    ) -> None:
        end: list[bool] = []

        def holder() -> None:
            for_threads.__enter__()
            eventually(lambda: end, "the holder's end")

        holding = start(holder)
        eventually(lambda: for_threads._pool.held == 1, "the permit held")
        worker = waiter(for_threads, start, eventually)
        clock.advance(EXPIRY)
        worker.join(0.05)
        assert worker.is_alive()
        end.append(True)
        holding.result()
        clock.advance(EXPIRY)
        assert worker.result() == "waiter"

    def test_a_dead_holder_is_found_by_real_time_alone(
        self, name: str, start: Start, eventually: Eventually
    ) -> None:
        semaphore = SyncSemaphore(name, 1, max_sleep=0, expiry=0.2, connection=MemoryStore())
        began = time.monotonic()
        start(semaphore.__enter__).result()
        assert waiter(semaphore, start, eventually).result() == "waiter"
        assert time.monotonic() - began >= 0.2

    def test_only_the_permits_of_the_dead_are_freed(
        self,
        name: str,
        store: MemoryStore,
        clock: VirtualClock,
        start: Start,
        eventually: Eventually,
    ) -> None:
        semaphore = SyncSemaphore(name, 4, max_sleep=0, expiry=EXPIRY, connection=store)
        with semaphore, semaphore:
            for _ in range(2):
                start(semaphore.__enter__).result()
            worker = waiter(semaphore, start, eventually)
            clock.advance(EXPIRY)
            assert worker.result() == "waiter"
            eventually(lambda: semaphore._pool.held <= 3, "the waiter has left")
            assert semaphore._pool.held >= 2

    def test_each_lease_has_the_expiry_of_whom_took_it(
        self,
        name: str,
        store: MemoryStore,
        clock: VirtualClock,
        start: Start,
        eventually: Eventually,
    ) -> None:
        long = SyncSemaphore(name, 2, max_sleep=0, expiry=100, connection=store)
        short = SyncSemaphore(name, 2, max_sleep=0, expiry=10, connection=store)
        start(long.__enter__).result()
        start(short.__enter__).result()
        worker = waiter(long, start, eventually)
        clock.advance(10)
        assert worker.result() == "waiter"
        assert long._pool.held == 1


class TestTasks:
    def test_a_task_that_is_not_done_keeps_its_permit_with_waiters_pressing(
        self, semaphore: AsyncSemaphore, clock: VirtualClock, turns: Turns
    ) -> None:
        async def main() -> None:
            end = asyncio.Event()
            holding = asyncio.create_task(hold(semaphore, end))
            await turns()
            waiting = [asyncio.create_task(hold(semaphore, end)) for _ in range(3)]
            await turns()
            for _ in range(20):
                clock.advance(EXPIRY * 1.5)
                await turns()
                assert (semaphore._pool.held, semaphore._pool.waiting) == (1, 3)
            end.set()
            await asyncio.gather(holding, *waiting)

        asyncio.run(main())

    def test_the_permit_of_a_task_that_ended_without_leaving_is_free_after_expiry(
        self, semaphore: AsyncSemaphore, clock: VirtualClock, turns: Turns
    ) -> None:
        async def forgets() -> None:
            await semaphore.__aenter__()

        async def main() -> None:
            forgetful = asyncio.create_task(forgets())
            await forgetful  # it is done, and still referenced
            waiting = asyncio.ensure_future(semaphore.__aenter__())
            await turns()
            clock.advance(ns=EXPIRY * 10**9 - 1)
            await turns()
            assert not waiting.done()
            clock.advance(ns=1)
            await waiting

        asyncio.run(main())

    def test_permits_that_lapse_together_go_to_those_who_wait_in_order(
        self, name: str, store: MemoryStore, room: Any, clock: VirtualClock, turns: Turns
    ) -> None:
        semaphore = AsyncSemaphore(name, 3, max_sleep=0, expiry=EXPIRY, connection=store)

        async def forgets() -> None:
            await semaphore.__aenter__()

        async def comes(number: int) -> None:
            async with semaphore:
                room.enter(number)
                await asyncio.Event().wait()

        async def main() -> None:
            for _ in range(3):
                await asyncio.create_task(forgets())
            tasks = [asyncio.create_task(comes(number)) for number in range(6)]
            await turns()
            clock.advance(EXPIRY)
            await turns()
            assert room.names == [0, 1, 2]
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

        asyncio.run(main())

    def test_a_task_that_was_destroyed_frees_its_permit(
        self, semaphore: AsyncSemaphore, clock: VirtualClock, turns: Turns
    ) -> None:
        """Nothing refers to what it waits for, so nothing refers to it: the collector takes it."""

        async def drop_a_holder() -> None:
            task = asyncio.create_task(hold(semaphore, asyncio.Event()))
            task._log_destroy_pending = False  # type: ignore[attr-defined]
            await turns()
            assert semaphore._pool.held == 1

        async def main() -> None:
            await drop_a_holder()
            await turns()
            gc.collect()
            waiting = asyncio.ensure_future(semaphore.__aenter__())
            await turns()
            clock.advance(EXPIRY)
            await asyncio.wait_for(waiting, 10)

        asyncio.run(main())

    def test_the_holders_of_a_closed_loop_free_their_permits_after_expiry(
        self,
        semaphore: AsyncSemaphore,
        for_threads: SyncSemaphore,
        clock: VirtualClock,
        turns: Turns,
        start: Start,
        eventually: Eventually,
    ) -> None:
        kept: list[Any] = []

        async def main() -> None:
            kept.append(asyncio.create_task(hold(semaphore, asyncio.Event())))
            kept[0]._log_destroy_pending = False
            await turns()

        loop = asyncio.new_event_loop()
        loop.run_until_complete(main())
        loop.close()
        worker = waiter(for_threads, start, eventually)
        clock.advance(ns=EXPIRY * 10**9 - 1)
        worker.join(0.05)
        assert worker.is_alive()
        clock.advance(ns=1)
        assert worker.result() == "waiter"
        assert not kept[0].done()

    def test_the_late_exit_of_one_that_was_taken_for_gone_frees_nobody_else_s_permit(
        self, semaphore: AsyncSemaphore, clock: VirtualClock, turns: Turns
    ) -> None:
        """A task enters and ends; its context is left much later, when another holds the permit."""

        async def enter() -> None:
            await semaphore.__aenter__()

        async def main() -> None:
            await asyncio.create_task(enter())
            end = asyncio.Event()
            second = asyncio.create_task(hold(semaphore, end))
            await turns()
            clock.advance(EXPIRY)
            await turns()
            await semaphore.__aexit__(None, None, None)  # that of the first
            assert semaphore._pool.held == 1
            third = asyncio.create_task(hold(semaphore, end))
            await turns()
            assert (semaphore._pool.held, semaphore._pool.waiting) == (1, 1)
            end.set()
            await asyncio.gather(second, third)
            assert semaphore._pool.held == 0

        asyncio.run(main())


class TestNeverMoreThanThereAre:
    """A permit that is given back on behalf of one who is gone must not be freed again by expiry:
    then more than `capacity` would be in the block.
    """

    @pytest.fixture
    def two(self, name: str, store: MemoryStore) -> AsyncSemaphore:
        return AsyncSemaphore(name, 2, max_sleep=0, expiry=EXPIRY, connection=store)

    async def crowd(
        self, two: AsyncSemaphore, room: Any, clock: VirtualClock, turns: Turns, between: Any
    ) -> None:
        """One enters, `between` takes a permit and gives it back, two more come; time passes."""
        end = asyncio.Event()

        async def visit(name: str) -> None:
            async with two:
                room.enter(name)
                await end.wait()
                room.leave(name)

        tasks = [asyncio.create_task(visit("first"))]
        await turns()
        await between()
        await turns()
        gc.collect()
        assert two._pool.held == 1
        for name in ("second", "third"):
            tasks.append(asyncio.create_task(visit(name)))
            await turns()
        for _ in range(3):
            clock.advance(EXPIRY + 1)
            await turns()
            assert room.names == ["first", "second"]
        end.set()
        await asyncio.gather(*tasks)
        assert two._pool.held == 0

    def test_after_a_task_was_destroyed(
        self, two: AsyncSemaphore, room: Any, clock: VirtualClock, turns: Turns
    ) -> None:
        async def destroy_a_holder() -> None:
            task = asyncio.create_task(hold(two, asyncio.Event()))
            task._log_destroy_pending = False  # type: ignore[attr-defined]
            await turns()
            assert two._pool.held == 2

        asyncio.run(self.crowd(two, room, clock, turns, destroy_a_holder))

    def test_after_a_permit_was_given_back_by_another_task(
        self, two: AsyncSemaphore, room: Any, clock: VirtualClock, turns: Turns
    ) -> None:
        async def enter() -> None:
            await two.__aenter__()

        async def leave() -> None:
            await two.__aexit__(None, None, None)

        async def hand_on() -> None:
            await asyncio.create_task(enter())
            await asyncio.create_task(leave())

        asyncio.run(self.crowd(two, room, clock, turns, hand_on))


def test_a_coroutine_that_the_collector_closes_gives_back_its_own_permit() -> None:
    """It is closed in the midst of another task, which holds a permit too and keeps it."""
    clock = VirtualClock(10**18)
    semaphore = AsyncSemaphore(
        "collected", 2, max_sleep=0, expiry=30, connection=MemoryStore(clock=clock)
    )
    inside: set[str] = set()

    async def visit(name: str, end: asyncio.Event, collects: bool = False) -> None:
        async with semaphore:
            inside.add(name)
            if collects:
                gc.collect()
                inside.discard("lost")
            await end.wait()
            inside.discard(name)

    async def turns() -> None:
        for _ in range(15):
            await asyncio.sleep(0)

    async def main() -> None:
        lost = asyncio.create_task(visit("lost", asyncio.Event()))
        lost._log_destroy_pending = False  # type: ignore[attr-defined]
        await turns()
        del lost
        end = asyncio.Event()
        tasks = [asyncio.create_task(visit("first", end, True))]
        await turns()
        for name in ("second", "third"):
            tasks.append(asyncio.create_task(visit(name, end)))
            await turns()
        for _ in range(3):
            clock.advance(31)
            await turns()
        assert inside == {"first", "second"}
        end.set()
        await asyncio.gather(*tasks)

    gc.disable()
    try:
        asyncio.run(main())
    finally:
        gc.enable()

"""`AsyncSemaphore`: never more tasks in the block than its capacity, first come first served, and
no permit is lost to a cancellation, whenever it comes.
"""

from __future__ import annotations

import asyncio
import gc
import random
import time
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headway import MemoryStore, VirtualClock
from headway.limiters import AsyncSemaphore, MaxSleepExceededError, SyncSemaphore

Start = Callable[[Callable[[], Any]], Any]
Eventually = Callable[..., None]
Turns = Callable[[], Awaitable[None]]


async def visit(semaphore: AsyncSemaphore, room: Any, name: object, until: asyncio.Event) -> None:
    """Holds a permit until the event is set."""
    async with semaphore:
        room.enter(name)
        try:
            await until.wait()
        finally:
            room.leave(name)


def counts(semaphore: AsyncSemaphore) -> tuple[int, int]:
    """How many hold a permit, and how many wait."""
    return semaphore._pool.held, semaphore._pool.waiting


@pytest.mark.parametrize("capacity", [1, 3, 10])
def test_one_instance_used_from_many_tasks_at_once_is_right(
    capacity: int, name: str, room: Any
) -> None:
    semaphore = AsyncSemaphore(name, capacity, max_sleep=60, connection=MemoryStore())

    async def work(number: int) -> None:
        for _ in range(5):
            async with semaphore:
                room.enter(number)
                await asyncio.sleep(random.choice([0, 0, 0.0001]))
                room.leave(number)

    async def main() -> None:
        await asyncio.gather(*[work(number) for number in range(200)])

    asyncio.run(main())
    assert len(room.visits) == 1000
    assert room.most == capacity
    assert counts(semaphore) == (0, 0)


def test_tasks_enter_in_the_order_in_which_they_came(
    name: str, store: MemoryStore, room: Any
) -> None:
    semaphore = AsyncSemaphore(name, 3, connection=store)

    async def main() -> None:
        never = asyncio.Event()
        never.set()
        await asyncio.gather(*[visit(semaphore, room, number, never) for number in range(50)])

    asyncio.run(main())
    assert room.visits == list(range(50))


def test_the_permit_goes_to_who_waits_and_not_to_who_comes(
    name: str, store: MemoryStore, room: Any, turns: Turns
) -> None:
    semaphore = AsyncSemaphore(name, 1, connection=store)

    async def main() -> None:
        ends = [asyncio.Event() for _ in range(3)]
        first = asyncio.create_task(visit(semaphore, room, 0, ends[0]))
        await turns()
        second = asyncio.create_task(visit(semaphore, room, 1, ends[1]))
        await turns()
        ends[0].set()
        await first
        third = asyncio.create_task(visit(semaphore, room, 2, ends[2]))
        await turns()
        assert room.names == [1]
        ends[1].set()
        ends[2].set()
        await asyncio.gather(second, third)

    asyncio.run(main())


def test_a_wait_ends_after_max_sleep_and_not_before(
    name: str, clock: VirtualClock, store: MemoryStore, turns: Turns
) -> None:
    semaphore = AsyncSemaphore(name, 1, max_sleep=5, connection=store)

    async def main() -> None:
        async with semaphore:
            task = asyncio.ensure_future(semaphore.__aenter__())
            await turns()
            clock.advance(ns=5 * 10**9 - 1)
            await turns()
            assert not task.done()
            clock.advance(ns=1)
            with pytest.raises(MaxSleepExceededError) as caught:
                await task
            assert name in str(caught.value)
            assert "max_sleep=5" in str(caught.value)
        assert counts(semaphore) == (0, 0)

    asyncio.run(main())


def test_a_wait_ends_after_max_sleep_in_real_time(name: str) -> None:
    semaphore = AsyncSemaphore(name, 1, max_sleep=0.1, connection=MemoryStore())

    async def main() -> float:
        async with semaphore:
            began = time.monotonic()
            with pytest.raises(MaxSleepExceededError):
                await semaphore.__aenter__()
            return time.monotonic() - began

    assert asyncio.run(main()) >= 0.1


def test_a_max_sleep_of_nothing_waits_without_end(
    name: str, clock: VirtualClock, store: MemoryStore, room: Any, turns: Turns
) -> None:
    semaphore = AsyncSemaphore(name, 1, max_sleep=0, connection=store)

    async def main() -> None:
        end = asyncio.Event()
        tasks = [asyncio.create_task(visit(semaphore, room, n, end)) for n in range(2)]
        await turns()
        clock.advance(86_400 * 365)
        await turns()
        assert room.names == [0]
        end.set()
        await asyncio.gather(*tasks)

    asyncio.run(main())
    assert room.visits == [0, 1]


@pytest.mark.parametrize("number", range(1, 5))
def test_a_task_that_is_cancelled_in_line_leaves_it_to_the_others(
    number: int, name: str, store: MemoryStore, room: Any, turns: Turns
) -> None:
    semaphore = AsyncSemaphore(name, 1, connection=store)

    async def main() -> None:
        end = asyncio.Event()
        tasks = [asyncio.create_task(visit(semaphore, room, n, end)) for n in range(5)]
        await turns()
        tasks[number].cancel()
        await turns()
        assert counts(semaphore) == (1, 3)
        end.set()
        await asyncio.gather(*tasks, return_exceptions=True)

    asyncio.run(main())
    assert room.visits == [n for n in range(5) if n != number]
    assert counts(semaphore) == (0, 0)


@pytest.mark.parametrize("passed", range(5), ids=lambda passed: f"{passed} turns later")
def test_a_cancellation_after_the_permit_was_handed_over_loses_nothing(
    passed: int, name: str, store: MemoryStore, room: Any, turns: Turns
) -> None:
    """The permit is released, the next has it, and is cancelled before, or after, it has run."""
    semaphore = AsyncSemaphore(name, 1, connection=store)

    async def main() -> None:
        end = asyncio.Event()
        await semaphore.__aenter__()
        chosen = asyncio.create_task(visit(semaphore, room, "chosen", asyncio.Event()))
        await turns()
        other = asyncio.create_task(visit(semaphore, room, "other", end))
        await turns()
        await semaphore.__aexit__(None, None, None)
        for _ in range(passed):
            await asyncio.sleep(0)
        chosen.cancel()
        with pytest.raises(asyncio.CancelledError):
            await chosen
        await turns()
        assert room.names == ["other"]
        assert counts(semaphore) == (1, 0)
        end.set()
        await other

    asyncio.run(main())
    assert counts(semaphore) == (0, 0)


@given(
    capacity=st.integers(1, 3),
    script=st.lists(st.tuples(st.sampled_from(["come", "leave", "cancel"]), st.integers(0, 9))),
    run_between=st.booleans(),
)
def test_no_script_of_cancellations_loses_a_permit(
    capacity: int, script: list[tuple[str, int]], run_between: bool
) -> None:
    semaphore = AsyncSemaphore("script", capacity, max_sleep=0, connection=MemoryStore())
    inside: list[int] = []

    async def stay(number: int, end: asyncio.Event) -> None:
        async with semaphore:
            inside.append(number)
            assert len(inside) <= capacity
            try:
                await end.wait()
            finally:
                inside.remove(number)

    async def main() -> None:
        tasks, ends = [], []
        for what, number in script:
            if what == "come":
                ends.append(asyncio.Event())
                tasks.append(asyncio.create_task(stay(len(tasks), ends[-1])))
            elif tasks and what == "leave":
                ends[number % len(tasks)].set()
            elif tasks:
                tasks[number % len(tasks)].cancel()
            if run_between:
                await asyncio.sleep(0)
        for end in ends:
            end.set()
        for result in await asyncio.gather(*tasks, return_exceptions=True):
            assert result is None or isinstance(result, asyncio.CancelledError)

    asyncio.run(main())
    assert counts(semaphore) == (0, 0)


def test_wait_for_gives_up_its_place(
    name: str, store: MemoryStore, room: Any, turns: Turns
) -> None:
    semaphore = AsyncSemaphore(name, 1, max_sleep=0, connection=store)

    async def main() -> None:
        async with semaphore:
            with pytest.raises(asyncio.TimeoutError):
                await asyncio.wait_for(semaphore.__aenter__(), 0.01)
            assert counts(semaphore) == (1, 0)

    asyncio.run(main())
    assert counts(semaphore) == (0, 0)


def test_an_exception_in_the_block_passes_and_gives_the_permit_back(
    name: str, store: MemoryStore
) -> None:
    semaphore = AsyncSemaphore(name, 1, connection=store)

    async def main() -> None:
        with pytest.raises(LookupError):
            async with semaphore:
                raise LookupError
        assert counts(semaphore) == (0, 0)

    asyncio.run(main())


def test_one_task_may_hold_several_permits(name: str, store: MemoryStore) -> None:
    semaphore = AsyncSemaphore(name, 2, connection=store)

    async def main() -> None:
        async with semaphore, semaphore:
            assert counts(semaphore) == (2, 0)
        assert counts(semaphore) == (0, 0)

    asyncio.run(main())


def test_a_stack_of_contexts_may_be_left_in_another_task(
    name: str, store: MemoryStore, room: Any, turns: Turns
) -> None:
    semaphore = AsyncSemaphore(name, 1, connection=store)

    async def enter() -> AsyncExitStack:
        stack = AsyncExitStack()
        await stack.enter_async_context(semaphore)
        return stack

    async def main() -> None:
        end = asyncio.Event()
        end.set()
        stack = await asyncio.create_task(enter())
        waiting = asyncio.create_task(visit(semaphore, room, "waiting", end))
        await turns()
        assert counts(semaphore) == (1, 1)
        await asyncio.create_task(stack.aclose())
        await waiting

    asyncio.run(main())
    assert room.visits == ["waiting"]
    assert counts(semaphore) == (0, 0)


def test_threads_and_tasks_of_one_name_stand_in_one_line(
    name: str, store: MemoryStore, room: Any, turns: Turns, start: Start, eventually: Eventually
) -> None:
    semaphore = AsyncSemaphore(name, 1, connection=store)
    for_threads = SyncSemaphore(name, 1, connection=store)

    def thread() -> None:
        with for_threads:
            room.enter("thread")
            room.leave("thread")

    async def main() -> None:
        end = asyncio.Event()
        end.set()
        async with semaphore:
            first = asyncio.create_task(visit(semaphore, room, "task", end))
            await turns()
            worker = start(thread)
            eventually(lambda: semaphore._pool.waiting == 2, "the thread in line")
            last = asyncio.create_task(visit(semaphore, room, "another task", end))
            await turns()
        await asyncio.gather(first, last)
        worker.result()

    asyncio.run(main())
    assert room.visits == ["task", "thread", "another task"]


def test_several_event_loops_share_the_permits(name: str, room: Any, start: Start) -> None:
    semaphore = AsyncSemaphore(name, 2, max_sleep=60, connection=MemoryStore())

    async def work(number: int) -> None:
        async with semaphore:
            room.enter(number)
            await asyncio.sleep(0)
            room.leave(number)

    async def main() -> None:
        await asyncio.gather(*[work(number) for number in range(50)])

    workers = [start(lambda: asyncio.run(main())) for _ in range(3)]
    for worker in workers:
        worker.result()
    assert len(room.visits) == 150
    assert room.most <= 2
    assert counts(semaphore) == (0, 0)


def test_a_loop_that_is_closed_under_waiters_leaves_no_one_in_line(
    name: str, store: MemoryStore, room: Any, turns: Turns
) -> None:
    semaphore = AsyncSemaphore(name, 1, max_sleep=0, connection=store)

    async def leaves_waiters() -> None:
        tasks = [asyncio.create_task(visit(semaphore, room, n, asyncio.Event())) for n in range(10)]
        await turns()
        assert counts(semaphore) == (1, 9)
        for task in tasks:
            task._log_destroy_pending = False  # type: ignore[attr-defined]

    loop = asyncio.new_event_loop()
    loop.run_until_complete(leaves_waiters())
    loop.close()
    assert semaphore._pool.waiting == 0
    gc.collect()


def test_the_call_that_nobody_awaits_takes_no_permit(name: str, store: MemoryStore) -> None:
    semaphore = AsyncSemaphore(name, 1, connection=store)
    with pytest.warns(RuntimeWarning, match="never awaited"):
        semaphore.__aenter__()  # nothing holds it: it is gone here
    assert counts(semaphore) == (0, 0)


def test_it_is_not_for_with(name: str, store: MemoryStore) -> None:
    semaphore: Any = AsyncSemaphore(name, 1, connection=store)
    with pytest.raises(AttributeError):
        semaphore.__enter__  # noqa: B018

"""One line for all: tasks of any event loop and threads that share a store take turns as they came.

An event loop that is blocked by its own user must not hold up those behind its task. In virtual
time a thread or a loop has to be awaited after each step, which `until` does.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from task_lines import DEADLINE_S, LONG, Line, turns, until

from headway import MemoryStore
from headway import Throttled as SyncThrottled
from headway.asyncio import Throttled
from headway.clock import now_ns

Start = Callable[[Callable[[], Any]], Any]


async def join_thread(line: Line, start: Start, name: Any, cost: int = 1) -> Any:
    """A thread that stands in line when this returns."""
    throttle = SyncThrottled("key", using="gcra", quota=line.throttle.quota, store=line.store)
    before = await line.wait_for_next()

    def wait() -> Any:
        result = throttle.limit("key", cost, LONG)
        if result:
            line.served.append(name)
        return result

    worker = start(wait)
    while await line.wait_for_next() == before:
        await asyncio.sleep(0.001)
    return worker


@contextmanager
def loop_in_a_thread(start: Start) -> Iterator[asyncio.AbstractEventLoop]:
    """An event loop that runs in a thread of its own until the block is left."""
    loop = asyncio.new_event_loop()
    worker = start(loop.run_forever)
    try:
        yield loop
    finally:
        loop.call_soon_threadsafe(loop.stop)
        worker.result()
        loop.close()


async def join_elsewhere(line: Line, loop: asyncio.AbstractEventLoop, name: Any) -> Any:
    """A task of another loop that stands in line when this returns."""
    before = await line.wait_for_next()
    waiting = asyncio.run_coroutine_threadsafe(line.wait(name), loop)
    while await line.wait_for_next() == before:
        await asyncio.sleep(0.001)
    return waiting


def test_threads_and_tasks_are_served_in_the_order_in_which_they_came(start: Start) -> None:
    async def main() -> None:
        line = Line()
        await line.use_up()
        for number in range(6):
            if number % 2:
                await line.join(number)
            else:
                await join_thread(line, start, number)
        for number in range(6):
            assert line.served == list(range(number))
            line.clock.advance(1)
            await until(lambda count=number + 1: len(line.served) == count, f"{number} served")
        assert line.served == list(range(6))

    asyncio.run(main())


def test_a_large_cost_of_a_thread_is_not_starved_by_tasks(start: Start) -> None:
    async def main() -> None:
        line = Line("1/s burst 5")
        await line.use_up(5)
        await join_thread(line, start, "large", cost=5)
        for number in range(3):
            await line.join(number)
        await line.advance(4)
        assert line.served == []
        line.clock.advance(1)
        await until(lambda: line.served == ["large"], "the large cost served")
        await line.advance(3)
        assert line.served == ["large", 0, 1, 2]

    asyncio.run(main())


def test_a_task_that_is_cancelled_gives_its_place_to_a_thread(start: Start) -> None:
    async def main() -> None:
        line = Line()
        await line.use_up()
        task = await line.join("task")
        worker = await join_thread(line, start, "thread")
        task.cancel()
        await turns()
        line.clock.advance(1)
        assert worker.result()
        assert line.served == ["thread"]

    asyncio.run(main())


def test_a_task_that_was_served_and_cancelled_gives_its_token_to_a_thread(start: Start) -> None:
    async def main() -> None:
        line = Line()
        await line.use_up()
        task = await line.join("task")
        worker = await join_thread(line, start, "thread")
        line.clock.advance(1)
        task.cancel()
        await turns()
        assert worker.result()
        assert line.served == ["thread"]

    asyncio.run(main())


def test_tasks_of_several_loops_stand_in_one_line(start: Start) -> None:
    async def main() -> None:
        line = Line()
        await line.use_up()
        with loop_in_a_thread(start) as one, loop_in_a_thread(start) as two:
            for number in range(6):
                await join_elsewhere(line, (one, two)[number % 2], number)
            for number in range(6):
                line.clock.advance(1)
                await until(lambda count=number + 1: len(line.served) == count, f"{number} served")
        assert line.served == list(range(6))

    asyncio.run(main())


def test_another_thread_may_move_the_clock_while_the_loop_sleeps(start: Start) -> None:
    async def main() -> None:
        line = Line()
        await line.use_up()
        task = await line.join("task")
        start(lambda: line.clock.advance(1)).result()
        assert await asyncio.wait_for(task, DEADLINE_S)

    asyncio.run(main())


def test_a_thread_may_reset_the_key_on_which_a_task_waits(start: Start) -> None:
    async def main() -> None:
        line = Line()
        await line.use_up()
        task = await line.join("task")
        direct = SyncThrottled("key", using="gcra", quota="1/s burst 1", store=line.store)
        start(lambda: direct.reset("key")).result()
        assert await asyncio.wait_for(task, DEADLINE_S)

    asyncio.run(main())


def test_a_blocked_loop_does_not_hold_up_a_thread_in_virtual_time(start: Start) -> None:
    async def main() -> None:
        line = Line()
        await line.use_up()
        task = await line.join("task")
        worker = await join_thread(line, start, "thread")
        line.clock.advance(2)
        assert worker.result()  # this loop stands still meanwhile
        assert line.served == ["thread"]
        await turns()
        assert line.served == ["thread", "task"]
        assert task.done()

    asyncio.run(main())


@pytest.mark.parametrize("in_front", [1, 5])
def test_a_blocked_loop_does_not_hold_up_a_thread_in_real_time(start: Start, in_front: int) -> None:
    """The thread is behind tasks that cannot look at the time, so it must look itself."""

    async def main() -> None:
        store = MemoryStore()
        throttle = Throttled("key", using="gcra", quota="20/s burst 1", store=store)
        direct = SyncThrottled("key", using="gcra", quota="20/s burst 1", store=store)
        began = now_ns()
        await throttle.limit()
        tasks = [asyncio.ensure_future(throttle.limit(timeout=60)) for _ in range(in_front)]
        await turns()
        worker = start(lambda: direct.limit(timeout=60) and now_ns())
        instant = worker.result(20)  # this loop stands still meanwhile
        assert instant - began >= (in_front + 1) * 50_000_000, "the thread was early"
        assert not any(task.done() for task in tasks)
        assert all(await asyncio.gather(*tasks))

    asyncio.run(main())


def test_a_blocked_loop_does_not_hold_up_a_task_of_another_loop(start: Start) -> None:
    async def main() -> None:
        throttle = Throttled("key", using="gcra", quota="20/s burst 1", store=MemoryStore())
        await throttle.limit()
        task = asyncio.ensure_future(throttle.limit(timeout=60))
        await turns()
        with loop_in_a_thread(start) as loop:
            other = asyncio.run_coroutine_threadsafe(throttle.limit(timeout=60), loop)
            assert other.result(20)  # this loop stands still meanwhile
        assert not task.done()
        assert await task

    asyncio.run(main())


def test_what_a_blocked_loop_was_given_meanwhile_is_its_own(start: Start) -> None:
    """Served while blocked: the token is taken once, and nobody gets it a second time."""

    async def main() -> None:
        line = Line()
        await line.use_up()
        task = await line.join("task")
        start(lambda: line.clock.advance(1)).result()
        assert not await line.throttle.limit("key")
        await turns()
        assert task.done()
        assert not await line.throttle.limit("key")

    asyncio.run(main())


def test_in_real_time_loops_and_threads_together_keep_the_quota(start: Start) -> None:
    store, interval = MemoryStore(), 2_500_000
    quota = "400/s burst 1"
    ready = threading.Barrier(5)
    began = now_ns()

    def direct() -> list[int]:
        throttle = SyncThrottled("key", using="gcra", quota=quota, store=store)
        ready.wait(DEADLINE_S)
        instants = []
        for _ in range(20):
            assert throttle.limit(timeout=60)
            instants.append(now_ns())
        return instants

    def in_a_loop() -> list[int]:
        throttle = Throttled("key", using="gcra", quota=quota, store=store)
        instants: list[int] = []

        async def work() -> None:
            for _ in range(4):
                assert await throttle.limit(timeout=60)
                instants.append(now_ns())

        async def main() -> None:
            await asyncio.gather(*(work() for _ in range(5)))

        ready.wait(DEADLINE_S)
        asyncio.run(main())
        return instants

    workers = [start(work) for work in (direct, in_a_loop, direct, in_a_loop)]
    ready.wait(DEADLINE_S)
    instants = sorted(instant for worker in workers for instant in worker.result())
    assert len(instants) == 80
    for number, instant in enumerate(instants):
        assert instant >= began + number * interval, "admitted before its slot"


def test_a_waiting_loop_goes_on_with_its_other_work() -> None:
    async def main() -> None:
        throttle = Throttled("key", using="gcra", quota="1/h burst 1", store=MemoryStore())
        await throttle.limit()
        task = asyncio.ensure_future(throttle.limit(timeout=4000))
        for _ in range(1000):
            await asyncio.sleep(0)
        assert not task.done()
        task.cancel()
        await asyncio.wait([task])

    asyncio.run(main())

"""Other event loops: uvloop, trio, and anyio on either.

trio has no futures, so a task polls its place in line there; what it may rely on is the same.
`settled()` below is `turns()` for trio: everything that can run has run.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
from task_lines import DEADLINE_S, LONG, Line, turns

from headway import MemoryStore
from headway import Throttled as SyncThrottled
from headway.asyncio import Hook, HookContext, Throttled
from headway.exceptions import LimitedError

Start = Callable[[Callable[[], Any]], Any]

anyio = pytest.importorskip("anyio")
trio = pytest.importorskip("trio")
pytest.importorskip("trio.testing")

BACKENDS = ["asyncio", "trio"]


async def settled() -> None:
    await trio.testing.wait_all_tasks_blocked(0.005)


async def trio_join(nursery: trio.Nursery, line: Line, name: Any, cost: int = 1) -> None:
    nursery.start_soon(line.wait, name, cost)
    await settled()


def on_uvloop(main: Callable[[], Any]) -> Any:
    loop = pytest.importorskip("uvloop").new_event_loop()
    try:
        return loop.run_until_complete(main())
    finally:
        loop.close()


def test_uvloop_serves_in_order_and_takes_cancelled_ones_out() -> None:
    async def main() -> None:
        line = Line()
        await line.use_up()
        tasks = [await line.join(number) for number in range(4)]
        tasks[1].cancel()
        await turns()
        await line.advance(1)
        assert line.served == [0]
        await line.advance(2)
        assert line.served == [0, 2, 3]

    on_uvloop(main)


def test_uvloop_keeps_real_time() -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        throttle = Throttled("key", using="gcra", quota="100/s burst 1", store=MemoryStore())
        began = loop.time()
        assert all(await asyncio.gather(*(throttle.limit(timeout=20) for _ in range(21))))
        # uvloop tells the time in whole milliseconds, as of the start of the turn.
        assert loop.time() - began >= 0.2 - 0.002

    on_uvloop(main)


def test_uvloop_wakes_for_a_clock_that_another_thread_moves(start: Start) -> None:
    async def main() -> None:
        line = Line()
        await line.use_up()
        task = await line.join("task")
        start(lambda: line.clock.advance(1)).result()
        assert await asyncio.wait_for(task, DEADLINE_S)

    on_uvloop(main)


def test_trio_needs_no_turn_for_what_is_decided_at_once(store: MemoryStore) -> None:
    async def main() -> None:
        throttle = Throttled("key", using="gcra", quota="1/m", store=store, timeout=1)
        with trio.CancelScope() as scope:
            scope.cancel()  # any checkpoint would raise
            assert await throttle.limit()
            assert not await throttle.limit()
            await throttle.reset()
            async with throttle:
                pass
        assert not scope.cancelled_caught

    trio.run(main)


def test_trio_serves_in_order() -> None:
    async def main() -> None:
        line = Line()
        await line.use_up()
        async with trio.open_nursery() as nursery:
            for number in range(4):
                await trio_join(nursery, line, number)
            for number in range(4):
                assert line.served == list(range(number))
                line.clock.advance(1)
                await settled()
        assert line.served == list(range(4))

    trio.run(main)


def test_trio_does_not_starve_a_larger_cost() -> None:
    async def main() -> None:
        line = Line("1/s burst 5")
        await line.use_up(5)
        async with trio.open_nursery() as nursery:
            await trio_join(nursery, line, "large", 5)
            await trio_join(nursery, line, "small")
            line.clock.advance(4)
            await settled()
            assert line.served == []
            line.clock.advance(2)
        assert sorted(line.served) == ["large", "small"]

    trio.run(main)


def test_trio_takes_a_cancelled_task_out_of_the_line() -> None:
    async def main() -> None:
        line = Line()
        await line.use_up()
        async with trio.open_nursery() as nursery:
            scope = trio.CancelScope()

            async def scoped() -> None:
                with scope:
                    await line.wait("cancelled")

            nursery.start_soon(scoped)
            await settled()
            await trio_join(nursery, line, "next")
            scope.cancel()
            await settled()
            line.clock.advance(1)
        assert line.served == ["next"]

    trio.run(main)


def test_trio_loses_no_token_when_it_cancels_one_who_was_just_served() -> None:
    async def main() -> None:
        line = Line()
        await line.use_up()
        async with trio.open_nursery() as nursery:
            await trio_join(nursery, line, "task")
            line.clock.advance(1)
            nursery.cancel_scope.cancel()
        taken = line.served == ["task"]
        assert bool(await line.throttle.limit("key")) is not taken
        assert not await line.throttle.limit("key")

    trio.run(main)


def test_trio_keeps_real_time() -> None:
    async def main() -> None:
        throttle = Throttled("key", using="gcra", quota="100/s burst 1", store=MemoryStore())
        began = trio.current_time()
        async with trio.open_nursery() as nursery:
            for _ in range(21):
                nursery.start_soon(throttle.limit, "key", 1, 20.0)
        assert trio.current_time() - began >= 0.2

    trio.run(main)


def test_trio_lets_a_deadline_of_its_own_end_a_wait() -> None:
    async def main() -> None:
        throttle = Throttled("key", using="gcra", quota="1/h", store=MemoryStore())
        await throttle.limit()
        with trio.move_on_after(0.02) as scope:
            await throttle.limit(timeout=LONG)
        assert scope.cancelled_caught
        assert 3500 < (await throttle.limit()).state.retry_after <= 3600

    trio.run(main)


def test_trio_waits_in_contexts_decorated_functions_and_hooks(store: MemoryStore) -> None:
    seen: list[str] = []

    class Noting(Hook):
        async def on_limit(self, call_next: Callable[[], Any], context: HookContext) -> Any:
            seen.append("before")
            result = await call_next()
            seen.append("after")
            return result

    throttle = Throttled("key", using="gcra", quota="1/s burst 1", store=store, timeout=10)
    hooked = Throttled(
        "key", using="gcra", quota="1/s burst 1", store=store, timeout=10, hooks=[Noting()]
    )

    async def in_context() -> None:
        async with throttle:
            seen.append("context")

    @throttle
    async def decorated() -> None:
        seen.append("decorated")

    async def main() -> None:
        assert store.clock is not None
        await throttle.limit()
        async with trio.open_nursery() as nursery:
            for work in (in_context, decorated, hooked.limit):
                nursery.start_soon(work)
                await settled()
            for _ in range(3):
                store.clock.advance(1)
                await settled()

    trio.run(main)
    assert seen == ["before", "context", "decorated", "after"]


def test_trio_asyncio_and_threads_stand_in_one_line(start: Start) -> None:
    line = Line()
    observer = SyncThrottled("key", using="gcra", quota="1/s burst 1", store=line.store)
    assert observer.limit("key")

    def direct() -> None:
        assert observer.limit("key", timeout=LONG)
        line.served.append("thread")

    async def main() -> None:
        for number, (name, work) in enumerate(
            [
                ("asyncio", lambda: asyncio.run(line.wait("asyncio"))),
                ("thread", direct),
                ("trio", lambda: trio.run(line.wait, "trio")),
            ]
        ):
            workers.append(start(work))
            with trio.fail_after(DEADLINE_S):
                while (await line.wait_for_next()) < number + 2:
                    await trio.sleep(0.001)
            order.append(name)
        for count in range(1, 4):
            line.clock.advance(1)
            with trio.fail_after(DEADLINE_S):
                while len(line.served) < count:
                    await trio.sleep(0.001)

    workers: list[Any] = []
    order: list[str] = []
    trio.run(main)
    for worker in workers:
        worker.result()
    assert line.served == order


@pytest.mark.parametrize("backend", BACKENDS)
def test_anyio_runs_a_group_of_waiters(backend: str) -> None:
    async def main() -> None:
        throttle = Throttled("key", using="gcra", quota="100/s burst 1", store=MemoryStore())
        served: list[int] = []

        async def wait(number: int) -> None:
            assert await throttle.limit(timeout=20)
            served.append(number)

        began = anyio.current_time()
        async with anyio.create_task_group() as group:
            for number in range(11):
                group.start_soon(wait, number)
        assert anyio.current_time() - began >= 0.1
        assert sorted(served) == list(range(11))

    anyio.run(main, backend=backend)


@pytest.mark.parametrize("backend", BACKENDS)
def test_anyio_takes_a_cancelled_waiter_out_of_the_line(backend: str) -> None:
    async def main() -> None:
        line = Line()
        await line.use_up()
        with anyio.move_on_after(0.02) as scope:
            await line.wait("cancelled")
        assert scope.cancelled_caught
        assert await line.wait_for_next() == 1

    anyio.run(main, backend=backend)


@pytest.mark.parametrize("backend", BACKENDS)
def test_anyio_cancels_a_group_and_loses_no_token(backend: str) -> None:
    async def main() -> None:
        line = Line()
        await line.use_up()
        async with anyio.create_task_group() as group:
            for number in range(5):
                group.start_soon(line.wait, number)
            await anyio.wait_all_tasks_blocked()
            group.cancel_scope.cancel()
        assert line.served == []
        assert await line.wait_for_next() == 1
        line.clock.advance(1)
        assert await line.throttle.limit("key")

    anyio.run(main, backend=backend)


@pytest.mark.parametrize("backend", BACKENDS)
def test_anyio_sees_a_denial_as_an_error_in_a_context(backend: str, store: MemoryStore) -> None:
    async def main() -> None:
        throttle = Throttled("key", using="gcra", quota="1/m", store=store, timeout=1)
        async with throttle:
            pass
        with pytest.raises(LimitedError):
            async with throttle:
                pytest.fail("entered")

    anyio.run(main, backend=backend)

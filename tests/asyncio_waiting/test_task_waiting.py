"""Tasks wait in line as threads do: first come first served, and never in vain.

Time is virtual: a task that was not served after `line.advance()` was not due.
"""

from __future__ import annotations

import asyncio
import gc
import math
import sys

import pytest
from task_lines import Line, turns

from headway import MemoryStore, VirtualClock
from headway.algorithms import ALGORITHMS
from headway.asyncio import Throttled
from headway.exceptions import LimitedError

newer = pytest.mark.skipif(sys.version_info < (3, 11), reason="asyncio has it since 3.11")


def test_tasks_are_served_in_the_order_in_which_they_came() -> None:
    async def main() -> None:
        line = Line()
        await line.use_up()
        tasks = [await line.join(number) for number in range(8)]
        for number, task in enumerate(tasks):
            await line.advance(1)
            assert task.done()
            assert line.served == list(range(number + 1))

    asyncio.run(main())


def test_a_task_is_served_at_its_instant_and_not_a_nanosecond_before() -> None:
    async def main() -> None:
        line = Line()
        await line.use_up()
        task = await line.join("task")
        line.clock.advance(ns=999_999_999)
        await turns()
        assert not task.done()
        line.clock.advance(ns=1)
        await turns()
        assert task.done()
        assert task.result().state.remaining == 0

    asyncio.run(main())


@pytest.mark.parametrize("using", ALGORITHMS)
def test_a_task_waits_in_any_algorithm_until_its_cost_fits(
    using: str, clock: VirtualClock, store: MemoryStore
) -> None:
    async def main() -> None:
        throttle = Throttled("key", using=using, quota="5/m", store=store)
        await throttle.limit(cost=5)
        retry = (await throttle.limit(cost=3)).state.retry_after
        task = asyncio.ensure_future(throttle.limit(cost=3, timeout=200))
        await turns()
        assert not task.done()
        clock.advance(retry)
        await turns()
        assert task.result()

    asyncio.run(main())


def test_one_jump_of_the_clock_serves_all_that_are_due_in_their_order() -> None:
    async def main() -> None:
        line = Line("1/s burst 5")
        await line.use_up(5)
        tasks = [await line.join(number) for number in range(8)]
        await line.advance(5)
        assert line.served == [0, 1, 2, 3, 4]
        await line.advance(3)
        assert line.served == list(range(8))
        assert all(task.done() for task in tasks)

    asyncio.run(main())


def test_a_larger_cost_is_not_starved_by_smaller_ones_behind_it() -> None:
    async def main() -> None:
        line = Line("1/s burst 10")
        await line.use_up(10)
        large = await line.join("large", cost=10)
        small = await line.join("small")
        for _ in range(9):
            await line.advance(1)
            assert not await line.throttle.limit("key"), "a call that does not wait overtook"
        assert line.served == []
        await line.advance(1)
        assert line.served == ["large"]
        await line.advance(1)
        assert line.served == ["large", "small"]
        assert large.done()
        assert small.done()

    asyncio.run(main())


def test_a_newcomer_may_go_on_before_one_who_was_served_first_and_both_are_charged() -> None:
    """The line's order is that of the tokens: who is admitted at once needs no turn of the loop."""

    async def main() -> None:
        line = Line("1/s burst 10")
        await line.use_up(10)
        await line.join("waiter")
        line.clock.advance(5)
        await line.wait("newcomer")
        assert line.served == ["newcomer"]
        assert (await line.throttle.peek("key")).remaining == 3
        await turns()
        assert line.served == ["newcomer", "waiter"]
        assert (await line.throttle.peek("key")).remaining == 3

    asyncio.run(main())


def test_who_does_not_wait_is_told_when_the_line_is_through() -> None:
    async def main() -> None:
        line = Line()
        await line.use_up()
        tasks = [await line.join(number) for number in range(3)]
        assert await line.wait_for_next() == 4
        assert await line.throttle.limit("another key")
        assert await line.throttle.limit("key", 0), "reading is not overtaking"
        await line.advance(3)
        assert all(task.done() for task in tasks)

    asyncio.run(main())


def test_a_wait_that_is_known_to_be_too_long_takes_no_turn_of_the_loop() -> None:
    async def main() -> None:
        line = Line()
        await line.use_up()
        turned: list[bool] = []
        asyncio.get_running_loop().call_soon(turned.append, True)
        result = await line.throttle.limit("key", timeout=0.999_999_9)
        assert not result
        assert result.state.retry_after == 1
        assert turned == []

    asyncio.run(main())


def test_the_line_ahead_counts_towards_the_wait() -> None:
    async def main() -> None:
        line = Line()
        await line.use_up()
        tasks = [await line.join(number) for number in range(2)]
        result = await line.throttle.limit("key", timeout=2.9)
        assert not result
        assert result.state.retry_after == 3
        tasks.append(await line.join(2, timeout=3))
        assert not tasks[2].done()
        await line.advance(3)
        assert line.served == [0, 1, 2]

    asyncio.run(main())


def test_one_who_cannot_make_it_leaves_the_others_their_places() -> None:
    async def main() -> None:
        line = Line()
        await line.use_up()
        first = await line.join("first")
        assert not await line.wait("too late", timeout=1.5)
        second = await line.join("second")
        await line.advance(2)
        assert line.served == ["first", "second"]
        assert first.done()
        assert second.done()

    asyncio.run(main())


@pytest.mark.parametrize("timeout", [1, 1e9, math.inf])
def test_waiting_for_what_can_never_fit_returns_at_once(timeout: float) -> None:
    async def main() -> None:
        result = await Line().throttle.limit("key", 2, timeout=timeout)
        assert not result
        assert math.isinf(result.state.retry_after)

    asyncio.run(main())


def test_an_endless_timeout_waits_as_long_as_it_takes() -> None:
    async def main() -> None:
        line = Line("1/3650d")
        await line.use_up()
        year = 365 * 86_400
        task = await line.join("task", timeout=math.inf)
        await line.advance(9 * year)
        assert not task.done()
        await line.advance(year)
        assert task.done()

    asyncio.run(main())


@pytest.mark.parametrize("how", ["reset", "clear"])
def test_forgetting_the_key_serves_those_who_wait(how: str) -> None:
    async def main() -> None:
        line = Line()
        await line.use_up()
        tasks = [await line.join(number) for number in range(2)]
        if how == "reset":
            await line.throttle.reset("key")
        else:
            line.store.clear()
        await turns()
        assert line.served == [0]
        await line.advance(1)
        assert line.served == [0, 1]
        assert all(task.done() for task in tasks)

    asyncio.run(main())


def test_a_line_holds_up_no_other_key() -> None:
    async def main() -> None:
        line = Line()
        await line.use_up()
        task = await line.join("task")
        for number in range(1000):
            assert await line.throttle.limit(f"key {number}", timeout=5)
        assert not task.done()
        await line.advance(1)
        assert task.done()

    asyncio.run(main())


def test_async_with_waits_and_raises_when_the_wait_is_too_long(store: MemoryStore) -> None:
    async def main() -> None:
        line = Line(store=store)
        throttle = Throttled("key", using="gcra", quota="1/s burst 1", store=store, timeout=1)
        entered: list[int] = []

        async def work(number: int) -> None:
            async with throttle:
                entered.append(number)

        await work(0)
        task = asyncio.ensure_future(work(1))
        await turns()
        with pytest.raises(LimitedError):
            await work(2)
        assert entered == [0]
        await line.advance(1)
        assert entered == [0, 1]
        await task

    asyncio.run(main())


def test_several_rules_wait_for_the_slowest(clock: VirtualClock, store: MemoryStore) -> None:
    async def main() -> None:
        throttle = Throttled("key", using="gcra", quota="1/s; 2/m", store=store)
        assert await throttle.limit()
        clock.advance(1)
        assert await throttle.limit()
        task = asyncio.ensure_future(throttle.limit(timeout=30))
        await turns()
        clock.advance(ns=29 * 10**9 - 1)
        await turns()
        assert not task.done()
        clock.advance(ns=1)
        await turns()
        assert task.result()

    asyncio.run(main())


def test_gather_returns_the_results_of_all_who_waited() -> None:
    async def main() -> None:
        line = Line()
        gathered = asyncio.gather(*(line.throttle.limit("key", timeout=10) for _ in range(4)))
        await turns()
        await line.advance(3)
        assert [bool(result) for result in await gathered] == [True] * 4

    asyncio.run(main())


@newer
def test_an_error_in_a_task_group_takes_the_others_out_of_the_line() -> None:
    async def main() -> None:
        line = Line()
        await line.use_up()

        async def fail() -> None:
            await turns()
            raise KeyError("of the group")

        async def group_of_four() -> None:
            async with asyncio.TaskGroup() as group:
                for number in range(3):
                    group.create_task(line.wait(number))
                group.create_task(fail())

        with pytest.raises(Exception, match="unhandled errors in a TaskGroup") as caught:
            await group_of_four()
        assert [type(error) for error in caught.value.exceptions] == [KeyError]
        assert await line.wait_for_next() == 1
        assert line.served == []

    asyncio.run(main())


def test_in_real_time_nobody_is_early_and_the_order_holds() -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        throttle = Throttled("key", using="gcra", quota="200/s burst 1", store=MemoryStore())
        served: list[tuple[int, float]] = []

        async def wait(number: int) -> None:
            assert await throttle.limit(timeout=20)
            served.append((number, loop.time()))

        began = loop.time()
        await asyncio.gather(*(wait(number) for number in range(60)))
        assert [number for number, _ in served] == list(range(60))
        for number, instant in served:
            assert instant >= began + number / 200 - 1e-6, "admitted before its slot"

    asyncio.run(main())


@pytest.mark.alone
def test_in_real_time_a_wait_ends_close_to_its_instant() -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        throttle = Throttled("key", using="gcra", quota="100/s burst 1", store=MemoryStore())
        await throttle.limit()
        late = []
        for _ in range(21):
            due = loop.time() + (await throttle.limit()).state.retry_after
            assert await throttle.limit(timeout=1)
            late.append(loop.time() - due)
        assert sorted(late)[10] < 0.005, "half of the waits were late by over 5 ms"

    asyncio.run(main())


def test_a_task_that_nobody_remembers_is_not_collected_while_it_waits() -> None:
    """asyncio keeps tasks by weak references only; what they wait for keeps them."""

    async def main() -> None:
        line = Line()
        await line.use_up()
        for number in range(3):
            await line.join(number)
        gc.collect()
        await line.advance(3)
        assert line.served == [0, 1, 2]

    asyncio.run(main())

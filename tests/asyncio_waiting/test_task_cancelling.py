"""A task that gives up gives its place to the next, and what it was given goes back.

The hardest case is one turn of the loop wide: the line has served a task that has not gone on yet,
and it is cancelled. It must not keep the token.
"""

from __future__ import annotations

import asyncio
import sys

import pytest
from task_lines import Line, turns

from headway import MemoryStore
from headway.asyncio import Throttled

newer = pytest.mark.skipif(sys.version_info < (3, 11), reason="asyncio has it since 3.11")


@pytest.mark.parametrize("out", [0, 1, 2], ids=["first", "middle", "last"])
def test_one_who_is_cancelled_gives_its_place_to_the_next(out: int) -> None:
    async def main() -> None:
        line = Line()
        await line.use_up()
        tasks = [await line.join(number) for number in range(3)]
        tasks[out].cancel()
        await turns()
        assert tasks[out].cancelled()
        await line.advance(2)
        assert line.served == [number for number in range(3) if number != out]

    asyncio.run(main())


def test_a_large_cost_that_leaves_lets_the_small_ones_through_at_once() -> None:
    async def main() -> None:
        line = Line("1/s burst 10")
        await line.use_up(10)
        large = await line.join("large", cost=10)
        for number in range(3):
            await line.join(number)
        await line.advance(3)
        assert line.served == []
        large.cancel()
        await turns()
        assert line.served == [0, 1, 2]

    asyncio.run(main())


def test_cancelling_everybody_leaves_the_key_as_if_nobody_had_waited() -> None:
    async def main() -> None:
        line = Line()
        await line.use_up()
        tasks = [await line.join(number) for number in range(20)]
        for task in tasks[::2] + tasks[1::2]:
            task.cancel()
        await turns()
        assert await line.wait_for_next() == 1
        line.clock.advance(1)
        assert await line.throttle.limit("key")

    asyncio.run(main())


def test_one_who_is_cancelled_in_the_turn_in_which_it_was_served_loses_no_token() -> None:
    async def main() -> None:
        line = Line()
        await line.use_up()
        first, second = await line.join("first"), await line.join("second")
        line.clock.advance(1)
        first.cancel()
        await turns()
        assert first.cancelled()
        assert second.done()
        assert line.served == ["second"]

    asyncio.run(main())


@pytest.mark.parametrize("later", [1, 2, 3])
def test_one_who_is_cancelled_on_its_way_either_has_the_token_or_gives_it_back(later: int) -> None:
    async def main() -> None:
        line = Line()
        await line.use_up()
        first, second = await line.join("first"), await line.join("second")
        line.clock.advance(1)
        await turns(later)
        first.cancel()
        await turns()
        assert line.served == (["second"] if first.cancelled() else ["first"])
        assert second.done() == first.cancelled()

    asyncio.run(main())


def test_the_last_in_line_who_is_cancelled_when_served_leaves_the_token_to_newcomers() -> None:
    async def main() -> None:
        line = Line()
        await line.use_up()
        task = await line.join("task")
        line.clock.advance(1)
        task.cancel()
        await turns()
        assert task.cancelled()
        assert await line.throttle.limit("key"), "the token was lost"
        assert not await line.throttle.limit("key"), "the token was given twice"

    asyncio.run(main())


def test_a_cost_that_was_served_and_cancelled_goes_back_as_a_whole() -> None:
    async def main() -> None:
        line = Line("1/s burst 10")
        await line.use_up(10)
        task = await line.join("task", cost=7)
        line.clock.advance(7)
        task.cancel()
        await turns()
        assert (await line.throttle.peek("key")).remaining == 7

    asyncio.run(main())


def test_a_task_that_is_cancelled_before_it_began_was_never_in_line() -> None:
    async def main() -> None:
        line = Line()
        await line.use_up()
        task = asyncio.ensure_future(line.wait("task"))
        task.cancel()
        await turns()
        assert task.cancelled()
        assert await line.wait_for_next() == 1

    asyncio.run(main())


def test_the_message_of_a_cancellation_arrives() -> None:
    async def main() -> None:
        line = Line()
        await line.use_up()
        task = await line.join("task")
        task.cancel("enough")
        with pytest.raises(asyncio.CancelledError) as caught:
            await task
        if sys.version_info >= (3, 11):
            assert caught.value.args == ("enough",)

    asyncio.run(main())


def test_one_who_catches_its_cancellation_can_wait_again_behind_the_others() -> None:
    async def main() -> None:
        line = Line()
        await line.use_up()

        async def stubborn() -> None:
            try:
                await line.wait("before")
            except asyncio.CancelledError:
                await line.wait("stubborn")

        task = asyncio.ensure_future(stubborn())
        await turns()
        await line.join("other")
        task.cancel()
        await turns()
        await line.advance(2)
        assert line.served == ["other", "stubborn"]
        await task

    asyncio.run(main())


def test_wait_for_takes_a_waiter_out_when_its_time_is_over() -> None:
    async def main() -> None:
        line = Line()
        await line.use_up()
        with pytest.raises(asyncio.TimeoutError):
            await asyncio.wait_for(line.throttle.limit("key", timeout=100), 0.01)
        assert await line.wait_for_next() == 1

    asyncio.run(main())


def test_wait_for_returns_the_result_of_one_who_was_served() -> None:
    async def main() -> None:
        line = Line()
        await line.use_up()
        task = asyncio.ensure_future(asyncio.wait_for(line.wait("task"), 60))
        await turns()
        await line.advance(1)
        assert task.result()
        assert line.served == ["task"]

    asyncio.run(main())


@newer
def test_timeout_takes_a_waiter_out_and_gives_its_place_on() -> None:
    async def main() -> None:
        line = Line()
        await line.use_up()

        async def hurried() -> None:
            async with asyncio.timeout(0.01):
                await line.wait("hurried")

        task = asyncio.ensure_future(hurried())
        await turns()
        await line.join("other")
        with pytest.raises(TimeoutError):
            await task
        await line.advance(1)
        assert line.served == ["other"]

    asyncio.run(main())


@newer
def test_timeout_that_does_not_run_out_leaves_the_task_alone() -> None:
    async def main() -> None:
        line = Line()
        await line.use_up()

        async def patient() -> None:
            async with asyncio.timeout(60):
                await line.wait("patient")

        task = asyncio.ensure_future(patient())
        await turns()
        await line.advance(1)
        assert line.served == ["patient"]
        await task
        assert task.cancelling() == 0

    asyncio.run(main())


def test_a_shielded_wait_goes_on() -> None:
    async def main() -> None:
        line = Line()
        await line.use_up()
        waiting = await line.join("shielded")

        async def outer() -> None:
            await asyncio.shield(waiting)

        task = asyncio.ensure_future(outer())
        await turns()
        task.cancel()
        await turns()
        assert task.cancelled()
        await line.advance(1)
        assert line.served == ["shielded"]

    asyncio.run(main())


def test_in_real_time_cancelling_the_head_makes_the_next_keep_the_time() -> None:
    """The head alone keeps time; when it goes, somebody else must."""

    async def main() -> None:
        throttle = Throttled("key", using="gcra", quota="20/s burst 1", store=MemoryStore())
        await throttle.limit()
        tasks = [asyncio.ensure_future(throttle.limit(timeout=30)) for _ in range(6)]
        await turns()
        for task in tasks[:5]:
            task.cancel()
        assert await asyncio.wait_for(tasks[5], 20)

    asyncio.run(main())

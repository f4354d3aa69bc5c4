"""What `throttle.limit()` returns passes for a coroutine, and mostly needs no event loop.

It decides when it is first resumed; a call that is admitted or denied at once ends there, without a
turn of the loop.
"""

from __future__ import annotations

import asyncio
import collections.abc
import gc
import inspect
import sys
import warnings
from collections.abc import Callable
from typing import Any

import pytest
from task_lines import Line, turns

from headway import MemoryStore, per_sec
from headway.asyncio import Throttled

newer = pytest.mark.skipif(sys.version_info < (3, 11), reason="asyncio has it since 3.11")

CALLS: dict[str, Callable[[Throttled], Any]] = {
    "limit": lambda throttle: throttle.limit(),
    "peek": lambda throttle: throttle.peek(),
    "reset": lambda throttle: throttle.reset(),
}


@pytest.fixture
def throttle(store: MemoryStore) -> Throttled:
    return Throttled("key", using="gcra", quota=per_sec(3), store=store)


@pytest.fixture(params=CALLS)
def call(request: pytest.FixtureRequest) -> Callable[[Throttled], Any]:
    return CALLS[request.param]


def test_it_is_a_coroutine_to_those_who_ask(
    throttle: Throttled, call: Callable[[Throttled], Any]
) -> None:
    made = call(throttle)
    assert isinstance(made, collections.abc.Coroutine)
    assert inspect.isawaitable(made)
    assert asyncio.iscoroutine(made)
    made.close()


def test_it_asks_only_when_awaited(throttle: Throttled) -> None:
    async def main() -> None:
        made = throttle.limit()
        assert (await throttle.peek()).remaining == 3
        await made
        assert (await throttle.peek()).remaining == 2

    asyncio.run(main())


def test_what_is_decided_at_once_needs_no_event_loop(throttle: Throttled) -> None:
    for remaining in (2, 1, 0):
        with pytest.raises(StopIteration) as end:
            throttle.limit(timeout=10).send(None)
        assert not end.value.value.limited
        assert end.value.value.state.remaining == remaining
    with pytest.raises(StopIteration) as end:
        throttle.limit().send(None)
    assert end.value.value.limited


def test_an_allowed_call_takes_no_turn_of_the_loop(throttle: Throttled) -> None:
    async def main() -> None:
        turned = []
        asyncio.get_running_loop().call_soon(turned.append, True)
        assert await throttle.limit()
        assert await throttle.limit(timeout=10)
        async with throttle:
            pass
        await throttle.peek()
        await throttle.reset()
        assert turned == []
        await turns(1)
        assert turned == [True]

    asyncio.run(main())


def test_waiting_without_an_event_loop_is_refused_and_says_so(throttle: Throttled) -> None:
    with pytest.raises(StopIteration):
        throttle.limit(cost=3).send(None)
    with pytest.raises(RuntimeError, match="running event loop"):
        throttle.limit(timeout=10).send(None)


def test_create_task_gather_and_wait_for_take_it(throttle: Throttled) -> None:
    async def main() -> None:
        assert await asyncio.create_task(throttle.limit())
        assert all(await asyncio.gather(throttle.limit(), throttle.limit()))
        assert (await asyncio.wait_for(throttle.limit(), 10)).limited

    asyncio.run(main())


def test_a_task_and_run_take_it_as_they_take_a_coroutine(throttle: Throttled) -> None:
    assert asyncio.run(throttle.limit())


@newer
def test_a_task_group_takes_it(throttle: Throttled) -> None:
    async def main() -> None:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(throttle.limit()) for _ in range(4)]
        assert [task.result().limited for task in tasks] == [False, False, False, True]

    asyncio.run(main())


def test_who_never_awaits_it_is_warned(
    throttle: Throttled, call: Callable[[Throttled], Any]
) -> None:
    with pytest.warns(RuntimeWarning, match=r"Throttled\.\w+\(\) was never awaited"):
        call(throttle)


def test_a_context_that_is_not_awaited_warns_too(throttle: Throttled) -> None:
    with pytest.warns(RuntimeWarning, match="never awaited"):
        throttle.__aenter__()


def test_closing_it_unused_consumes_nothing_and_warns_nobody(throttle: Throttled) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        throttle.limit().close()
        gc.collect()
    assert asyncio.run(throttle.peek()).remaining == 3


def test_closing_it_twice_is_no_error(throttle: Throttled) -> None:
    made = throttle.limit()
    made.close()
    made.close()


def test_awaiting_it_twice_is_an_error_and_consumes_once(throttle: Throttled) -> None:
    async def main() -> None:
        made = throttle.limit()
        await made
        with pytest.raises(RuntimeError, match="already awaited"):
            await made
        assert (await throttle.peek()).remaining == 2

    asyncio.run(main())


def test_awaiting_it_after_close_is_an_error(throttle: Throttled) -> None:
    async def main() -> None:
        made = throttle.limit()
        made.close()
        with pytest.raises(RuntimeError, match="already awaited"):
            await made

    asyncio.run(main())


@pytest.mark.parametrize("thrown", [KeyError("thrown"), KeyError], ids=["instance", "class"])
def test_what_is_thrown_in_comes_out_and_ends_it(throttle: Throttled, thrown: Any) -> None:
    made = throttle.limit()
    with pytest.raises(KeyError):
        made.throw(thrown)
    with pytest.raises(RuntimeError, match="already awaited"):
        made.send(None)
    assert asyncio.run(throttle.peek()).remaining == 3


def test_throwing_what_is_no_exception_is_refused(throttle: Throttled) -> None:
    made = throttle.limit()
    with pytest.raises(TypeError, match="int"):
        made.throw(1)  # type: ignore[call-overload]


@pytest.mark.parametrize("end", ["close", "throw"])
def test_closing_or_throwing_into_a_wait_leaves_the_line(end: str) -> None:
    async def main() -> None:
        line = Line()
        await line.use_up()
        made = line.throttle.limit("key", timeout=100)
        made.send(None)
        assert await line.wait_for_next() == 2
        if end == "close":
            made.close()
        else:
            with pytest.raises(KeyError):
                made.throw(KeyError("thrown"))
        assert await line.wait_for_next() == 1

    asyncio.run(main())


def test_dropping_a_wait_leaves_the_line() -> None:
    async def main() -> None:
        line = Line()
        await line.use_up()
        made = line.throttle.limit("key", timeout=100)
        made.send(None)
        assert await line.wait_for_next() == 2
        del made
        gc.collect()
        assert await line.wait_for_next() == 1

    asyncio.run(main())

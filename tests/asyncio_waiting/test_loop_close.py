"""An event loop that ends under its waiters leaves nobody in the line and takes no token along.

A closed loop runs nothing any more, its tasks' `finally` included. So what they hold in the line
is given up without them, and those behind, threads here, go on.
"""

from __future__ import annotations

import asyncio
import gc
import logging
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from task_lines import LONG, Line, turns

from headway import MemoryStore
from headway import Throttled as SyncThrottled
from headway.asyncio import Throttled

Start = Callable[[Callable[[], Any]], Any]
Eventually = Callable[..., None]


@pytest.fixture(params=["asyncio", "uvloop"])
def loop(request: pytest.FixtureRequest) -> Iterator[asyncio.AbstractEventLoop]:
    """A loop that the test closes; what it says of tasks that it left behind is not shown."""
    if request.param == "uvloop":
        made = pytest.importorskip("uvloop").new_event_loop()
    else:
        made = asyncio.new_event_loop()
    logging.getLogger("asyncio").disabled = True
    yield made
    if not made.is_closed():
        made.close()
    gc.collect()
    logging.getLogger("asyncio").disabled = False


def direct(line: Line) -> SyncThrottled:
    return SyncThrottled("key", using="gcra", quota=line.throttle.quota, store=line.store)


def thread_behind(line: Line, start: Start, eventually: Eventually) -> Any:
    """A thread that stands at the end of the line when this returns."""
    throttle = direct(line)
    before = throttle.limit("key").state.retry_after
    worker = start(lambda: throttle.limit("key", timeout=LONG))
    eventually(lambda: throttle.limit("key").state.retry_after > before, "the thread in line")
    return worker


def in_line(loop: asyncio.AbstractEventLoop, line: Line, count: int) -> list[asyncio.Task[Any]]:
    """Tasks of the loop that stand in line, with the burst used up; the loop is stopped."""

    async def join() -> list[asyncio.Task[Any]]:
        await line.use_up()
        return [await line.join(number) for number in range(count)]

    return loop.run_until_complete(join())


def test_a_closed_loop_leaves_the_line_though_its_tasks_are_referenced(
    loop: asyncio.AbstractEventLoop, start: Start, eventually: Eventually
) -> None:
    line = Line()
    tasks = in_line(loop, line, 3)
    worker = thread_behind(line, start, eventually)
    loop.stop()
    loop.close()
    line.clock.advance(1)
    assert worker.result()
    assert line.served == []
    assert len(tasks) == 3


def test_a_closed_loop_takes_no_token_along(loop: asyncio.AbstractEventLoop) -> None:
    line = Line()
    tasks = in_line(loop, line, 3)
    loop.close()
    assert direct(line).limit("key").state.retry_after == 1
    line.clock.advance(1)
    assert direct(line).limit("key")
    assert not direct(line).limit("key")
    assert len(tasks) == 3


def test_what_was_given_to_a_task_that_never_went_on_comes_back(
    loop: asyncio.AbstractEventLoop, start: Start, eventually: Eventually
) -> None:
    line = Line()
    tasks = in_line(loop, line, 1)
    worker = thread_behind(line, start, eventually)
    line.clock.advance(1)  # serves the task, whose loop does not run
    loop.close()
    assert worker.result()
    assert len(tasks) == 1


def test_a_loop_that_was_never_run_again_nor_closed_leaves_when_it_is_dropped(
    start: Start, eventually: Eventually
) -> None:
    logging.getLogger("asyncio").disabled = True
    try:
        line = Line()
        made = asyncio.new_event_loop()
        tasks = in_line(made, line, 2)
        worker = thread_behind(line, start, eventually)
        made.close()
        del made, tasks
        gc.collect()
        line.clock.advance(1)
        assert worker.result()
    finally:
        logging.getLogger("asyncio").disabled = False


def test_a_loop_that_is_closed_while_it_stands_in_many_lines_leaves_them_all(
    loop: asyncio.AbstractEventLoop, store: MemoryStore
) -> None:
    throttle = Throttled(using="gcra", quota="1/s burst 1", store=store)
    watcher = SyncThrottled(using="gcra", quota="1/s burst 1", store=store)
    keys = [f"key {number}" for number in range(40)]

    async def join() -> list[Any]:
        for key in keys:
            await throttle.limit(key)
        tasks = [asyncio.ensure_future(throttle.limit(key, timeout=LONG)) for key in keys * 3]
        await turns()
        return tasks

    tasks = loop.run_until_complete(join())
    assert {watcher.limit(key).state.retry_after for key in keys} == {4}
    loop.close()
    assert {watcher.limit(key).state.retry_after for key in keys} == {1}
    assert len(tasks) == 120


def test_in_real_time_a_thread_behind_a_closed_loop_goes_on(
    loop: asyncio.AbstractEventLoop, start: Start
) -> None:
    store = MemoryStore()
    throttle = Throttled("key", using="gcra", quota="10/s burst 1", store=store)
    watcher = SyncThrottled("key", using="gcra", quota="10/s burst 1", store=store)

    async def join() -> list[Any]:
        await throttle.limit()
        tasks = [asyncio.ensure_future(throttle.limit(timeout=LONG)) for _ in range(1000)]
        await turns()
        return tasks

    tasks = loop.run_until_complete(join())
    assert watcher.limit().state.retry_after > 60
    worker = start(lambda: watcher.limit(timeout=LONG))
    loop.close()
    assert worker.result()
    assert len(tasks) == 1000


def test_a_stopped_loop_finds_what_it_was_given_when_it_runs_again(
    loop: asyncio.AbstractEventLoop,
) -> None:
    line = Line()
    tasks = in_line(loop, line, 2)
    line.clock.advance(2)
    assert not any(task.done() for task in tasks)
    loop.run_until_complete(turns())
    assert line.served == [0, 1]


def test_asyncio_run_that_ends_under_waiters_cancels_them_and_loses_no_token(
    start: Start, eventually: Eventually
) -> None:
    line = Line()
    tasks: list[asyncio.Task[Any]] = []
    workers = []

    async def main() -> None:
        await line.use_up()
        tasks.extend([await line.join(number) for number in range(3)])
        workers.append(await asyncio.to_thread(thread_behind, line, start, eventually))

    asyncio.run(main())
    assert all(task.cancelled() for task in tasks)
    line.clock.advance(1)
    assert workers[0].result()
    assert line.served == []


def test_asyncio_run_that_ends_by_an_error_leaves_no_task_in_line() -> None:
    line = Line()

    async def main() -> None:
        await line.use_up()
        await line.join("task")
        raise KeyError("of main")

    with pytest.raises(KeyError):
        asyncio.run(main())
    assert direct(line).limit("key").state.retry_after == 1


def test_a_new_loop_can_wait_where_a_closed_one_did(loop: asyncio.AbstractEventLoop) -> None:
    line = Line()
    tasks = in_line(loop, line, 2)
    loop.close()

    async def main() -> None:
        await line.join("of the new loop")
        await line.advance(1)
        assert line.served == ["of the new loop"]

    asyncio.run(main())
    assert len(tasks) == 2

"""What a signal's handler raises inside a method of the event loop comes out, and nobody is lost.

Handlers run between two steps of any Python function, so in the loop's `call_soon` too, before or
after it has done its work. Here the loop's methods raise at a chosen moment, as they do then. An
exception in `call_soon` does not mean that the loop is closed: the task is woken all the same,
once, and the exception is raised once.

Each test runs on a loop that watches the kernel's timer, and on one that watches no descriptors.
"""

from __future__ import annotations

import asyncio
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from task_lines import DEADLINE_S, LONG, Line, turns

from headway import MemoryStore
from headway.asyncio import Throttled
from headway.limiters import AsyncSemaphore, SyncSemaphore


class Custom(Exception):
    """Of a handler that raises something of its own."""


class Loop(asyncio.SelectorEventLoop):
    """Raises once, in a method that is called on behalf of a waiter."""

    watches = True
    raises: BaseException | None = None
    method = ""
    before = True
    times = 1

    def interrupt(self, method: str, error: BaseException, before: bool, times: int = 1) -> None:
        self.method, self.raises, self.before, self.times = method, error, before, times

    def _call(self, method: str, work: Callable[[], Any], what: tuple[Any, ...]) -> Any:
        ours = any(type(one).__module__ == "headway._core" for one in what)
        due = ours and method == self.method and self.raises is not None and self.times > 0
        if due and self.before:
            self.times -= 1
            raise self._error()
        result = work()
        if due:
            self.times -= 1
            raise self._error()
        return result

    def _error(self) -> BaseException:
        assert self.raises is not None
        return self.raises

    def call_soon(self, callback: Any, *args: Any, context: Any = None) -> Any:
        work = super().call_soon
        return self._call(
            "call_soon", lambda: work(callback, *args, context=context), (callback, *args)
        )

    def call_later(self, delay: float, callback: Any, *args: Any, context: Any = None) -> Any:
        work = super().call_later
        return self._call(
            "call_later", lambda: work(delay, callback, *args, context=context), (callback, *args)
        )

    def call_soon_threadsafe(self, callback: Any, *args: Any, context: Any = None) -> Any:
        work = super().call_soon_threadsafe
        return self._call(
            "call_soon_threadsafe",
            lambda: work(callback, *args, context=context),
            (callback, *args),
        )

    def add_reader(self, fd: Any, callback: Any, *args: Any) -> Any:
        if not self.watches:
            raise NotImplementedError
        work = super().add_reader
        return self._call("add_reader", lambda: work(fd, callback, *args), (callback, *args))


@pytest.fixture(params=["kernel's timer", "loop's timers"])
def loop(request: pytest.FixtureRequest) -> Iterator[Loop]:
    made = Loop()
    made.watches = request.param == "kernel's timer"
    made.set_exception_handler(lambda loop, context: seen(loop).append(context.get("exception")))
    made.seen = []  # type: ignore[attr-defined]
    yield made
    made.raises = None
    made.close()


def seen(loop: Any) -> list[Any]:
    """What the loop was told that its callbacks raised."""
    return loop.seen  # type: ignore[no-any-return]


ERRORS = pytest.mark.parametrize("error", [KeyboardInterrupt("signal"), Custom("signal")], ids=repr)
MOMENTS = pytest.mark.parametrize("before", [True, False], ids=["before", "after"])


def run_out(loop: Loop, main: Callable[[], Any], error: BaseException) -> None:
    """Runs `main` to its end; `error` comes out once, of `run` or to the handler of the loop."""
    came: list[BaseException] = []
    task = loop.create_task(main())
    end = time.monotonic() + DEADLINE_S
    while not task.done():
        assert time.monotonic() < end, "not done"
        try:
            loop.run_until_complete(asyncio.wait({task}, timeout=1))
        except type(error) as raised:
            came.append(raised)
    task.result()
    assert [*came, *seen(loop)] == [error]


@ERRORS
@MOMENTS
def test_a_task_that_is_served_goes_on_once_though_call_soon_raises(
    loop: Loop, error: BaseException, before: bool
) -> None:
    line = Line()

    async def main() -> None:
        await line.use_up()
        tasks = [await line.join(number) for number in range(3)]
        loop.interrupt("call_soon", error, before)
        line.clock.advance(3)
        await asyncio.gather(*tasks)

    run_out(loop, main, error)
    assert line.served == [0, 1, 2]


@ERRORS
@MOMENTS
@pytest.mark.parametrize("method", ["call_soon", "call_later"])
def test_in_real_time(loop: Loop, method: str, error: BaseException, before: bool) -> None:
    if method == "call_later" and loop.watches:
        pytest.skip("this loop needs no timer of its own")
    throttle = Throttled("key", quota="50/s burst 1", store=MemoryStore(), timeout=LONG)

    async def main() -> None:
        await throttle.limit()
        tasks = [asyncio.ensure_future(throttle.limit()) for _ in range(3)]
        await turns(2)
        loop.interrupt(method, error, before)
        assert all(await asyncio.gather(*tasks))

    run_out(loop, main, error)


@MOMENTS
def test_an_exception_as_a_wait_begins_comes_out_of_the_await_and_takes_no_slot(
    loop: Loop, before: bool
) -> None:
    line = Line()

    async def main() -> None:
        await line.use_up()
        method = "add_reader" if loop.watches else "call_later"
        loop.interrupt(method, Custom("signal"), before)
        with pytest.raises(Custom):
            await line.throttle.limit("key", timeout=LONG)
        assert await line.wait_for_next() == 1
        task = await line.join("later")
        line.clock.advance(1)
        await asyncio.wait_for(task, DEADLINE_S)

    loop.run_until_complete(main())
    assert line.served == ["later"]


def test_a_task_that_the_loop_refuses_to_call_back_is_tried_again_and_can_be_cancelled(
    loop: Loop,
) -> None:
    line = Line()

    async def main() -> None:
        await line.use_up()
        first, second = [await line.join(number) for number in range(2)]
        loop.interrupt("call_soon", Custom("always"), before=True, times=10**9)
        line.clock.advance(2)
        end = time.monotonic() + DEADLINE_S
        while len(seen(loop)) < 3:
            assert time.monotonic() < end, "it was not tried again"
            await asyncio.sleep(0.001)
        loop.raises = None
        assert second.cancel()
        assert await asyncio.wait_for(first, DEADLINE_S)
        with pytest.raises(asyncio.CancelledError):
            await second

    loop.run_until_complete(main())
    assert line.served == [0]
    assert all(isinstance(one, Custom) for one in seen(loop))


def test_what_another_thread_raises_as_it_wakes_a_task_is_reported_and_the_task_goes_on(
    start: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only a loop that watches no descriptors has code that a foreign thread must run."""
    reported: list[Any] = []
    monkeypatch.setattr(sys, "unraisablehook", lambda what: reported.append(what.exc_value))
    loop = Loop()
    loop.watches = False
    line = Line()
    error = Custom("of the loop")

    async def main() -> None:
        await line.use_up()
        task = await line.join("task")
        loop.interrupt("call_soon_threadsafe", error, before=True)
        worker = start(lambda: line.clock.advance(1))
        assert await asyncio.wait_for(task, DEADLINE_S)
        worker.result()

    loop.run_until_complete(main())
    loop.close()
    assert reported == [error]


@MOMENTS
def test_the_main_thread_that_wakes_tasks_of_another_thread_is_interrupted_and_they_go_on(
    loop: Loop, before: bool, start: Callable[..., Any]
) -> None:
    name = f"interrupted {before} {loop.watches}"
    sync = SyncSemaphore(name, 1, max_sleep=0)
    semaphore = AsyncSemaphore(name, 1, max_sleep=0)
    waiting = threading.Event()

    async def enter() -> None:
        async with semaphore:
            pass

    async def main() -> None:
        tasks = [asyncio.ensure_future(enter()) for _ in range(3)]
        await turns(3)
        waiting.set()
        await asyncio.wait_for(asyncio.gather(*tasks), DEADLINE_S)

    sync.__enter__()
    worker = start(lambda: loop.run_until_complete(main()))
    assert waiting.wait(DEADLINE_S)
    loop.interrupt("call_soon_threadsafe", KeyboardInterrupt("signal"), before)
    came = 0
    try:
        sync.__exit__(None, None, None)
        for _ in range(100):
            pass
    except KeyboardInterrupt:
        came += 1
    worker.result()
    # The thread that serves a line runs no code of a loop that watches the kernel's timer.
    assert came == (0 if loop.watches else 1)
    assert sync._pool.held == 0


@pytest.mark.parametrize("debug", [False, True])
def test_a_loop_that_goes_on_in_another_thread_is_woken_there(
    loop: Loop, debug: bool, start: Callable[..., Any]
) -> None:
    """Debug mode refuses `call_soon` from any thread but the loop's."""
    loop.set_debug(debug)
    name = f"moved {debug} {loop.watches}"
    sync = SyncSemaphore(name, 1, max_sleep=0)
    semaphore = AsyncSemaphore(name, 1, max_sleep=0)
    tasks: list[Any] = []

    async def first() -> None:
        tasks.append(asyncio.ensure_future(semaphore.__aenter__()))
        await turns(3)

    async def second(running: threading.Event) -> None:
        running.set()
        await asyncio.wait_for(tasks[0], DEADLINE_S)

    sync.__enter__()
    loop.run_until_complete(first())
    running = threading.Event()
    worker = start(lambda: loop.run_until_complete(second(running)))
    assert running.wait(DEADLINE_S)
    sync.__exit__(None, None, None)
    # Nothing else wakes that loop within the deadline.
    worker.result()
    assert seen(loop) == []


def test_a_thread_that_serves_a_line_runs_nothing_of_the_loops_in_it(
    start: Callable[..., Any],
) -> None:
    """However slow the loop's methods are, and though its thread is busy."""
    loop = Loop()
    called: list[str] = []
    line = Line()

    def note(*args: Any, **kwargs: Any) -> Any:
        called.append(threading.current_thread().name)
        return asyncio.SelectorEventLoop.call_soon_threadsafe(loop, *args, **kwargs)

    async def main() -> None:
        await line.use_up()
        task = await line.join("task")
        loop.call_soon_threadsafe = note  # type: ignore[method-assign]
        worker = start(lambda: line.clock.advance(1))
        worker.result()  # the loop stands meanwhile
        assert called == []
        assert await asyncio.wait_for(task, DEADLINE_S)

    loop.run_until_complete(main())
    loop.close()


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="/proc")
def test_a_closed_loop_keeps_no_descriptor(loop: Loop) -> None:
    import os

    before = set(os.listdir("/proc/self/fd"))
    line = Line()
    other = Loop()
    other.watches = loop.watches

    async def main() -> None:
        await line.use_up()
        await line.join("task")

    other.run_until_complete(main())
    other.set_exception_handler(lambda *_: None)
    other.close()
    del other
    assert len(set(os.listdir("/proc/self/fd")) - before) == 0

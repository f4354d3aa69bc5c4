"""One operation under torment: calls it with harm at a moment, and examines what came of it."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any
from weakref import WeakSet

import helper
from operations import Operation, new_loop

from headway.exceptions import BaseThrottledError

END_S = 6.0
"""How long a task may take that nothing holds up."""
LOST_BY = ("TaskStep", "TaskWakeup", "task_wakeup", "Task.__", "TaskWait")
"""Callbacks of a loop: where one raises, asyncio does not resume its task again."""
RECOVERY_S = 4.0
"""How soon a store must work again after its server, or memory, was out of reach."""
LEAK_RUNS = 16


@dataclass
class Outcome:
    value: Any
    error: BaseException | None
    seen: int
    done: int


class HandlerError(Exception):
    """What the handler of a signal raises."""


class Session:
    def __init__(self, operation: Operation, loop: str = "") -> None:
        self.operation, self.kind = operation, loop or operation.loop
        self.charged = 0
        """How often an operation that failed had taken its tokens."""
        self.begin_anew()

    def begin_anew(self) -> None:
        """New objects and a new loop, as after asyncio has lost a task."""
        kind, operation = self.kind, self.operation
        self.loop = new_loop(kind) if kind and kind != "trio" else None
        self.elsewhere: list[BaseException] = []
        """What came out of the loop's exception handler, or could not be raised at all."""
        self.lost: WeakSet[Any] = WeakSet()
        self.loses = False
        """Whether asyncio has lost a task in this moment."""
        if self.loop is not None:
            asyncio.set_event_loop(self.loop)
            self.loop.set_exception_handler(self._on_loop_error)
        sys.unraisablehook = self._on_unraisable
        self.may_stop = False
        """Whether a callback may be left behind that stops the loop."""
        self.case = operation.make()

    def close(self) -> None:
        with contextlib.suppress(Exception):
            self.case.clean()
        if self.loop is not None:
            with contextlib.suppress(Exception, KeyboardInterrupt):
                self._complete(self.loop.shutdown_default_executor())
            with contextlib.suppress(RuntimeError):  # uvloop's may be broken: see Signals
                self.loop.close()

    def _on_loop_error(self, loop: Any, context: dict[str, Any]) -> None:
        if isinstance(error := context.get("exception"), BaseException):
            self.elsewhere.append(error.with_traceback(None))
            where = f"{context.get('message')} {context.get('handle')!r}"
            # What a task's step raises itself, not its coroutine, ends no task: asyncio has lost
            # the task, as it does one whose future's add_done_callback finds no memory.
            if any(name in where for name in LOST_BY):
                self.loses = True
                self.lost.update(asyncio.all_tasks(loop))
                loop.call_soon(loop.stop)

    def _on_unraisable(self, unraisable: Any) -> None:
        if unraisable.exc_value is not None:
            self.elsewhere.append(unraisable.exc_value.with_traceback(None))

    # --- calls

    def call(self) -> Callable[[], Any]:
        return self.case.act if self.loop is None else self._drive

    def _drive(self) -> Any:
        """Run the awaitable as a task; RuntimeError where it does not end in time."""
        assert self.loop is not None
        task = self.loop.create_task(self.case.act())
        late = self.loop.call_later(END_S, self.loop.stop)
        try:
            return self._complete(task)
        finally:
            late.cancel()

    def run(self, harm: int, kinds: int, own: bool, at: int, until: int) -> Outcome:
        """Call the operation. Harm is done at the moments from `at` to `until`, exclusive."""
        self.settle()
        self.case.prepare()
        self.elsewhere.clear()
        self.loses = False
        try:  # no variable of this frame refers to the outcome, whose error may refer to the frame
            return Outcome(*helper.load().run(self.call(), harm, kinds, own, at, until))
        finally:
            self.settle()

    def settle(self) -> None:
        """Let the loop call what run_until_complete() has left behind.

        Where a callback raises in the turn in which the task ends, the loop stops before it has
        called the callback that stops it; the next run would be stopped by that.
        """
        for _ in range(4):  # uvloop's stop() is a callback of its own
            if self.loop is None or not self.may_stop:
                break
            with contextlib.suppress(RuntimeError, KeyboardInterrupt, HandlerError):
                self._complete(asyncio.sleep(0.0005))

    def _complete(self, what: Any) -> Any:
        assert self.loop is not None
        self.may_stop = True
        value = self.loop.run_until_complete(what)
        self.may_stop = False
        return value

    def plain(self) -> str:
        """Call it undisturbed; what is wrong. A store that could not reach its server a few times
        asks it again only after a while.
        """
        end = time.monotonic() + RECOVERY_S
        while True:
            problem, may_recover = self._plain()
            if not problem or not may_recover or time.monotonic() > end:
                return problem
            time.sleep(0.01)
            # What a failed call took may be given back only now, or its thread takes it only now.
            end = end if "raises" in problem else 0.0

    def _plain(self) -> tuple[str, bool]:
        case = self.case
        try:
            case.prepare()
            before = case.used() if case.used else 0
            self.settle()
            value = self.call()()
        except BaseException as error:
            return f"afterwards it raises {error!r}", isinstance(error, BaseThrottledError)
        if not case.passes(value):
            return f"afterwards it returns {value!r}", False
        if case.used and (took := case.used() - before) != case.takes:
            return f"afterwards it takes {took} instead of {case.takes}", True
        return "", False

    # --- what came of it

    def tasks(self) -> str:
        """Let all tasks end; what is wrong with those that do not."""
        if self.loop is None:
            return ""
        if self.lost:
            gc.collect()
        for patience, verdict in ((END_S, "never ends by itself"), (END_S, "cannot be cancelled")):
            tasks = asyncio.all_tasks(self.loop) - set(self.lost)
            if not tasks:
                return ""
            pending = self._await(tasks, patience)
            if not pending:
                return ""
            if all("_GatheringFuture pending" in repr(task) for task in pending):
                self.loses = True  # interrupted in its own callback, gather() has lost an outcome
                return ""
            problem = f"{len(pending)} tasks: {verdict}: {next(iter(pending))!r:.300}"
            for task in pending:
                task.cancel()
        return problem

    def _await(self, tasks: set[Any], patience: float) -> set[Any]:
        """Let these tasks end, and return those that did not."""
        assert self.loop is not None
        while True:
            try:
                return set(self._complete(asyncio.wait(tasks, timeout=patience))[1])
            except (KeyboardInterrupt, HandlerError):
                self.settle()  # the exception of one of them, which asyncio raises again here

    def state(self, before: int, error: BaseException | None, extra: int = 0) -> str:
        """Whether the count is right and nothing is left behind. `extra` more may be gone."""
        case = self.case
        problem = self.tasks()
        if problem:
            return problem
        try:
            if case.used:
                took = used(self) - before
                if error is None and not case.takes <= took <= case.takes + extra:
                    return f"it took {took} instead of {case.takes}"
                if error is not None and not 0 <= took <= case.takes + extra:
                    return f"it raised {error!r} and took {took}, of {case.takes + extra}"
                self.charged += error is not None and took > extra
            return case.trouble()
        except BaseException as later:
            return f"afterwards the store raises {later!r}"

    def leak(self, again: Callable[[], object]) -> str:
        """Whether each call of `again` leaves a block behind. Free lists and caches grow for some
        dozens of calls and then no more, so what grows is looked at for longer.
        """
        blocks = helper.load().blocks
        python, c = blocks()
        for _ in range(3):
            again()
            now_python, now_c = blocks()
            if now_python <= python and now_c <= c:
                return ""
            python, c = now_python, now_c
        lost: tuple[float, float] | None = None
        for turn in range(4):
            for _ in range(LEAK_RUNS):
                again()
            gc.collect()
            now_python, now_c = blocks()
            grew = ((now_python - python) / LEAK_RUNS, (now_c - c) / LEAK_RUNS)
            # A leak is the same each time.
            if max(grew) < 0.9 or (
                lost and any(abs(a - b) > 0.15 for a, b in zip(grew, lost, strict=True))
            ):
                return ""
            lost, python, c = grew if turn else None, now_python, now_c
        assert lost is not None
        for _ in range(8 * LEAK_RUNS):  # a cache that grew in large steps does not go on
            again()
        gc.collect()
        now_python, now_c = blocks()
        if max(now_python - python, now_c - c) < 0.9 * 8 * LEAK_RUNS:
            return ""
        return f"each time {lost[0]:.1f} blocks of Python and {lost[1]:.1f} of C are left behind"


def used(session: Session) -> int:
    """What the key has given. A store may still have to get over what was done to it."""
    if session.case.used is None:
        return 0
    end = time.monotonic() + RECOVERY_S
    while True:
        try:
            return session.case.used()
        except BaseThrottledError:
            if time.monotonic() > end:
                raise
            time.sleep(0.01)


def spread(count: int, start: int = 0) -> Iterator[int]:
    """The numbers from 1 to count, so that each beginning is spread evenly over all of them."""
    if count <= 0:
        return
    step = max(1, round(count * 0.6180339887))
    while _common(step, count) != 1:
        step += 1
    for i in range(count):
        yield (start + i * step) % count + 1


def _common(a: int, b: int) -> int:
    while b:
        a, b = b, a % b
    return a

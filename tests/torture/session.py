"""One operation under torment: calls it with harm at a moment, and examines what came of it."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from operations import Operation, new_loop

import helper

END_S = 10.0
"""How long a task may take that nothing holds up."""
LEAK_RUNS = 8


@dataclass
class Outcome:
    value: Any
    error: BaseException | None
    seen: int
    done: int


class Session:
    def __init__(self, operation: Operation, loop: str = "") -> None:
        self.operation = operation
        kind = loop or operation.loop
        self.loop = new_loop(kind) if kind and kind != "trio" else None
        self.elsewhere: list[BaseException] = []
        """What came out of the loop's exception handler, or could not be raised at all."""
        if self.loop is not None:
            asyncio.set_event_loop(self.loop)
            self.loop.set_exception_handler(self._on_loop_error)
        sys.unraisablehook = self._on_unraisable
        self.case = operation.make()
        self.charged = 0
        """How often an operation that failed had taken its tokens."""
        self.collected = 0

    def close(self) -> None:
        with contextlib.suppress(Exception):
            self.case.clean()
        if self.loop is not None:
            with contextlib.suppress(Exception):
                self.loop.run_until_complete(self.loop.shutdown_default_executor())
            self.loop.close()

    def _on_loop_error(self, loop: Any, context: dict[str, Any]) -> None:
        if isinstance(error := context.get("exception"), BaseException):
            self.elsewhere.append(error.with_traceback(None))

    def _on_unraisable(self, unraisable: Any) -> None:
        if unraisable.exc_value is not None:
            self.elsewhere.append(unraisable.exc_value.with_traceback(None))

    # --- calls

    def call(self) -> Callable[[], Any]:
        loop, act = self.loop, self.case.act
        if loop is None:
            return act
        return lambda: loop.run_until_complete(act())

    def run(self, harm: int, kinds: int, own: bool, at: int, until: int) -> Outcome:
        """Call the operation. Harm is done at the moments from `at` to `until`, exclusive."""
        self.case.prepare()
        self.elsewhere.clear()
        return Outcome(*helper.load().run(self.call(), harm, kinds, own, at, until))

    def plain(self) -> str:
        """Call it undisturbed; what is wrong."""
        case = self.case
        case.prepare()
        before = case.used() if case.used else 0
        try:
            value = self.call()()
        except BaseException as error:
            return f"afterwards it raises {error!r}"
        if not case.passes(value):
            return f"afterwards it returns {value!r}"
        if case.used and (took := case.used() - before) != case.takes:
            return f"afterwards it takes {took} instead of {case.takes}"
        return ""

    # --- what came of it

    def tasks(self) -> str:
        """Let all tasks end; what is wrong with those that do not."""
        if self.loop is None:
            return ""
        for patience, verdict in ((END_S, "never ends by itself"), (END_S, "cannot be cancelled")):
            tasks = asyncio.all_tasks(self.loop)
            if not tasks:
                return ""
            _, pending = self.loop.run_until_complete(asyncio.wait(tasks, timeout=patience))
            if not pending:
                return ""
            problem = f"{len(pending)} tasks: {verdict}: {next(iter(pending))!r:.300}"
            for task in pending:
                task.cancel()
        return problem

    def state(self, before: int, error: BaseException | None, extra: int = 0) -> str:
        """Whether the count is right and nothing is left behind."""
        case = self.case
        problem = self.tasks()
        if problem:
            return problem
        try:
            if case.used:
                took = case.used() - before
                if error is None and took != case.takes + extra:
                    return f"it took {took} instead of {case.takes + extra}"
                if error is not None and not 0 <= took <= case.takes + extra:
                    return f"it raised {error!r} and took {took}, of {case.takes + extra}"
                self.charged += error is not None and took > extra
            return case.trouble()
        except BaseException as later:
            return f"afterwards the store raises {later!r}"

    def leak(self, again: Callable[[], object]) -> str:
        """Whether each call of `again` leaves a block behind."""
        blocks = helper.load().blocks
        python, c = blocks()
        grew = 0
        for turn in range(LEAK_RUNS):
            again()
            now_python, now_c = blocks()
            if now_python <= python and now_c <= c and turn < 3:
                return ""
            if turn == 3:
                gc.collect()
                self.collected += 1
                grew = 0
                now_python, now_c = blocks()
                first = (now_python, now_c)
            elif turn > 3:
                gc.collect()
                now_python, now_c = blocks()
                grew += now_python > python or now_c > c
            python, c = now_python, now_c
        if grew < LEAK_RUNS - 4:
            return ""
        lost = [(a - b) / grew for a, b in zip((python, c), first, strict=True)]
        if max(lost) < 1:
            return ""
        return f"each time {lost[0]:.0f} blocks of Python and {lost[1]:.0f} of C are left behind"


def used(session: Session) -> int:
    return session.case.used() if session.case.used else 0


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

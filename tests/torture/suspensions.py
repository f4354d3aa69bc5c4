"""What may happen to an awaitable while it is suspended: at each suspension it is cancelled,
closed, thrown into, or collected; from its own task, from a callback, and from another task.

By asyncio, uvloop, asyncio with eager tasks, with tasks in Python, in debug mode, and trio. What
must come of it: a cancelled task is cancelled, what is thrown comes out, nothing is left in a line,
no permit is lost, and the object works. The `protocol` torment compares sequences of actions with
what a coroutine does (protocol.py).
"""

from __future__ import annotations

import asyncio
import gc
import itertools
import warnings
from collections.abc import Generator
from typing import Any

import protocol
from operations import APART, Operation, has_loop
from session import Session, used

LOOPS = ("asyncio", "uvloop", "eager", "pytask", "debug")
SUSPENSIONS = 8
"""As many are looked for in an operation."""


class Thrown(Exception):
    """What is thrown into an awaitable."""


CLOSED = object()


class Stepper:
    """Awaits `inner` and does `action` to it when it is suspended for the `at`th time."""

    def __init__(self, inner: Any, at: int, action: str) -> None:
        self.inner, self.at, self.action = inner, at, action
        self.count = 0
        self.listening = self.heard = 0
        """Callbacks that were added beside the task's, and those that were called."""

    def _hear(self, of: Any) -> None:
        self.heard += of.done()

    def __await__(self) -> Generator[Any, Any, Any]:
        inner = self.inner
        iterator = inner if hasattr(inner, "send") else inner.__await__()
        self.inner = inner = None
        do, value = iterator.send, None
        while True:
            try:
                got = do(value)
            except StopIteration as end:
                return end.value
            self.count += 1
            if self.count == self.at:
                task = asyncio.current_task()
                loop = asyncio.get_running_loop()
                assert task is not None
                match self.action:
                    case "cancel":
                        task.cancel()
                    case "cancel soon":
                        loop.call_soon(task.cancel)
                    case "cancel twice":
                        task.cancel()
                        loop.call_soon(task.cancel)
                    case "cancel in a while":
                        loop.call_later(0.004, task.cancel)
                    case "cancel at about the slot":
                        loop.call_later(0.0098, task.cancel)
                    case "close":
                        iterator.close()
                        return CLOSED
                    case "close twice":
                        iterator.close()
                        iterator.close()
                        return CLOSED
                    case "throw":
                        iterator.throw(Thrown())
                    case "throw and resume":
                        try:
                            iterator.throw(Thrown())
                        except Thrown:
                            iterator.send(None)
                    case "collect":
                        iterator = do = got = None
                        gc.collect()
                        return CLOSED
                    case "listen" | "listen and cancel" if hasattr(got, "add_done_callback"):
                        for _ in range(2):
                            got.add_done_callback(self._hear)
                        self.listening += 2
                        if self.action == "listen and cancel":
                            task.cancel()
                    case "resume early":
                        # As a loop does that wakes a task twice.
                        got = iterator.send(None)
            try:
                value = yield got
                do = iterator.send
            except BaseException as error:
                do, value = iterator.throw, error


EXPECTED: dict[str, tuple[type[BaseException], ...]] = {
    "cancel": (asyncio.CancelledError,),
    "cancel soon": (asyncio.CancelledError,),
    "cancel twice": (asyncio.CancelledError,),
    "cancel in a while": (asyncio.CancelledError,),
    "cancel at about the slot": (asyncio.CancelledError,),
    "close": (),
    "close twice": (),
    "throw": (Thrown,),
    "throw and resume": (RuntimeError,),
    "collect": (),
    "resume early": (RuntimeError,),
    "listen": (),
    "listen and cancel": (asyncio.CancelledError,),
}


class Suspensions:
    harms_in_c = False
    name = "suspensions"

    def __init__(self) -> None:
        self.moments: list[tuple[str, int, str]] = []
        self.sessions: dict[str, Session] = {}

    def applies(self, operation: Operation) -> bool:
        return operation.loop == "asyncio" and operation.store not in APART

    def begin(self, session: Session) -> int:
        for other in self.sessions.values():
            other.close()
        self.sessions = {"asyncio": session}
        self.moments = []
        stepper = Stepper(None, 0, "")
        most = 0
        for _ in range(3):
            session.case.prepare()
            stepper = Stepper(session.case.act(), 0, "")
            assert session.loop is not None
            session.loop.run_until_complete(self._main(stepper))
            most = max(most, stepper.count)
        points = [*range(min(most, SUSPENSIONS) + 1)][1:]
        loops = [kind for kind in LOOPS if has_loop(kind)]
        self.moments = list(itertools.product(loops, points, EXPECTED))
        return len(self.moments)

    @staticmethod
    async def _main(stepper: Stepper) -> Any:
        return await stepper

    def moment(self, session: Session, n: int) -> str:
        kind, point, action = self.moments[n - 1]
        own = self.sessions.get(kind)
        if own is None:
            own = self.sessions[kind] = Session(session.operation, kind)
        assert own.loop is not None
        asyncio.set_event_loop(own.loop)
        own.elsewhere.clear()
        own.case.prepare()
        before = used(own)
        stepper = Stepper(own.case.act(), point, action)
        error: BaseException | None = None
        value = None
        task = own.loop.create_task(self._main(stepper))
        late = own.loop.call_later(6, own.loop.stop)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                value = own.loop.run_until_complete(task)
            except BaseException as caught:
                error = caught.with_traceback(None)
            late.cancel()
        what = f"{action} at suspension {point} on {kind}"
        if not task.done():
            return f"{what}: the task never ends; {own.tasks()}"
        reached = stepper.count >= point
        if error is None:
            # A cancel that comes too late, or to something that was decided, may come to nothing.
            fine = value is CLOSED or not reached or own.case.passes(value)
            problem = "" if fine else f"it returned {value!r}"
        elif isinstance(error, EXPECTED[action]):
            problem = ""
        else:
            problem = f"it raised {error!r}"
        if error is None and action == "throw" and reached:
            problem = "what was thrown did not come out"
        if stepper.heard != stepper.listening:
            problem = f"of {stepper.listening} callbacks {stepper.heard} were called"
        if value is CLOSED:
            error = asyncio.CancelledError()
        del task, stepper, value
        problem = problem or self._elsewhere(own) or own.state(before, error) or own.plain()
        return f"{what}: {problem}" if problem else ""

    @staticmethod
    def _elsewhere(session: Session) -> str:
        others = [
            e for e in session.elsewhere if not isinstance(e, (Thrown, asyncio.CancelledError))
        ]
        return f"the loop's exception handler got {others[0]!r}" if others else ""


class Protocol:
    """Sequences of actions, compared with a coroutine's answers. Its operations are its own."""

    harms_in_c = False
    name = "protocol"
    LENGTH = 3

    def applies(self, operation: Operation) -> bool:
        return operation.store == "protocol"

    def begin(self, session: Session) -> int:
        warnings.simplefilter("ignore")
        self.comparison = protocol.Comparison(session.operation.name.partition(".")[2])
        self.sequences = protocol.sequences(self.LENGTH)
        self.seen: set[str] = set()
        return len(self.sequences)

    def moment(self, session: Session, n: int) -> str:
        problem = self.comparison.differ(self.sequences[n - 1])
        return problem


class Trio:
    """A scope of trio is cancelled after a while, or another task asks for the same."""

    harms_in_c = False
    name = "trio"
    STEPS = 12

    def applies(self, operation: Operation) -> bool:
        # What is awaited by asyncio's own functions is not for trio.
        return (
            operation.loop == "asyncio"
            and operation.name.partition(".")[2]
            in {
                "limit@asyncio",
                "wait_one@asyncio",
                "semaphore@asyncio",
                "with@asyncio",
                "limiters_bucket@asyncio",
            }
            and operation.store not in ("client", *APART)
        )

    def begin(self, session: Session) -> int:
        import trio  # noqa: F401

        return self.STEPS * 2

    def moment(self, session: Session, n: int) -> str:
        import trio

        seconds = (n - 1) // 2 * 0.001
        case = session.case
        case.prepare()
        before = used(session)

        async def main() -> BaseException | None:
            with trio.fail_after(30):
                async with trio.open_nursery() as nursery:
                    if n % 2:
                        with trio.move_on_after(seconds) as scope:
                            await case.act()
                        return asyncio.CancelledError() if scope.cancelled_caught else None
                    nursery.start_soon(case.act)
                    await trio.sleep(seconds)
                    nursery.cancel_scope.cancel()
            return asyncio.CancelledError()

        error = trio.run(main)
        return session.state(before, error) or session.plain()


TORMENTS = [Suspensions(), Protocol(), Trio()]

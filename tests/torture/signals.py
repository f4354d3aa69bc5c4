"""A signal arrives at each moment of an operation, and its handler returns, raises, asks the same
store, or forks.

The moments: each byte code of headway's Python code, each allocation of its C code, each call of
the C code that may block; by a timer, instants within a wait. The handler runs where CPython next
looks for signals, as with a signal from outside.

What must come of it: nobody hangs; what is raised comes out exactly once; the key has given nothing
or what was asked for, and all of it where nothing was raised; no permit is lost; a forked child
works too.
"""

from __future__ import annotations

import contextlib
import os
import signal
import time
from types import FrameType
from typing import Any

import helper
from helper import ALLOCATION, BYTE_CODE, CALL, COUNT, SIGNAL
from operations import APART, Operation
from session import END_S, HandlerError, Outcome, Session, used

from headway.exceptions import StoreUnavailableError

LOOPS_OWN = {
    "",
    "_run_once",
    "_run",
    "run_forever",
    "run_until_complete",
    "select",
    "<lambda>",
    "_drive",
    "_set_result_unless_cancelled",
    "_done_callback",
}
"""Functions in which a loop loses a callback of its own when a handler raises there; "" is none."""


SHARED = ("shm", "sqlite", "redis", "lease", "client")
"""Stores that a forked child shares with its parent."""


class Signals:
    harms_in_c = True
    KINDS = BYTE_CODE | ALLOCATION | CALL

    def __init__(self, action: str) -> None:
        self.action = action
        self.name = f"signals-{action}"
        self.handled = 0
        self.child = False
        self.children: list[int] = []
        self.frame: str = ""
        self.case: Any = None

    def applies(self, operation: Operation) -> bool:
        if operation.store in APART:
            return False
        if self.action == "fork":
            return not operation.loop
        return self.action != "ask" or operation.store != "client" or not operation.loop

    def _handler(self, number: int, frame: FrameType | None) -> None:
        self.handled += 1
        self.frame = frame.f_code.co_name if frame is not None else ""
        match self.action:
            case "interrupt":
                raise KeyboardInterrupt
            case "own":
                raise HandlerError
            case "ask" if self.case.ask is not None:
                # The store may be in the middle of what was interrupted; then it says so.
                with contextlib.suppress(StoreUnavailableError):
                    self.case.ask()
            case "fork":
                pid = os.fork()
                if pid == 0:
                    self.child = True
                    helper.load().disarm()
                else:
                    self.children.append(pid)

    def begin(self, session: Session) -> int:
        self.case = session.case
        signal.signal(signal.SIGUSR1, self._handler)
        seen = 0
        for _ in range(3):
            outcome = session.run(COUNT, self.KINDS, True, 1, 1)
            if outcome.error is not None:
                raise outcome.error
            seen = max(seen, outcome.seen)
            session.state(0, outcome.error)
        return seen + 1

    def moment(self, session: Session, n: int) -> str:
        return self._moment(session, lambda: session.run(SIGNAL, self.KINDS, True, n, n + 1))

    def _moment(self, session: Session, run: Any) -> str:
        problem = self._examined(session, run)
        if session.kind == "uvloop" and "loop is already running" in problem:
            return self._renew(session)  # uvloop counts as running after an error in its own code
        return problem

    def _examined(self, session: Session, run: Any) -> str:
        self.handled, self.child, self.frame = 0, False, ""
        self.children.clear()
        before = used(session)
        came, error, value = 0, None, None
        raised: tuple[type[BaseException], ...] = (KeyboardInterrupt, HandlerError)
        try:
            outcome = run()
            value, error = outcome.value, outcome.error
        except raised:
            came += 1  # after the end of the call, in the harness
            outcome = None
        if self.child:
            self._end_child(session, error, value)
        # Until a child has ended, it may change what both share.
        of_children = self._children()
        if session.loses or (session.loop is not None and self.handled and self._lost_by_loop()):
            return self._renew(session)
        problem = ""
        if isinstance(error, raised):
            came += 1
        elif error is not None:
            problem = f"it raised {error!r:.200}"
        elif outcome is not None and not session.case.passes(value):
            problem = f"it returned {value!r}"
        came += sum(isinstance(e, raised) for e in session.elsewhere)
        # asyncio raises a task's KeyboardInterrupt, and again where the task is awaited.
        right = came == self.handled or (session.loop is not None and came > self.handled)
        if not problem and self.action in ("interrupt", "own") and not right:
            problem = (
                f"a handler raised {self.handled} times in {self.frame}, it came out {came} times"
            )
        error = error if error is None else error.with_traceback(None)
        if outcome is None:
            error = KeyboardInterrupt()
        if session.elsewhere and error is None:
            error = session.elsewhere[0]
        # Where processes share the store, the child takes up to two more.
        extra = 2 * session.case.takes * len(self.children) * (session.operation.store in SHARED)
        try:
            problem = problem or session.state(before, error, extra)
        except RuntimeError as error:
            problem = f"afterwards {error!r}"
        problem = problem or of_children or session.plain()
        if session.loses:
            return self._renew(session)
        return f"{problem} (handler ran in {self.frame})" if problem else ""

    def _lost_by_loop(self) -> bool:
        """Whether a loop has lost a callback of its own.

        A future of asyncio that is given its outcome is done, but has not had the loop call its
        callbacks, if a handler raises in call_soon() then. TaskWait has the loop called again.
        """
        if self.frame == "call_soon" and self.action in ("interrupt", "own"):
            return "python/module.c" in helper.where()
        return self.frame in LOOPS_OWN

    def _renew(self, session: Session) -> str:
        """asyncio has lost a task, or a callback of its own, as it does with any awaitable."""
        session.close()
        session.begin_anew()
        self.case = session.case
        return ""

    def _end_child(self, session: Session, error: BaseException | None, value: Any) -> None:
        """In the forked child: whether the operation ended well there, and another does."""
        try:
            status = 0
            if error is not None:
                status = 2
            elif not session.case.passes(value):
                status = 3
            else:
                session.case.prepare()
                if not session.case.passes(session.case.act()):
                    status = 4
        except BaseException:
            status = 5
        os._exit(status)

    def _children(self) -> str:
        verdict = {
            2: "the operation raised",
            3: "the operation returned something else",
            4: "the next one returned something else",
            5: "the next one raised",
        }
        problem = ""
        for pid in self.children:
            end = time.monotonic() + END_S
            while True:
                done, status = os.waitpid(pid, os.WNOHANG)
                if done:
                    code = os.waitstatus_to_exitcode(status)
                    if code:
                        problem = (
                            f"in the forked child: {verdict.get(code, f'it ended with {code}')}"
                        )
                    break
                if time.monotonic() > end:
                    os.kill(pid, signal.SIGKILL)
                    os.waitpid(pid, 0)
                    problem = f"the forked child hangs (longer than {END_S} s)"
                    break
                time.sleep(0.0005)
        return problem


class Timer(Signals):
    """The same, by a timer: at instants within waits."""

    INSTANTS = 16
    STEP_S = 0.0006

    def __init__(self, action: str) -> None:
        super().__init__(action)
        self.name = f"timer-{action}"

    def applies(self, operation: Operation) -> bool:
        return operation.waits and super().applies(operation)

    def begin(self, session: Session) -> int:
        super().begin(session)
        signal.signal(signal.SIGALRM, self._handler)
        return self.INSTANTS

    def moment(self, session: Session, n: int) -> str:
        def run() -> Any:
            call = session.call()

            def timed() -> Any:
                signal.setitimer(signal.ITIMER_REAL, n * self.STEP_S)
                try:
                    return call()
                finally:
                    signal.setitimer(signal.ITIMER_REAL, 0)

            session.case.prepare()
            session.elsewhere.clear()
            outcome = Outcome(*helper.load().run(timed, COUNT, 0, True, 1, 1))
            session.settle()
            return outcome

        return self._moment(session, run)


ACTIONS = ("return", "interrupt", "own", "ask", "fork")
TORMENTS = [*map(Signals, ACTIONS), *map(Timer, ACTIONS)]

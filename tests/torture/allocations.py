"""Each allocation of an operation fails in turn, alone or with 39 after it.

What must come of it: the right result, a MemoryError, or an error that the documents name. The key
has given nothing or what was asked for, nothing leaks, and afterwards the object works.

From threads every allocation counts. In an event loop, and with a client of redis-py, only those
that the C code asks for without Python code in between: loops and clients lose callbacks and
replies of their own when memory is short. So it is everywhere from CPython 3.12 on, whose own byte
codes crash or go wrong where memory is short (3.13.0: a SIGSEGV in a generator expression).
"""

from __future__ import annotations

import sys
from typing import Any

from helper import ALLOCATION, COUNT, FAIL, load
from operations import APART, Operation
from session import Session, used

IN_A_ROW = 40
"""Not more: without any memory, CPython 3.11 does not get out of an exception handler."""


class Allocations:
    harms_in_c = True

    def __init__(self, name: str, lasting: bool) -> None:
        self.name, self.lasting = name, lasting

    def applies(self, operation: Operation) -> bool:
        if operation.store in APART:
            return False
        if self.lasting and operation.name == "choked.settle":
            return False  # PyContextVar_Set of CPython 3.11 crashes where two allocations fail
        return not self.lasting or not self._loses(operation)

    def _loses(self, operation: Operation) -> bool:
        return bool(operation.loop) or operation.store in ("client", "smartratelimit")

    def _own(self, operation: Operation) -> bool:
        return sys.version_info >= (3, 12) or self._loses(operation)

    def begin(self, session: Session) -> int:
        """Warm up; how many moments there are."""
        seen = 0
        for _ in range(6):
            outcome = session.run(COUNT, ALLOCATION, self._own(session.operation), 1, 1)
            if outcome.error is not None:
                raise outcome.error
            problem = session.state(0, outcome.error) if session.case.used is None else ""
            if problem or session.tasks():
                raise AssertionError(problem)
            seen = max(seen, outcome.seen)
        return seen + 2

    def moment(self, session: Session, n: int) -> str:
        own, until = self._own(session.operation), n + (IN_A_ROW if self.lasting else 1)
        before = used(session)
        outcome = session.run(FAIL, ALLOCATION, own, n, until)
        if session.loses:
            return self._renew(session)
        problem = self._wrong(session, outcome.value, outcome.error)
        error = None if outcome.error is None else outcome.error.with_traceback(None)
        if outcome.error is not None:
            error.__cause__ = error.__context__ = None  # type: ignore[union-attr]
        outcome.error = outcome.value = None
        problem = problem or session.state(before, error) or session.plain()
        if session.loses:
            return self._renew(session)
        # Many failures in a row leave blocks behind in CPython itself.
        if problem or outcome.done == 0 or self.lasting:
            return problem

        def again() -> None:
            session.run(FAIL, ALLOCATION, own, n, until)
            if session.loses:
                self._renew(session)
            session.tasks()
            if session.operation.waits:
                session.case.trouble()

        found = session.leak(again)
        if found and "_sqlite3" in load().library():
            found = ""  # CPython's sqlite3 leaks there by itself
        return found or session.plain()

    def _renew(self, session: Session) -> str:
        """asyncio has lost a task, which may hold a permit for ever: that is not looked at."""
        session.close()
        session.begin_anew()
        return ""

    def _wrong(self, session: Session, value: Any, error: BaseException | None) -> str:
        if error is None:
            return "" if session.case.passes(value) else f"it returned {value!r}"
        if isinstance(error, SystemError) and "functools._lru_cache_wrapper" in str(error):
            return ""  # CPython's own fault, in the statement cache of sqlite3
        if isinstance(error, (MemoryError, *session.case.documented)):
            return ""
        return f"it raised {type(error).__name__}: {error!r:.200}"


TORMENTS = [Allocations("allocations", False), Allocations("allocations-all", True)]

"""Each call of the C code into CPython that may run Python code fails in turn: a method of a loop,
a hash, a comparison, an attribute, a hook, an import. The exception is one that no code knows.

What must come of it: that exception, or the right result, or an error that the documents name. The
key has given nothing or what was asked for, and afterwards the object works.
"""

from __future__ import annotations

from typing import Any

from helper import COUNT, FAIL, PYTHON_CALL
from operations import APART, Operation
from session import Session, used


class Calls:
    harms_in_c = True
    name = "calls"

    def applies(self, operation: Operation) -> bool:
        return operation.store not in APART

    def begin(self, session: Session) -> int:
        """How many calls there are."""
        seen = 0
        for _ in range(4):
            outcome = session.run(COUNT, PYTHON_CALL, False, 1, 1)
            if outcome.error is not None:
                raise outcome.error
            session.state(0, outcome.error)
            seen = max(seen, outcome.seen)
        return seen + 1

    def moment(self, session: Session, n: int) -> str:
        before = used(session)
        outcome = session.run(FAIL, PYTHON_CALL, False, n, n + 1)
        if session.loses:  # asyncio has lost a task, which may hold a permit for ever
            session.close()
            session.begin_anew()
            return ""
        problem = self._wrong(session, outcome.value, outcome.error)
        error = None if outcome.error is None else outcome.error.with_traceback(None)
        outcome.error = outcome.value = None
        return problem or session.state(before, error) or session.plain()

    def _wrong(self, session: Session, value: Any, error: BaseException | None) -> str:
        if error is None:
            return "" if session.case.passes(value) else f"it returned {value!r}"
        if isinstance(error, (ZeroDivisionError, *session.case.documented)):
            return ""
        return f"it raised {type(error).__name__}: {error!r:.200}"


TORMENTS = [Calls()]

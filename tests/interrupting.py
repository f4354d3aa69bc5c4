"""Runs an operation again and again, each time with an exception at the next place where a signal's
handler could raise one.

A handler runs in the main thread between two byte codes: when a Python function begins, after a
call, and where a loop jumps back. What an operation has taken by then it must give back. Python's
own `with lock:` is safe, as no handler runs between the taking and the block.
"""

from __future__ import annotations

import dis
import itertools
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import CodeType, FrameType
from typing import Any

import headway

PACKAGE = str(Path(headway.__file__).parent)


class Interruption(Exception):
    """What the handler raises: an Exception, as Celery's SoftTimeLimitExceeded is one."""


def interruptions(operation: Callable[[], object], most: int = 5000) -> Iterator[str]:
    """Interrupt the operation at one place after the other; after each, yield where that was.

    The last run is the one that is not interrupted. Errors other than the interruption come out.
    """
    for at in range(most):
        place = interrupt(operation, at)
        if place is None:
            return
        yield place
    raise AssertionError(f"not done after {most} interruptions")


def interrupt(operation: Callable[[], object], at: int) -> str | None:
    """Run the operation and interrupt it at its place number `at`; None: it has not so many."""
    counted = 0
    place: str | None = None

    def pass_by(frame: FrameType) -> None:
        nonlocal counted, place
        counted += 1
        if counted > at and place is None:
            code = frame.f_code
            place = f"{Path(code.co_filename).name}:{frame.f_lineno} {code.co_name}"
            raise Interruption(place)

    def trace(frame: FrameType, event: str, arg: object) -> Any:
        if event != "call" or not frame.f_code.co_filename.startswith(PACKAGE):
            return None
        frame.f_trace_opcodes = True
        if frame.f_code.co_flags & 0xA0 == 0 or frame.f_lasti <= 0:  # not one that goes on
            pass_by(frame)
        checks, before = _checks(frame.f_code), -1

        def local(frame: FrameType, event: str, arg: object) -> Any:
            nonlocal before
            if event == "opcode":
                was, before = before, frame.f_lasti
                if (was, before) in checks:
                    pass_by(frame)
            return local

        return local

    previous = sys.gettrace()
    sys.settrace(trace)
    try:
        operation()
    except BaseException as error:
        if place is None or not _comes_from(error):
            raise
    finally:
        sys.settrace(previous)
    return place


def _comes_from(error: BaseException | None) -> bool:
    while error is not None:
        if isinstance(error, Interruption):
            return True
        error = error.__cause__ or error.__context__
    return False


_known: dict[CodeType, frozenset[tuple[int, int]]] = {}


def _checks(code: CodeType) -> frozenset[tuple[int, int]]:
    """Offsets of the instructions after which a signal's handler may run, and of the next ones.

    What it raises comes out of that instruction, and what the tracer raises out of the next one.
    Where these two lie in different `try` blocks the tracer would raise in the wrong one.
    """
    found = _known.get(code)
    if found is None:
        steps = list(dis.get_instructions(code))
        handlers = _handlers(code)
        pairs = [
            (each.offset, following.offset)
            for each, following in itertools.pairwise(steps)
            if each.opname.startswith("CALL")
        ]
        pairs += [(each.offset, each.argval) for each in steps if "JUMP_BACKWARD" in each.opname]
        found = _known[code] = frozenset(
            (before, after)
            for before, after in pairs
            if handlers.get(before) == handlers.get(after)
        )
    return found


def _handlers(code: CodeType) -> dict[int, int]:
    """Where an exception of an instruction is handled, by offsets."""
    if not hasattr(code, "co_exceptiontable"):  # 3.10 has a stack of blocks instead
        return {}
    return {
        offset: entry.target
        for entry in dis._parse_exception_table(code)  # type: ignore[attr-defined]
        for offset in range(entry.start, entry.end, 2)
    }

"""Signals that come before the event loop runs, or after it has ended.

What the service needs takes a while to be imported, and a supervisor may send a signal at once: a
reload soon after the start must not end the process, and a stop ends it with 0, as it does later.
"""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Iterator
from types import FrameType
from typing import Any, NoReturn

__all__ = ["held_back", "hung_up", "ignore", "taken"]

_ALL = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
hung_up = False
"""Whether SIGHUP came: files may have changed since they were read."""


@contextlib.contextmanager
def taken() -> Iterator[None]:
    """Take the signals that stop the service or make it read its files again.

    Where the service does not start, they do again what they did.
    """
    global hung_up
    hung_up = False
    before: dict[signal.Signals, Any] = {}
    try:
        for number, handler in zip(_ALL, (_stop, _stop, _hang_up), strict=True):
            before[number] = signal.signal(number, handler)
        yield
    except BaseException as error:
        if not isinstance(error, SystemExit):
            for number, handler in before.items():
                signal.signal(number, handler if handler is not None else signal.SIG_DFL)
        raise


def ignore() -> None:
    """Ignore the signals, since the service has ended and the process is about to."""
    for number in _ALL:
        signal.signal(number, signal.SIG_IGN)


@contextlib.contextmanager
def held_back() -> Iterator[None]:
    """Keep the signals from being delivered meanwhile."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, _ALL)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _stop(number: int, frame: FrameType | None) -> NoReturn:
    ignore()
    raise SystemExit(0)


def _hang_up(number: int, frame: FrameType | None) -> None:
    global hung_up
    hung_up = True

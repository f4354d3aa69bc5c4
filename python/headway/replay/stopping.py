"""Ctrl-C during a replay: stop reading, keep what was read.

A signal that comes while a batch is being booked must not leave one quota a batch ahead of another,
so there it only leaves a mark; while waiting for bytes it interrupts. A second Ctrl-C always does.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from types import FrameType, TracebackType
from typing import Any, TypeVar

T = TypeVar("T")


class Stop:
    """Holds SIGINT while its block runs (in the main thread; elsewhere it changes nothing)."""

    def __init__(self) -> None:
        self.requested = False
        """Whether the user has had enough."""
        self._reading = False
        self._before: Any = None

    def __enter__(self) -> Stop:
        # A process that was started to ignore SIGINT (a background job) goes on ignoring it.
        if (
            threading.current_thread() is threading.main_thread()
            and signal.getsignal(signal.SIGINT) is not signal.SIG_IGN
        ):
            self._before = signal.signal(signal.SIGINT, self._on_signal)
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._before is not None:
            signal.signal(signal.SIGINT, self._before)

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        again, self.requested = self.requested, True
        if self._reading or again:
            raise KeyboardInterrupt

    def until(self, items: Iterator[T]) -> Iterator[T]:
        """The items, up to the moment at which the user has had enough."""
        while not self.requested:
            try:
                self._reading = True
                item = next(items, None)
            except KeyboardInterrupt:
                self.requested = True
                return
            finally:
                self._reading = False
            if item is None:
                return
            yield item

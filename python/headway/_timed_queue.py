"""A queue whose `get` ends when its time is over."""

import threading
import time
from contextlib import suppress
from queue import Empty, SimpleQueue
from typing import Generic, TypeVar

__all__ = ["TimedQueue"]

_A = TypeVar("_A")


class TimedQueue(Generic[_A]):
    """A `queue.SimpleQueue` with a `get` that ends.

    SimpleQueue.get(timeout=...) of CPython up to 3.12 waits without end where its thread is held up
    for longer than the timeout between two of its steps, as on a busy machine or by a fork: it then
    computes a rest below 0, and takes that for no timeout (Modules/_queuemodule.c).
    `put` may be called by a signal's handler and by the collector at any moment, as SimpleQueue's.
    """

    def __init__(self) -> None:
        self._items: SimpleQueue[_A] = SimpleQueue()
        self._waiters: list[threading.Lock] = []
        """Held locks of threads that wait, each of which `_tell` takes out and releases once."""

    def put(self, item: _A) -> None:
        """Add an item, and wake a thread that waits for one."""
        self._items.put(item)
        self._tell()

    def empty(self) -> bool:
        """Whether there is no item now."""
        return self._items.empty()

    def get(self, timeout: float) -> _A:
        """Take the oldest item. Raises `queue.Empty` when there is none for `timeout` seconds."""
        end = time.monotonic() + timeout
        while True:
            with suppress(Empty):
                return self._items.get_nowait()
            rest = end - time.monotonic()
            if rest <= 0:
                raise Empty
            told = threading.Lock()
            told.acquire()
            self._waiters.append(told)
            try:
                if self._items.empty():  # else it was put before this thread was to be told
                    told.acquire(timeout=min(rest, threading.TIMEOUT_MAX))
            finally:
                self._leave(told)

    def _leave(self, told: threading.Lock) -> None:
        try:
            self._waiters.remove(told)
        except ValueError:  # it was told, and takes an item next; others of more items are told too
            if not self._items.empty():
                self._tell()

    def _tell(self) -> None:
        with suppress(IndexError):  # no thread waits
            self._waiters.pop(0).release()

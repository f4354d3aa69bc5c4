"""News of semaphores in a store that wakes nobody: one thread for each store looks for all names.

It looks when the bytes may have changed: at once when this process has changed them, and every few
milliseconds whether another process has written the file (SQLite says so without reading it; a
store of the user's own is asked for each name).
"""

import asyncio
import os
import threading
import time
from collections.abc import Callable
from queue import Empty
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary, WeakSet

from headway import _core
from headway._timed_queue import TimedQueue

if TYPE_CHECKING:
    from headway.limiters._local_permits import LocalPermits

__all__ = ["Watcher", "watcher_of"]

POLL_S = 0.004
"""Between two looks at a store."""
SURELY_S = 0.5
"""After so long it looks at all names though nothing seems to have changed."""
LINGER_S = 1.0
"""So long the thread goes on when nobody listens: the next one may come soon."""

News = tuple["str | None", "BaseException | None"]


class Watcher:
    """Looks for news of all names of a store while somebody listens."""

    def __init__(self) -> None:
        self._start_anew()
        _all.add(self)

    def _start_anew(self) -> None:
        """In a fork's child, too: those who listen are threads and tasks of the parent."""
        self._lock = threading.RLock()
        self._listeners: dict[str, tuple[LocalPermits, Callable[[News], object]]] = {}
        self._thread: threading.Thread | None = None
        self._stirred: TimedQueue[None] = TimedQueue()

    def wait(self, permits: "LocalPermits", listener: str, seconds: float) -> str | None:
        """Wait for news of `listener`, as a thread."""
        heard: TimedQueue[News] = TimedQueue()
        try:
            self._listen(permits, listener, heard.put)
            id, error = heard.get(timeout=max(seconds, 0))
        except Empty:
            return None
        finally:
            self._listeners.pop(listener, None)
        if error is not None:
            raise error
        return id

    async def wait_async(
        self, permits: "LocalPermits", listener: str, seconds: float
    ) -> str | None:
        """Wait for news of `listener`, as a task of asyncio."""
        loop = asyncio.get_running_loop()
        future: asyncio.Future[str | None] = loop.create_future()

        def tell(news: News) -> None:
            try:
                loop.call_soon_threadsafe(_core._finish_future, future, *news)
            except RuntimeError:  # the loop is closed
                self._listeners.pop(listener, None)

        timer = loop.call_later(max(seconds, 0), _core._finish_future, future, None, None)
        try:
            self._listen(permits, listener, tell)
            return await future
        finally:
            timer.cancel()
            self._listeners.pop(listener, None)

    def stir(self) -> None:
        """This process has changed something."""
        if self._listeners and self._stirred.empty():
            self._stirred.put(None)

    def _listen(
        self, permits: "LocalPermits", listener: str, tell: Callable[[News], object]
    ) -> None:
        with self._lock:
            self._listeners[listener] = permits, tell
            if self._thread is None:
                thread = threading.Thread(
                    target=self._run, args=(permits.store,), name="headway-news", daemon=True
                )
                try:
                    self._thread = thread
                    thread.start()
                except BaseException:  # it may run all the same: `_run` sees to that
                    self._thread = None
                    raise
        self._stirred.put(None)

    def _run(self, store: Any) -> None:
        with self._lock:  # of several that were started, when starting was interrupted, one goes on
            if self._thread is None:
                self._thread = threading.current_thread()
            if self._thread is not threading.current_thread():
                return
        version = getattr(store, "_data_version", None)
        seen: object = None
        heard_last = looked_last = time.monotonic()
        while True:
            try:
                self._stirred.get(timeout=POLL_S)
                is_stirred = True
            except Empty:
                is_stirred = False
            now = time.monotonic()
            if self._listeners:
                heard_last = now
            elif now > heard_last + LINGER_S:
                with self._lock:
                    if not self._listeners:
                        self._thread = None
                        return
            if not is_stirred and version is not None and now < looked_last + SURELY_S:
                current = version()
                if current == seen and current is not None:
                    continue
                seen = current
            looked_last = now
            self._look()

    def _look(self) -> None:
        for listener, (permits, tell) in list(self._listeners.items()):
            id, failure = None, None
            try:
                id = permits.hear(listener)
            except BaseException as error:
                failure = error
            if id is not None or failure is not None:
                self._listeners.pop(listener, None)
                tell((id, failure))


_all: "WeakSet[Watcher]" = WeakSet()
_by_store: "WeakKeyDictionary[Any, Watcher]" = WeakKeyDictionary()
_lock = threading.RLock()


def watcher_of(store: Any) -> Watcher:
    """The watcher of a store."""
    with _lock:
        found = _by_store.get(store)
        if found is None:
            found = _by_store[store] = Watcher()
        return found


def _after_fork_in_child() -> None:
    global _lock
    _lock = threading.RLock()
    for watcher in list(_all):
        watcher._start_anew()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork_in_child)

"""Threads that do for an event loop what may block: one for a store that does one operation at a
time anyway, a few for others.

A loop's own executor is the program's: asyncio resolves host names in it. And a thread for each
operation is a thread for each task. So each store has a queue, and threads that end when there has
been nothing to do for a while.
"""

import asyncio
import os
import sys
import threading
from collections.abc import Callable
from queue import Empty
from typing import Any, TypeVar
from weakref import WeakKeyDictionary, WeakSet

from headway._core import _finish_future
from headway._timed_queue import TimedQueue

__all__ = ["Workers", "in_worker", "start_in_worker", "workers_of"]

IDLE_S = 5.0
"""For so long a thread with nothing to do waits for more."""
MOST = 8
"""Threads of a store that can do several things at once."""
_A = TypeVar("_A")


class Workers:
    """At most so many threads that do jobs, the first come first."""

    def __init__(self, most: int, name: str) -> None:
        self._most, self._name = most, name
        self._start_anew()
        _all.add(self)

    def _start_anew(self) -> None:
        """In a fork's child, too: the jobs are the parent's, and its threads are gone."""
        self._lock = threading.RLock()
        self._jobs: TimedQueue[Callable[[], object]] = TimedQueue()
        self._threads: set[object] = set()
        self._pending = 0
        """Jobs that were put and are not done."""

    def put(self, job: Callable[[], object]) -> None:
        """Do the job soon. It must not raise. RuntimeError where no thread can be started."""
        self._jobs.put(job)
        with self._lock:
            self._pending += 1
            if len(self._threads) >= min(self._pending, self._most):
                return
            me = object()
            try:
                self._threads.add(me)
                thread = threading.Thread(target=self._run, args=(me,), name=self._name)
                thread.daemon = True
                thread.start()
            except BaseException as error:
                # Where a signal's handler raised the thread may run: it counts itself.
                self._threads.discard(me)
                if not self._threads or not isinstance(error, RuntimeError):
                    raise

    def _run(self, me: object) -> None:
        with self._lock:
            self._threads.add(me)
        jobs = self._jobs
        while True:
            try:
                job = jobs.get(timeout=IDLE_S)
            except Empty:
                with self._lock:
                    if jobs.empty():
                        self._threads.discard(me)
                        return
                continue
            try:
                job()
            finally:
                del job
                with self._lock:
                    self._pending = max(self._pending - 1, 0)


_all: "WeakSet[Workers]" = WeakSet()
_by_store: "WeakKeyDictionary[Any, Workers]" = WeakKeyDictionary()
_lock = threading.RLock()


def workers_of(store: Any) -> Workers:
    """The threads of a store: one, where it says that it does one thing at a time."""
    with _lock:
        found = _by_store.get(store)
        if found is None:
            most = 1 if getattr(store, "_is_serial", False) else MOST
            found = _by_store[store] = Workers(most, "headway-store")
        return found


class _Errand:
    """A job of a task: its answer goes to a future of the task's loop."""

    __slots__ = ("_future", "_loop", "_work")

    def __init__(self, work: Callable[[], Any], future: "asyncio.Future[Any]") -> None:
        self._work, self._future = work, future
        self._loop = future.get_loop()

    def __call__(self) -> None:
        if self._future.cancelled():  # before it was begun: then it is not done at all
            return
        answer, failure = None, None
        try:
            answer = self._work()
        except BaseException as error:
            failure = error
        try:
            self._loop.call_soon_threadsafe(_finish_future, self._future, answer, failure)
        except RuntimeError:  # the loop is closed, and its tasks are gone
            return


def start_in_worker(store: Any, work: Callable[[], _A]) -> "asyncio.Future[_A]":
    """The future of what a thread of the store does. It is not begun once that is cancelled."""
    future: asyncio.Future[_A] = asyncio.get_running_loop().create_future()
    try:
        workers_of(store).put(_Errand(work, future))
    except BaseException:
        future.cancel()
        raise
    return future


async def in_worker(store: Any, work: Callable[[], _A]) -> _A:
    """Let a thread of the store do the work, in asyncio or in trio."""
    if "trio" in sys.modules:
        from headway._trio import in_trio

        if in_trio():
            import trio

            return await trio.to_thread.run_sync(work, limiter=_limiter_of(store))
    return await start_in_worker(store, work)


def _limiter_of(store: Any) -> Any:
    """What bounds the threads of trio that a store's tasks use: not its 40 for everything."""
    import trio

    token = trio.lowlevel.current_trio_token()
    with _lock:
        limiters = _limiters.setdefault(store, WeakKeyDictionary())
        found = limiters.get(token)
        if found is None:
            most = 1 if getattr(store, "_is_serial", False) else MOST
            found = limiters[token] = trio.CapacityLimiter(most)
        return found


_limiters: "WeakKeyDictionary[Any, WeakKeyDictionary[Any, Any]]" = WeakKeyDictionary()


def _after_fork_in_child() -> None:
    global _lock
    _lock = threading.RLock()
    for workers in list(_all):
        workers._start_anew()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork_in_child)

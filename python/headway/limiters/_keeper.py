"""The thread that keeps leases: it renews those of living holders, and ends what was given back.

It is a thread and not a task, because an event loop that is blocked must not lose its permits; and
one for each store, so that a server that does not answer keeps nobody from renewing at another.
It starts with the first permit and ends when none has been held for a while. What it
does for a semaphore is `Permits.look_after`.
"""

import atexit
import os
import threading
import time
from contextlib import suppress
from queue import Empty
from typing import TYPE_CHECKING
from weakref import WeakKeyDictionary, WeakSet

from headway._timed_queue import TimedQueue
from headway.exceptions import StoreUnavailableError
from headway.limiters import _permits

if TYPE_CHECKING:
    from headway.limiters._permits import Permits
    from headway.types import AnyStore

__all__ = ["keeper_of"]

IDLE = 10.0
"""Seconds after which a thread with nothing to do ends."""
FLUSH = 1.0
"""Seconds for which the end of the interpreter waits for a renewal."""
NEVER = float("inf")


class Keeper:
    """Looks after the permits of one store. It does not keep the store alive; what is held does."""

    def __init__(self) -> None:
        self._lock = threading.RLock()  # the collector may end a lease while one is being made
        self._at_work = threading.Lock()
        self._busy: set[Permits] = set()
        self._quiet: WeakSet[Permits] = WeakSet()
        """Those that have connections on which nobody listens. A name that is dropped drops its
        connections, so the keeper does not keep it."""
        self._thread: threading.Thread | None = None
        self._wake = TimedQueue[None]()
        self._wakes_at = NEVER

    def watch(self, permits: "Permits", due: float) -> None:
        """Look after these permits, and first at the instant `due`."""
        with self._lock:
            self._busy.add(permits)
            self._begin(due)

    def watch_connections(self, permits: "Permits", due: float) -> None:
        """Close the connections of these permits, if they are not used, at the instant `due`."""
        with self._lock:
            self._quiet.add(permits)
            self._begin(due)

    def _begin(self, due: float) -> None:
        """Let the thread look at the instant `due`, under the lock."""
        if self._thread is None:
            self._wakes_at = NEVER
            thread = threading.Thread(target=self._run, name="headway-leases", daemon=True)
            try:
                self._thread = thread
                thread.start()
            except RuntimeError:  # the interpreter is ending: leases lapse
                self._thread = None
            except BaseException:  # it may run all the same: `_run` sees to that
                self._thread = None
                raise
        elif due < self._wakes_at:
            self._wakes_at = due
            self._wake.put(None)

    def rest(self, permits: "Permits") -> None:
        """Let go of these permits, if none is held: then their name may be defined anew."""
        with self._lock, permits.lock:
            if not permits.leases and not permits.given_back:
                self._busy.discard(permits)

    def _run(self) -> None:
        with self._lock:  # of several that were started, when starting was interrupted, one goes on
            if self._thread is None:
                self._thread = threading.current_thread()
            if self._thread is not threading.current_thread():
                return
        pause: float | None = 0.0
        while pause is not None:
            with suppress(Empty):
                self._wake.get(timeout=min(pause, IDLE))
            pause = self._turn(may_end=pause >= IDLE)

    def _turn(self, may_end: bool) -> float | None:
        """Look once after all. Return the seconds until the next time; None to end."""
        with self._lock:
            busy = list(self._busy)
            if not busy and not self._quiet and may_end:
                self._thread = None
                return None
            # Whoever adds something from here on wakes us.
            self._wakes_at = NEVER
            while not self._wake.empty():
                with suppress(Empty):
                    self._wake.get(timeout=0)
        instants = [NEVER]
        for permits in busy:
            with self._at_work:
                due = permits.look_after(time.monotonic())
            if due is not None:
                instants.append(due)
                with self._lock:
                    self._busy.add(permits)  # whoever left meanwhile may have let go of them
                continue
            self.rest(permits)
        with self._lock:
            quiet = list(self._quiet)
        for permits in quiet:
            due = permits.lines.quiet_at(time.monotonic())
            if due is not None:
                instants.append(due)
                continue
            with self._lock:
                self._quiet.discard(permits)
        with self._lock:
            self._wakes_at = min(instants) if self._wake.empty() else 0.0
            return max(self._wakes_at - time.monotonic(), 0.0)

    def flush(self) -> None:
        """At the interpreter's end: what was given back need not wait until it lapses.

        A renewal that is on its way may arrive after the lease was left, and write it again. So it
        is waited for: then it is known what is to be given back once more.
        """
        if self._at_work.acquire(timeout=FLUSH):
            self._at_work.release()
        with self._lock:
            busy = [permits for permits in self._busy if permits.given_back]
        for permits in busy:
            with suppress(StoreUnavailableError):
                permits.ask("", [("leave", id, 0, 0) for id in list(permits.given_back)])


_keepers: "WeakKeyDictionary[AnyStore, Keeper]" = WeakKeyDictionary()
_lock = threading.RLock()


def keeper_of(permits: "Permits") -> Keeper:
    """The keeper of the permits' store."""
    with _lock:
        keeper = _keepers.get(permits.store)
        if keeper is None:
            keeper = _keepers[permits.store] = Keeper()
        return keeper


def _start_anew() -> None:
    """In a fork's child, which holds nothing and renews nothing."""
    global _lock
    _lock = threading.RLock()
    _keepers.clear()
    _permits.start_anew()


@atexit.register
def _flush() -> None:
    with _lock:
        keepers = list(_keepers.values())
    for keeper in keepers:
        keeper.flush()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_start_anew)

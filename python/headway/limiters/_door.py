"""One semaphore's way to permits on a server: entering, leaving, and which lease a leave ends.

The compiled semaphore hands `with` and `async with` over to it. Which permit it is that comes back
follows the rules of the permits in memory (src/python/semaphore_type.c).
"""

import time
from collections.abc import Callable, Generator
from typing import TYPE_CHECKING, Any
from weakref import ReferenceType

from headway import _core
from headway.exceptions import StoreUnavailableError
from headway.limiters._keeper import keeper_of
from headway.limiters._line import Waiter
from headway.limiters._permits import Lease, Permits
from headway.limiters.exceptions import MaxSleepExceededError

if TYPE_CHECKING:
    from headway._core import MemoryStore

__all__ = ["Door"]

Holder = ReferenceType[object]


class _Nothing:
    """An awaitable of None that can be dropped."""

    def __await__(self) -> Generator[Any, Any, None]:
        return
        yield


class _Entry:
    """One who has come in: by a lease, or by the fallback store's semaphore."""

    __slots__ = ("fallback", "holder", "lease", "since")

    def __init__(self, holder: Holder, lease: Lease | None, fallback: Any = None) -> None:
        self.holder, self.lease, self.fallback = holder, lease, fallback
        self.since = time.monotonic()


class Door:
    """What a semaphore on a server has instead of a pool in memory."""

    __slots__ = ("_entered", "_entries", "_fallback", "_make_fallback", "permits")

    def __init__(self, permits: Permits, make_fallback: "Callable[[MemoryStore], Any]") -> None:
        self.permits = permits
        self._make_fallback = make_fallback
        self._fallback: Any = None
        self._entered = 0
        self._entries: dict[int, list[_Entry]] = {}
        """By the holder's identity: a holder's weak reference is always the same object."""

    @property
    def name(self) -> str:
        return self.permits.name

    @property
    def capacity(self) -> int:
        return self.permits.capacity

    @property
    def held(self) -> int:
        return self.permits.held

    @property
    def waiting(self) -> int:
        return self.permits.waiting

    # Threads.

    def enter(self, semaphore: Any) -> None:
        """What `with` does. Raises MaxSleepExceededError, StoreUnavailableError."""
        holder = _core._holder_thread()
        line = self.permits.lines.of_threads()
        waiter = line.newcomer(semaphore.expiry)
        until = _until(semaphore.max_sleep)
        arrived = False
        try:
            try:
                granted = line.join(waiter)
                arrived = True
                if granted or line.wait(waiter, until):
                    self._take(waiter, holder)
                    return
                answer = self.permits.ask("", [waiter.step("leave")])
            except StoreUnavailableError as error:
                self._lost(waiter, error)
                fallback = self._policy(semaphore, error)
                if fallback is not None:
                    fallback.__enter__()
                self._let_in(holder, fallback)
                return
        except BaseException as error:
            if not isinstance(error, (StoreUnavailableError, MaxSleepExceededError)):
                self.permits.give_back(waiter.id, waiter.term, arriving=not arrived)
            raise
        finally:
            line.drop(waiter)
        raise semaphore._max_sleep_error(answer.held, answer.waiting)

    def leave(self, semaphore: Any, destroyed: bool) -> None:
        """What the end of `with` does."""
        entry = self._ending(_core._holder_thread(), destroyed)
        if entry is None:
            return
        if entry.lease is None:
            entry.fallback.__exit__(None, None, None)
            return
        if destroyed:
            self.permits.give_back(entry.lease.id, entry.lease.term)
            return
        try:
            self.permits.ask("", [("leave", entry.lease.id, 0, 0)])
        except StoreUnavailableError:
            self.permits.give_back(entry.lease.id, entry.lease.term)
        except BaseException:
            self.permits.give_back(entry.lease.id, entry.lease.term)
            raise

    # Tasks: the same, awaited.

    async def enter_async(self, semaphore: Any) -> None:
        """What `async with` does."""
        line = self.permits.lines.of_loop()
        holder = _core._holder_task()
        waiter = line.newcomer(semaphore.expiry)
        until = _until(semaphore.max_sleep)
        arrived = False
        try:
            try:
                granted = await line.join(waiter)
                arrived = True
                if granted or await line.wait(waiter, until):
                    self._take(waiter, holder)
                    return
                answer = await self.permits.ask_async("", [waiter.step("leave")])
            except StoreUnavailableError as error:
                self._lost(waiter, error)
                fallback = self._policy(semaphore, error)
                if fallback is not None:
                    await fallback.__aenter__()
                self._let_in(holder, fallback)
                return
        except BaseException as error:
            if not isinstance(error, (StoreUnavailableError, MaxSleepExceededError)):
                self.permits.give_back(waiter.id, waiter.term, arriving=not arrived)
            raise
        finally:
            line.drop(waiter)
        raise semaphore._max_sleep_error(answer.held, answer.waiting)

    def leave_async(self, semaphore: Any, destroyed: bool) -> Any:
        """What the end of `async with` does: which lease it is, is settled before it is awaited."""
        entry = self._ending(_core._holder_task(), destroyed)
        if entry is None:
            return _Nothing()
        if entry.lease is None:
            return entry.fallback.__aexit__(None, None, None)
        if destroyed:  # nothing can be awaited in a coroutine that is being closed
            self.permits.give_back(entry.lease.id, entry.lease.term)
            return _Nothing()
        return self._release(entry.lease)

    async def _release(self, lease: Lease) -> None:
        try:
            await self.permits.ask_async("", [("leave", lease.id, 0, 0)])
        except StoreUnavailableError:
            self.permits.give_back(lease.id, lease.term)
        except BaseException:
            self.permits.give_back(lease.id, lease.term)
            raise

    # Leases.

    def _take(self, waiter: Waiter, holder: Holder) -> None:
        permits = self.permits
        lease = waiter.lease(holder)
        with permits.lock:
            permits.leases[lease.id] = lease
            self._entered += 1
            self._add(_Entry(holder, lease))
        keeper_of(permits).watch(permits, lease.due)

    def _let_in(self, holder: Holder, fallback: Any) -> None:
        with self.permits.lock:
            self._entered += 1
            if fallback is not None:
                self._add(_Entry(holder, None, fallback))

    def _add(self, entry: _Entry) -> None:
        self._entries.setdefault(id(entry.holder), []).append(entry)

    def _ending(self, holder: Holder, destroyed: bool) -> _Entry | None:
        """Whose entry a leave of `holder` ends: its own youngest. Where it has none (a coroutine
        that is destroyed leaves in nobody's task) that of one who is gone; failing that, the
        oldest. None where one came in without a permit, has lost it, or has been forked.
        """
        with self.permits.lock:
            if self._entered <= 0:
                return None
            self._entered -= 1
            entry = None if destroyed else self._own(holder)
            if entry is None:
                entries = self._all()
                gone = (one for one in entries if not _core._holder_lives(one.holder))
                entry = next(gone, None) if destroyed else None
                entry = entry or self._own(holder)
                if entry is None and self._entered < len(entries):
                    entry = next(gone, None) or entries[0]
            if entry is not None:
                self._remove(entry)
                if entry.lease is not None:
                    del self.permits.leases[entry.lease.id]
        if not self.permits.leases:
            keeper_of(self.permits).rest(self.permits)
        return entry

    def _own(self, holder: Holder) -> _Entry | None:
        own = self._entries.get(id(holder), ())
        return next((entry for entry in reversed(own) if self._counts(entry)), None)

    def _all(self) -> list[_Entry]:
        """The oldest first. Those whose lease has lapsed are forgotten."""
        entries = [entry for own in list(self._entries.values()) for entry in own]
        for entry in entries:
            if not self._counts(entry):
                self._remove(entry)
        return sorted(filter(self._counts, entries), key=lambda entry: entry.since)

    def _counts(self, entry: _Entry) -> bool:
        return entry.lease is None or entry.lease.id in self.permits.leases

    def _remove(self, entry: _Entry) -> None:
        own = self._entries[id(entry.holder)]
        own.remove(entry)
        if not own:
            del self._entries[id(entry.holder)]

    # A server that does not answer.

    def _lost(self, waiter: Waiter, error: StoreUnavailableError) -> None:
        if waiter.place or getattr(error, "may_have_counted", True):
            self.permits.give_back(waiter.id, waiter.term, arriving=True)

    def _policy(self, semaphore: Any, error: StoreUnavailableError) -> Any:
        """What on_error has instead: the fallback's semaphore, or None to come in without a
        permit. Raises the error where it says so, MaxSleepExceededError to deny.
        """
        policy = self.permits.policy(error)
        if policy == "allow":
            return None
        if isinstance(policy, str):
            raise MaxSleepExceededError(
                f"Semaphore {self.name!r}: no permit, since on_error={policy!r}. {error}"
            ) from error
        if self._fallback is None:
            self._fallback = self._make_fallback(policy)
        return self._fallback


def _until(max_sleep: float) -> float:
    return time.monotonic() + max_sleep if max_sleep > 0 else float("inf")

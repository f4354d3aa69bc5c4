"""One semaphore's way to permits on a server: entering, leaving, and which lease a leave ends.

The compiled semaphore hands `with` and `async with` over to it. Which permit it is that comes back
follows the rules of the permits in memory (src/python/semaphore_type.c).
"""

import time
from collections.abc import Callable, Coroutine, Generator
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

_FIRST_PRUNE = 64
_LAPSED_KEPT = 32


class _Nothing:
    """An awaitable of None that can be dropped."""

    def __await__(self) -> Generator[Any, Any, None]:
        return
        yield


class _Entry:
    """One who has come in: by a lease, by the fallback store's semaphore, or without a permit.

    It stays when its lease has lapsed: the leave that belongs to it may still come.
    """

    __slots__ = ("fallback", "holder", "lease", "since")

    def __init__(self, holder: Holder, lease: Lease | None, fallback: Any = None) -> None:
        self.holder, self.lease, self.fallback = holder, lease, fallback
        self.since = time.monotonic()


class Door:
    """What a semaphore on a server has instead of a pool in memory."""

    __slots__ = ("_count", "_entries", "_fallback", "_make_fallback", "_prune_at", "permits")

    def __init__(self, permits: Permits, make_fallback: "Callable[[MemoryStore], Any]") -> None:
        self.permits = permits
        self._make_fallback = make_fallback
        self._fallback: Any = None
        self._count = 0
        self._prune_at = _FIRST_PRUNE
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
        entry = self._ending(_core._holder_thread(), destroyed=False, of_tasks=False)
        if entry is None:
            return
        if entry.lease is None:
            if entry.fallback is not None:
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

    def enter_async(self, semaphore: Any) -> Coroutine[Any, Any, None]:
        """What `async with` does. The holder is the task that calls it: asyncio.wait_for() of
        Python 3.11 and earlier awaits it in a task of its own, which ends when it has the permit.
        """
        return self._enter_async(semaphore, _core._holder_task())

    async def _enter_async(self, semaphore: Any, holder: Holder) -> None:
        line = self.permits.lines.of_loop()
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
        entry = self._ending(_core._holder_task(), destroyed, of_tasks=True)
        if entry is None:
            return _Nothing()
        if entry.lease is None:
            if entry.fallback is None:
                return _Nothing()
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
            self._add(_Entry(holder, lease))
        keeper_of(permits).watch(permits, lease.due)

    def _let_in(self, holder: Holder, fallback: Any) -> None:
        with self.permits.lock:
            self._add(_Entry(holder, None, fallback))

    def _add(self, entry: _Entry) -> None:
        if self._count >= self._prune_at:
            self._prune()
        self._entries.setdefault(id(entry.holder), []).append(entry)
        self._count += 1

    def _prune(self) -> None:
        """Forgets lapsed entries whose leave has not come, but for the youngest of them."""
        for entry in [one for one in self._all() if not self._counts(one)][:-_LAPSED_KEPT]:
            self._remove(entry)
        self._prune_at = max(2 * self._count, _FIRST_PRUNE)

    def _ending(self, holder: Holder, destroyed: bool, of_tasks: bool) -> _Entry | None:
        """Whose entry a leave of `holder` ends. None where its lease has lapsed or is the
        parent's of a fork.
        """
        with self.permits.lock:
            entry = self._choose(holder, destroyed, of_tasks)
            if entry is None:
                return None
            self._remove(entry)
            if entry.lease is not None and self.permits.leases.pop(entry.lease.id, None) is None:
                entry = None
        if not self.permits.leases:
            keeper_of(self.permits).rest(self.permits)
        return entry

    def _choose(self, holder: Holder, destroyed: bool, of_tasks: bool) -> _Entry | None:
        """The holder's own youngest, mostly; the rules are those of leave_thread and leave_task in
        src/python/semaphore_type.c.
        """
        own = self._entries.get(id(holder), ())
        if own and not destroyed:
            return own[-1]
        entries = self._all()
        gone = (one for one in entries if self._counts(one) and not _core._holder_lives(one.holder))
        if destroyed:
            closing = (one for one in entries if _core._holder_is_closing(one.holder))
            found = next(closing, None) or next(gone, None) or (own[-1] if own else None)
            if found is not None:
                return found
        if of_tasks:
            lapsed = next((one for one in entries if not self._counts(one)), None)
            if lapsed is not None:
                return lapsed
        return next(gone, None) or next(filter(self._counts, entries), None)

    def _all(self) -> list[_Entry]:
        """The oldest first."""
        entries = [entry for own in list(self._entries.values()) for entry in own]
        return sorted(entries, key=lambda entry: entry.since)

    def _counts(self, entry: _Entry) -> bool:
        """Whether its lease has not lapsed. That of a holder that is gone has when its time is
        over, though the keeper may not have come by to end it.
        """
        lease = entry.lease
        if lease is None:
            return True
        return lease.id in self.permits.leases and (
            time.monotonic() < lease.until or _core._holder_lives(entry.holder)
        )

    def _remove(self, entry: _Entry) -> None:
        own = self._entries[id(entry.holder)]
        own.remove(entry)
        self._count -= 1
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

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


class _Release:
    """The end of a lease, awaited. Where that does not come to its end, the keeper ends it."""

    __slots__ = ("_lease", "_permits")

    def __init__(self, permits: Permits, lease: Lease) -> None:
        self._permits = permits
        self._lease: Lease | None = lease

    def __await__(self) -> Generator[Any, Any, None]:
        return self._run(self._lease).__await__()

    async def _run(self, lease: Lease | None) -> None:
        if lease is None:
            return
        try:
            await self._permits.ask_async("", [("leave", lease.id, 0, 0)])
        except BaseException as error:
            self._give_back()
            if not isinstance(error, StoreUnavailableError):
                raise
        self._lease = None

    def _give_back(self) -> None:
        lease, self._lease = self._lease, None
        if lease is not None:
            self._permits.give_back(lease.id, lease.term)

    def __del__(self) -> None:
        self._give_back()


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
        """By the holder's identity: a holder's weak reference is always the same object. Each
        block that was entered and not left has one, though its lease may have lapsed."""

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
        """What `with` does. Raises MaxSleepExceededError, StoreUnavailableError.

        An interruption (headway._interrupts) gives back what may have been taken. So nothing is
        called between the taking of a permit and the return.
        """
        line = self.permits.lines.of_threads()
        holder = _core._holder_thread()
        until = _until(semaphore.max_sleep)
        waiter = line.newcomer(semaphore.expiry)
        try:
            try:
                line.expect(waiter)
                if line.join(waiter) or line.wait(waiter, until):
                    self._take(line, waiter, holder)
                    return
            except StoreUnavailableError as error:
                self._lost(waiter, error)
                fallback = self._policy(semaphore, error)
                if fallback is not None:
                    fallback.__enter__()
                self._let_in(line, waiter, holder, fallback)
                return
            answer = self._late(line, waiter)
        except BaseException as error:
            try:
                self._undo(line, waiter, holder, error)
            except BaseException:  # interrupted once more; doing it twice changes nothing
                self._undo(line, waiter, holder, error)
                raise
            raise
        raise semaphore._max_sleep_error(*answer)

    def leave(self, semaphore: Any, destroyed: bool, ended: list[_Entry | None]) -> None:
        """What the end of `with` does. `ended` gets the entry that it ends, before anything else.

        When this raises, the caller goes on with `leave_late`.
        """
        self._end(_core._holder_thread(), False, False, ended)
        entry = ended[0]
        if entry is None:
            return
        if entry.lease is None:
            if entry.fallback is not None:
                entry.fallback.__exit__(None, None, None)
        elif destroyed:
            self.permits.give_back(entry.lease.id, entry.lease.term)
        else:
            try:
                self.permits.ask("", [("leave", entry.lease.id, 0, 0)])
            except StoreUnavailableError:
                self.permits.give_back(entry.lease.id, entry.lease.term)

    def leave_late(self, destroyed: bool, ended: list[_Entry | None], is_task: bool) -> None:
        """Do what a leave that was interrupted has not done; doing it twice changes nothing."""
        holder = _core._holder_task() if is_task else _core._holder_thread()
        self._end(holder, destroyed and is_task, is_task, ended)
        entry = ended[0]
        if entry is not None and entry.lease is not None:
            self.permits.give_back(entry.lease.id, entry.lease.term)

    # Tasks: the same, awaited.

    def enter_async(self, semaphore: Any) -> Coroutine[Any, Any, None]:
        """What `async with` does. The holder is the task that calls it: asyncio.wait_for() of
        Python 3.11 and earlier awaits it in a task of its own, which ends when it has the permit.
        """
        return self._enter_async(semaphore, _core._holder_task())

    async def _enter_async(self, semaphore: Any, holder: Holder) -> None:
        line = self.permits.lines.of_loop()
        until = _until(semaphore.max_sleep)
        waiter = line.newcomer(semaphore.expiry)
        try:
            try:
                line.expect(waiter)
                if await line.join(waiter) or await line.wait(waiter, until):
                    self._take(line, waiter, holder)
                    return
            except StoreUnavailableError as error:
                self._lost(waiter, error)
                fallback = self._policy(semaphore, error)
                if fallback is not None:
                    await fallback.__aenter__()
                self._let_in(line, waiter, holder, fallback)
                return
            answer = await self._late_async(line, waiter)
        except BaseException as error:
            try:
                self._undo(line, waiter, holder, error)
            except BaseException:  # interrupted once more; doing it twice changes nothing
                self._undo(line, waiter, holder, error)
                raise
            raise
        raise semaphore._max_sleep_error(*answer)

    def leave_async(self, semaphore: Any, destroyed: bool, ended: list[_Entry | None]) -> Any:
        """What the end of `async with` does: which lease it is, is settled before it is awaited."""
        self._end(_core._holder_task(), destroyed, True, ended)
        entry = ended[0]
        if entry is None:
            return _Nothing()
        if entry.lease is None:
            if entry.fallback is None:
                return _Nothing()
            return entry.fallback.__aexit__(None, None, None)
        if destroyed:  # nothing can be awaited in a coroutine that is being closed
            self.permits.give_back(entry.lease.id, entry.lease.term)
            return _Nothing()
        return _Release(self.permits, entry.lease)

    # Leases.

    def _take(self, line: Any, waiter: Waiter, holder: Holder) -> None:
        permits = self.permits
        lease = waiter.lease(holder)
        with permits.lock:
            permits.leases[lease.id] = lease
            self._add(_Entry(holder, lease))
        line.drop(waiter)
        keeper_of(permits).watch(permits, lease.due)

    def _let_in(self, line: Any, waiter: Waiter, holder: Holder, fallback: Any) -> None:
        line.drop(waiter)
        with self.permits.lock:
            self._add(_Entry(holder, None, fallback))

    def _undo(self, line: Any, waiter: Waiter, holder: Holder, error: BaseException) -> None:
        """Give back what an enter that failed or was interrupted may have taken."""
        arriving = not waiter.arrived
        if not isinstance(error, (StoreUnavailableError, MaxSleepExceededError)):
            with self.permits.lock:
                self.permits.leases.pop(waiter.id, None)
                for entry in list(self._entries.get(id(holder), ())):
                    if entry.lease is not None and entry.lease.id == waiter.id:
                        self._remove(entry)
            self.permits.give_back(waiter.id, waiter.term, arriving=arriving)
        line.leave(waiter)

    def _late(self, line: Any, waiter: Waiter) -> tuple[int | None, int | None]:
        """No permit came in time: leave the line. How many were held and waiting, if known.

        The leave is asked for at once: until it is done, a permit that is freed would be handed to
        a waiter who has been refused. A server that does not answer already is not waited for.
        """
        line.drop(waiter)
        if not line.is_failing:
            try:
                answer = self.permits.ask("", [waiter.step("leave")])
                return answer.held, answer.waiting
            except StoreUnavailableError:
                pass
        return self._late_by_keeper(waiter)

    async def _late_async(self, line: Any, waiter: Waiter) -> tuple[int | None, int | None]:
        """The same, awaited."""
        line.drop(waiter)
        if not line.is_failing:
            try:
                answer = await self.permits.ask_async("", [waiter.step("leave")])
                return answer.held, answer.waiting
            except StoreUnavailableError:
                pass
        return self._late_by_keeper(waiter)

    def _late_by_keeper(self, waiter: Waiter) -> tuple[int | None, int | None]:
        self.permits.give_back(waiter.id, waiter.term)
        waiting = waiter.waiting
        return waiter.held, waiting if waiting is None else max(waiting - 1, 0)

    def _add(self, entry: _Entry) -> None:
        if self._count >= self._prune_at:
            self._prune()
        own = self._entries.get(id(entry.holder))
        if own is None:
            self._entries[id(entry.holder)] = [entry]
        else:
            own.append(entry)
        self._count += 1

    def _prune(self) -> None:
        """Forgets lapsed entries whose leave has not come, but for the youngest of them."""
        for entry in [one for one in self._all() if not self._counts(one)][:-_LAPSED_KEPT]:
            self._remove(entry)
        self._count = sum(map(len, list(self._entries.values())))
        self._prune_at = max(2 * self._count, _FIRST_PRUNE)

    def _end(
        self, holder: Holder, destroyed: bool, of_tasks: bool, ended: list[_Entry | None]
    ) -> None:
        """Put the entry that a leave of `holder` ends into `ended`, once, and take it out here.

        None where its lease has lapsed, or is the parent's of a fork: there is nothing to end.
        """
        with self.permits.lock:
            if not ended:
                entry = self._choose(holder, destroyed, of_tasks)
                is_here = entry is None or entry.lease is None
                is_here = is_here or entry.lease.id in self.permits.leases  # type: ignore[union-attr]
                ended.append(entry if is_here else None)
                if entry is not None and not is_here:
                    self._remove(entry)
            entry = ended[0]
            if entry is not None:
                self._remove(entry)
                if entry.lease is not None:
                    self.permits.leases.pop(entry.lease.id, None)
        if not self.permits.leases:
            keeper_of(self.permits).rest(self.permits)

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
        own = self._entries.get(id(entry.holder), [])
        if entry in own:
            own.remove(entry)
            self._count -= 1
        if not own:
            self._entries.pop(id(entry.holder), None)

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

"""Semaphores (limiters.md, "Semaphore"): so many at a time, under one name.

A permit is a lease. Who holds one and lives, a running thread or a task that is not done, keeps
it however long it takes. The permit of one who is gone without having left the block is free
again when its lease of `expiry` seconds has run out.
"""

from typing import ClassVar

from headway import _core
from headway._checks import not_negative, positive, positive_int, text
from headway._definitions import caller, define
from headway.exceptions import SetUpError
from headway.limiters.exceptions import MaxSleepExceededError
from headway.store import shared_store

__all__ = ["AsyncSemaphore", "SyncSemaphore"]

CAPACITY_MAX = 10**9


class _Permits(_core.Semaphore):
    """What both kinds share: making, and what they tell of themselves."""

    __slots__: ClassVar[tuple[str, ...]] = ()

    @property
    def name(self) -> str:
        """Whom it shares its permits with: every semaphore of this name."""
        return self._pool.name

    @property
    def capacity(self) -> int:
        """How many may hold a permit at a time."""
        return self._pool.capacity

    def _max_sleep_error(self) -> MaxSleepExceededError:
        return MaxSleepExceededError(
            f"Semaphore {self.name!r}: no permit in max_sleep={self.max_sleep:g} s; "
            f"{self._pool.held} of {self.capacity} are held, {self._pool.waiting} are waiting."
        )

    def __repr__(self) -> str:
        return (
            f"{type(self).__name__}(name={self.name!r}, capacity={self.capacity}, "
            f"max_sleep={self.max_sleep:g}, expiry={self.expiry:g})"
        )


def _checked(
    name: str, capacity: int, max_sleep: float, expiry: float, connection: object
) -> tuple[_core.Pool, float, float]:
    text("name", name)
    capacity = positive_int("capacity", capacity, CAPACITY_MAX)
    max_sleep = not_negative("max_sleep", max_sleep, "no end")
    expiry = positive("expiry", expiry)
    store = shared_store("limiters", connection)
    if not isinstance(store, _core.MemoryStore):
        raise SetUpError(
            f"Invalid connection: {store!r}: semaphores on Redis are not in this release of "
            "headway. Token buckets are; connection='memory://' shares permits in the process."
        )
    pool = define(
        store,
        "limiters.semaphore",
        name,
        {"capacity": capacity},
        caller(2),
        lambda: _core.Pool(name, capacity, store),
    )
    return pool, max_sleep, expiry


class SyncSemaphore(_Permits, _core.SyncSemaphore):
    """At most `capacity` threads in the block at a time, first come first served.

    name: who shares the permits. capacity: permits, at least 1; where two semaphores of one name
    differ, the first holds and the second logs a warning. max_sleep: the longest wait in seconds,
    then `MaxSleepExceededError`; 0 for no end. expiry: seconds until the permit of a holder that
    is gone is free again. connection: a MemoryStore or a URL; by default what REDIS_URL names,
    else the process. Raises ValueError naming a value that is not usable.
    """

    __slots__: ClassVar[tuple[str, ...]] = ()

    def __init__(
        self,
        name: str,
        capacity: int,
        max_sleep: float = 30.0,
        expiry: float = 30,
        connection: object = None,
    ) -> None:
        super().__init__(*_checked(name, capacity, max_sleep, expiry, connection))


class AsyncSemaphore(_Permits, _core.AsyncSemaphore):
    """At most `capacity` tasks in the block at a time: as `SyncSemaphore`, for `async with`."""

    __slots__: ClassVar[tuple[str, ...]] = ()

    def __init__(
        self,
        name: str,
        capacity: int,
        max_sleep: float = 30.0,
        expiry: float = 30,
        connection: object = None,
    ) -> None:
        super().__init__(*_checked(name, capacity, max_sleep, expiry, connection))

"""Semaphores (limiters.md, "Semaphore"): so many at a time, under one name.

A permit is a lease. Who holds one and lives, a running thread or a task that is not done, keeps
it however long it takes. The permit of one who is gone without having left the block is free
again when its lease of `expiry` seconds has run out.

In memory all of it is compiled. Elsewhere the compiled class hands over to `_door.Door`, to permits
on a server (`_permits`) or in a store of this machine (`_local_permits`).
"""

from collections.abc import Callable
from functools import partial
from typing import Any, ClassVar, cast

from headway import _core
from headway._checks import not_negative, positive, positive_int, text
from headway._definitions import caller, define
from headway.exceptions import SetUpError
from headway.limiters._door import Door
from headway.limiters._permits import Permits
from headway.limiters.exceptions import MaxSleepExceededError
from headway.store import RedisStore, shared_store

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

    def _max_sleep_error(
        self, held: int | None = None, waiting: int | None = None
    ) -> MaxSleepExceededError:
        held = self._pool.held if held is None else held
        waiting = self._pool.waiting if waiting is None else waiting
        return MaxSleepExceededError(
            f"Semaphore {self.name!r}: no permit in max_sleep={self.max_sleep:g} s; "
            f"{held} of {self.capacity} are held, {waiting} are waiting."
        )

    def __repr__(self) -> str:
        return (
            f"{type(self).__name__}(name={self.name!r}, capacity={self.capacity}, "
            f"max_sleep={self.max_sleep:g}, expiry={self.expiry:g})"
        )


def _checked(
    cls: Callable[..., Any],
    name: str,
    capacity: int,
    max_sleep: float,
    expiry: float,
    connection: object,
) -> tuple[_core.Pool | Door, float, float]:
    text("name", name)
    capacity = positive_int("capacity", capacity, CAPACITY_MAX)
    max_sleep = not_negative("max_sleep", max_sleep, "no end")
    expiry = positive("expiry", expiry)
    store = shared_store("limiters", connection)
    definition = ("limiters.semaphore", name, {"capacity": capacity}, caller(2))
    if isinstance(store, _core.MemoryStore):
        memory = store
        pool = define(store, *definition, lambda: _core.Pool(name, capacity, memory))
        return pool, max_sleep, expiry
    if not isinstance(store, RedisStore):
        from headway.limiters._local_permits import LocalPermits

        local = store
        shared = define(store, *definition, lambda: LocalPermits(local, name, capacity))
        return Door(shared, partial(cls, name, capacity, max_sleep, expiry)), max_sleep, expiry
    if getattr(store._client, "awaits", False) and issubclass(cast(type, cls), SyncSemaphore):
        raise SetUpError(
            f"Invalid connection: {store!r} is a client for asyncio, which AsyncSemaphore takes: "
            "give a client such as redis.Redis, or a URL, which serves both."
        )
    remote = store
    permits = define(store, *definition, lambda: Permits(remote, name, capacity))
    return Door(permits, partial(cls, name, capacity, max_sleep, expiry)), max_sleep, expiry


class SyncSemaphore(_Permits, _core.SyncSemaphore):
    """At most `capacity` threads in the block at a time, first come first served.

    name: who shares the permits. capacity: permits, at least 1; where two semaphores of one name
    differ, the first holds and the second logs a warning. max_sleep: the longest wait in seconds,
    then `MaxSleepExceededError`; 0 for no end. expiry: seconds until the permit of a holder that
    is gone is free again. connection: a store, a URL or a client of redis-py; by default what
    REDIS_URL names, else the process. Raises ValueError naming a value that is not usable.
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
        super().__init__(*_checked(SyncSemaphore, name, capacity, max_sleep, expiry, connection))


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
        super().__init__(*_checked(AsyncSemaphore, name, capacity, max_sleep, expiry, connection))

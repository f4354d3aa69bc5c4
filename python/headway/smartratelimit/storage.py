"""Where ledgers are kept: in the process, in a file, on a Redis server, or in an object of yours.

A ledger is what is known of the limits of one scope, as bytes (`headway._core.Ledger`). A storage
has one operation that counts: `update(key, step)` changes the bytes of a key by `step(old) ->
(new, answer)`, and nobody comes between. So what processes share is never read, changed and
written back. `change(key, "reserve", ...)` is the same in terms of a ledger; in memory it works on
the ledger itself, and no bytes are made.

A storage that cannot be opened raises `StorageUnavailable` at once; there is no silent switch to
memory. One that fails later raises it then.
"""

import asyncio
import os
import threading
import time
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable
from functools import partial
from typing import Any, TypeVar
from weakref import WeakKeyDictionary, WeakSet

from headway._core import Ledger, now_ns
from headway._forks import open_after_fork
from headway._interrupts import comes_from_a_handler
from headway._redis_url import SCHEMES, masked
from headway._sqlite_store import SQLiteStore, path_of
from headway._workers import in_worker
from headway.exceptions import SetUpError, StoreUnavailableError
from headway.smartratelimit._arguments import whole
from headway.smartratelimit.exceptions import StorageUnavailable
from headway.store import RedisStore

__all__ = [
    "MemoryStorage",
    "RedisStorage",
    "SQLiteStorage",
    "Storage",
    "StorageBackend",
    "failures_of",
    "open_storage",
]

SCOPES_MAX = 4096
_A = TypeVar("_A")
Step = Callable[[bytes | None], tuple[bytes | None, _A]]

TTL_NS = 30 * 86400 * 10**9
"""A ledger that nobody has used for so long is forgotten: longer than any window but a month's."""


class Storage(ABC):
    """What every storage is. A subclass gives `update`, `get`, `keys`, `clear` and `close`."""

    _waits = False
    """Whether its methods wait for a server or for other processes: a thread calls them then, for
    an event loop."""

    @abstractmethod
    def update(self, key: str, step: Step[_A]) -> _A:
        """Change the bytes of `key` by `step(old or None) -> (new or None, answer)`, atomically.

        `step` must be pure: it runs again where somebody else came first.
        """

    async def update_async(self, key: str, step: Step[_A]) -> _A:
        """`update` for an event loop. It does not wait for anybody unless a subclass says so."""
        return self.update(key, step)

    def now(self) -> int:
        """The time of the ledgers, in nanoseconds since the epoch: the wall clock."""
        return time.time_ns()

    def keys_under(self, origin: str) -> list[str]:
        """The keys of what is nested under `https://host`."""
        return [key for key in self.keys() if key.startswith(origin + "/")]

    @abstractmethod
    def get(self, key: str) -> bytes | None:
        """The bytes of `key`."""

    @abstractmethod
    def keys(self) -> list[str]:
        """The keys of all ledgers."""

    @abstractmethod
    def clear(self, key: str | None = None) -> None:
        """Forget `key` and what is nested under it (`key/…`); None: everything."""

    def close(self) -> None:  # noqa: B027 - not every storage holds something
        """Let go of files and connections."""

    def change(self, key: str, method: str, *args: Any) -> Any:
        """Call a method of the ledger of `key`: reserve, observe, fail, configure."""
        return self.update(key, _step(method, args))

    async def change_async(self, key: str, method: str, *args: Any) -> Any:
        """`change` for an event loop."""
        return await self.update_async(key, _step(method, args))

    def look(self, key: str) -> Ledger | None:
        """The ledger of `key`, to read."""
        state = self.get(key)
        return None if state is None else Ledger(state)


StorageBackend = Storage
"""The name of release 0.5.1."""


def _step(method: str, args: tuple[Any, ...]) -> Step[Any]:
    def step(state: bytes | None) -> tuple[bytes, Any]:
        ledger = Ledger(state)
        answer = getattr(ledger, method)(*args)
        return ledger.state(), answer

    return step


def _origin_of(key: str) -> str:
    """https://host of https://host/path."""
    return "/".join(key.split("/", 3)[:3])


def _covers(scope: str, key: str) -> bool:
    """https://host covers https://host/path, not https://host.of.another and not https://host:8443."""
    return key == scope or key.startswith(scope + "/")


class MemoryStorage(Storage):
    """In the process. cleanup_interval is taken for compatibility: nothing is cleaned up by time.

    A ledger takes some 6 KiB. When there are `max_scopes` (of hosts, paths and partitions), a
    quarter of them is forgotten: the least recently used first, of those first for which nothing is
    under way and nobody would have to wait. Limits of hosts and paths that were set by hand stay.
    """

    def __init__(self, cleanup_interval: int = 3600, *, max_scopes: int = SCOPES_MAX) -> None:
        self._max_scopes = whole("max_scopes", max_scopes, 1, 10**9)
        self._ledgers: dict[str, Ledger] = {}
        self._nested: dict[str, dict[str, None]] = {}
        """The keys below each host that has some."""
        self._lock = open_after_fork(threading.RLock())

    def now(self) -> int:
        return now_ns()

    def ledger(self, key: str) -> Ledger:
        """The ledger itself: what is done to it is done here."""
        found = self._ledgers.get(key)
        if found is None:
            with self._lock:
                if key not in self._ledgers and len(self._ledgers) >= self._max_scopes:
                    self._make_room()
                found = self._ledgers.get(key)
                if found is None:
                    found = self._ledgers[key] = Ledger()
                    origin = _origin_of(key)
                    if origin != key:
                        self._nested.setdefault(origin, {})[key] = None
        return found

    def _forget(self, key: str) -> None:
        with self._lock:
            self._ledgers.pop(key, None)
            origin = _origin_of(key)
            nested = self._nested.get(origin)
            if nested is not None:
                nested.pop(key, None)
                if not nested:
                    del self._nested[origin]

    def keys_under(self, origin: str) -> list[str]:
        with self._lock:
            return list(self._nested.get(origin, ()))

    def _make_room(self) -> None:
        """Forget a quarter of those that may be forgotten, and at least one."""
        now = now_ns()
        found = []
        for key, ledger in list(self._ledgers.items()):
            is_set, is_busy, used = ledger.use(now)
            if not is_set or "/#" in key:  # a partition takes it from its host again
                found.append((is_busy, used, key))
        found.sort()
        for _, _, key in found[: max(1, self._max_scopes // 4)]:
            self._forget(key)

    def change(self, key: str, method: str, *args: Any) -> Any:
        return getattr(self.ledger(key), method)(*args)

    async def change_async(self, key: str, method: str, *args: Any) -> Any:
        return getattr(self.ledger(key), method)(*args)

    def look(self, key: str) -> Ledger | None:
        return self._ledgers.get(key)

    def update(self, key: str, step: Step[_A]) -> _A:
        with self._lock:
            new, answer = step(self.get(key))
            if new is None:
                self._forget(key)
            else:
                self.ledger(key)  # makes room
                self._ledgers[key] = Ledger(new)
            return answer

    def get(self, key: str) -> bytes | None:
        found = self._ledgers.get(key)
        return None if found is None else found.state()

    def keys(self) -> list[str]:
        return list(self._ledgers)

    def clear(self, key: str | None = None) -> None:
        for known in list(self._ledgers):
            if key is None or _covers(key, known):
                self._forget(known)


class SQLiteStorage(Storage):
    """In a file that processes share, and that survives them. db_path: a file, or ":memory:"."""

    _waits = True

    def __init__(self, db_path: str = ":memory:") -> None:
        self.db_path = db_path
        try:
            self._store = SQLiteStore(db_path)
        except SetUpError as error:
            raise StorageUnavailable(str(error)) from error

    async def update_async(self, key: str, step: Step[_A]) -> _A:
        """In a thread: another process may have the file for a while."""
        return await in_worker(self._store, partial(self.update, key, step))

    def now(self) -> int:
        """The clock that all processes of the file share: it does not step when the wall clock is
        set."""
        return self._store._now()

    def keys_under(self, origin: str) -> list[str]:
        try:
            found = self._store._keys_under(_PREFIX + origin.encode() + b"/")
        except StoreUnavailableError as error:
            raise StorageUnavailable(str(error)) from error
        return [key[len(_PREFIX) :].decode() for key in found]

    def update(self, key: str, step: Step[_A]) -> _A:
        try:
            return self._store.update(_PREFIX + key.encode(), step, TTL_NS)
        except StoreUnavailableError as error:
            raise StorageUnavailable(str(error)) from error

    def get(self, key: str) -> bytes | None:
        try:
            return self._store.get(_PREFIX + key.encode())
        except StoreUnavailableError as error:
            raise StorageUnavailable(str(error)) from error

    def keys(self) -> list[str]:
        try:
            found = self._store.keys()
        except StoreUnavailableError as error:
            raise StorageUnavailable(str(error)) from error
        return [key[len(_PREFIX) :].decode() for key in found if key.startswith(_PREFIX)]

    def clear(self, key: str | None = None) -> None:
        for known in self.keys():
            if key is None or _covers(key, known):
                self._store.clear(_PREFIX + known.encode())

    def close(self) -> None:
        self._store.close()


_PREFIX = b"headway:v1:ledger:"
_INDEX = b"headway:v1:ledgers"


class _Job:
    __slots__ = ("answer", "done", "error", "step")

    def __init__(self, step: Step[Any]) -> None:
        self.step = step
        self.done = False
        self.answer: Any = None
        self.error: BaseException | None = None


class _Line:
    """Those of this process (or of one event loop) who want to change one key.

    Whoever is at the front takes the steps of all, one after the other, and swaps once. So the
    processes compete and not their tasks, and each round of that is won by one of them.
    """

    def __init__(self, lock: Any) -> None:
        self.lock = lock
        self.jobs: deque[_Job] = deque()
        self.known: bytes = b""
        """What the key held when we last heard of it; b"": nothing."""

    def take(self) -> list[_Job]:
        jobs = list(self.jobs)
        self.jobs.clear()
        return jobs

    def fail(self, jobs: list[_Job], error: StorageUnavailable) -> None:
        """The server does not answer: that is the answer to all who are in line."""
        for job in [*jobs, *self.take()]:
            job.error = StorageUnavailable(str(error))
            job.error.__cause__ = error
            job.done = True

    def compute(self, jobs: list[_Job]) -> bytes:
        """What the key is to hold."""
        state: bytes | None = self.known or None
        for job in jobs:
            job.error = None
            try:
                state, job.answer = job.step(state)
            except Exception as error:
                if comes_from_a_handler(error):
                    raise  # it is not the step's, which may be another thread's
                job.error = error
        return state or b""


def _bound(lines: dict[str, _Line]) -> None:
    """Drop the oldest quarter of the lines in which nothing is done. Two lines of one key are no
    harm: the server compares before it swaps."""
    if len(lines) >= SCOPES_MAX:
        for key, line in list(lines.items())[: SCOPES_MAX // 4]:
            if not line.jobs and not line.lock.locked():
                lines.pop(key, None)


class RedisStorage(Storage):
    """On a Redis server, by compare and swap. server: a URL, or a RedisStore.

    fail_closed is taken for compatibility: a server that does not answer is always an error.
    """

    MOST_TRIES = 2000
    _waits = True

    def __init__(
        self,
        redis_url: "str | RedisStore" = "redis://localhost:6379/0",
        fail_closed: bool = False,
    ) -> None:
        self._start_anew()
        _storages.add(self)
        try:
            self._store = redis_url if isinstance(redis_url, RedisStore) else RedisStore(redis_url)
            seconds, micros = self._command(_INDEX, "TIME")
            self._offset_ns = (int(seconds) * 10**6 + int(micros)) * 1000 - now_ns()
        except SetUpError as error:
            raise StorageUnavailable(str(error)) from error

    def now(self) -> int:
        """The server's clock as it was when the storage was opened, and time that does not step
        from there on."""
        return now_ns() + self._offset_ns

    def _start_anew(self) -> None:
        """In a fork's child, too: those in the lines are threads and tasks of the parent."""
        self._lines: dict[str, _Line] = {}
        self._loops: WeakKeyDictionary[Any, dict[str, _Line]] = WeakKeyDictionary()

    def _command(self, key: bytes, *words: Any) -> Any:
        try:
            return self._store._run(None, (key,), words)
        except StoreUnavailableError as error:
            raise StorageUnavailable(str(error)) from error

    def _words(self, line: _Line, new: bytes) -> tuple[bytes, bytes, int]:
        return (line.known, new, TTL_NS // 10**6)

    def _settle(self, key: str, line: _Line, jobs: list[_Job], new: bytes, reply: Any) -> bool:
        """Read the reply of a swap: True, it is done."""
        if int(reply[0]) == 1:
            line.known = new
            for job in jobs:
                job.done = True
            return True
        held = reply[1]
        line.known = held if isinstance(held, bytes) else str(held).encode()
        return False

    def _give_up(self, key: str) -> StorageUnavailable:
        return StorageUnavailable(
            f"{self._store.server}: {self.MOST_TRIES} times somebody else changed {key!r} first."
        )

    def update(self, key: str, step: Step[_A]) -> _A:
        line = self._lines.get(key)
        if line is None:
            _bound(self._lines)
            line = self._lines.setdefault(key, _Line(threading.Lock()))
        job = _Job(step)
        try:
            line.jobs.append(job)
            with line.lock:
                if not job.done:
                    jobs = line.take()
                    try:
                        self._swap(key, line, jobs)
                    except StorageUnavailable as error:  # the others need not find out one by one
                        line.fail(jobs, error)
                    except BaseException:
                        line.jobs.extendleft(one for one in reversed(jobs) if one is not job)
                        raise
        except BaseException:  # nobody is to take this step later
            if job in line.jobs:
                line.jobs.remove(job)
            raise
        if job.error is not None:
            raise job.error
        return job.answer  # type: ignore[no-any-return]

    def _swap(self, key: str, line: _Line, jobs: list[_Job]) -> None:
        name = _PREFIX + key.encode()
        for _ in range(self.MOST_TRIES):
            new = line.compute(jobs)
            is_new = not line.known
            try:
                reply = self._store._run("swap", (name,), self._words(line, new))
            except StoreUnavailableError as error:
                raise StorageUnavailable(str(error)) from error
            if self._settle(key, line, jobs, new, reply):
                if is_new and new:
                    self._command(_INDEX, "SADD", _INDEX, name)
                return
        raise self._give_up(key)

    async def update_async(self, key: str, step: Step[_A]) -> _A:
        try:
            loop = asyncio.get_running_loop()
        except RuntimeError:  # another library's loop: its threads wait
            return await in_worker(self._store, partial(self.update, key, step))
        lines = self._loops.setdefault(loop, {})
        line = lines.get(key)
        if line is None:
            _bound(lines)
            line = lines[key] = _Line(asyncio.Lock())
        job = _Job(step)
        try:
            line.jobs.append(job)
            async with line.lock:
                if not job.done:
                    jobs = line.take()
                    try:
                        await self._swap_async(key, line, jobs)
                    except StorageUnavailable as error:
                        line.fail(jobs, error)
                    except BaseException:
                        line.jobs.extendleft(one for one in reversed(jobs) if one is not job)
                        raise
        except BaseException:
            if job in line.jobs:
                line.jobs.remove(job)
            raise
        if job.error is not None:
            raise job.error
        return job.answer  # type: ignore[no-any-return]

    async def _swap_async(self, key: str, line: _Line, jobs: list[_Job]) -> None:
        name = _PREFIX + key.encode()
        for _ in range(self.MOST_TRIES):
            new = line.compute(jobs)
            is_new = not line.known
            try:
                reply = await self._store._run_async("swap", (name,), self._words(line, new))
                if self._settle(key, line, jobs, new, reply):
                    if is_new and new:
                        await self._store._run_async(None, (_INDEX,), ("SADD", _INDEX, name))
                    return
            except StoreUnavailableError as error:
                raise StorageUnavailable(str(error)) from error
        raise self._give_up(key)

    def get(self, key: str) -> bytes | None:
        name = _PREFIX + key.encode()
        held = self._command(name, "GET", name)
        return held if held is None or isinstance(held, bytes) else str(held).encode()

    def keys(self) -> list[str]:
        return self._keys_from(_PREFIX)

    def keys_under(self, origin: str) -> list[str]:
        return self._keys_from(_PREFIX + origin.encode() + b"/")

    def _keys_from(self, prefix: bytes) -> list[str]:
        found = []
        for name in self._command(_INDEX, "SMEMBERS", _INDEX):
            if not name.startswith(prefix):
                continue
            if self._command(name, "EXISTS", name):
                found.append(name[len(_PREFIX) :].decode())
            else:  # it has run out
                self._command(_INDEX, "SREM", _INDEX, name)
        return found

    def clear(self, key: str | None = None) -> None:
        for known in self.keys():
            if key is None or _covers(key, known):
                name = _PREFIX + known.encode()
                self._command(name, "DEL", name)
                self._command(_INDEX, "SREM", _INDEX, name)

    def close(self) -> None:
        self._store.close()


class _Foreign(Storage):
    """An object of the user's own, which has the five methods."""

    def __init__(self, own: Any) -> None:
        self._own = own

    def update(self, key: str, step: Step[_A]) -> _A:
        return self._own.update(key, step)  # type: ignore[no-any-return]

    def get(self, key: str) -> bytes | None:
        return self._own.get(key)  # type: ignore[no-any-return]

    def keys(self) -> list[str]:
        return list(self._own.keys())

    def clear(self, key: str | None = None) -> None:
        self._own.clear(key)

    def close(self) -> None:
        getattr(self._own, "close", lambda: None)()


def failures_of(storage: Storage) -> tuple[type[Exception], ...]:
    """What the storage raises when it fails, as far as that is known: a signal's handler may raise
    other exceptions in the middle of it, which are for the caller."""
    if type(storage) is MemoryStorage:
        return ()
    if type(storage) in (SQLiteStorage, RedisStorage):
        return (StorageUnavailable, StoreUnavailableError)
    return (Exception,)


_NEEDED = ("update", "get", "keys", "clear")


def open_storage(storage: object = "memory") -> Storage:
    """The storage that `storage` stands for: 'memory', a URL, a store, or an object of your own.

    Raises `ValueError` for what is none, `StorageUnavailable` for what cannot be opened.
    """
    if isinstance(storage, Storage):
        return storage
    if isinstance(storage, RedisStore):
        return RedisStorage(storage)
    if isinstance(storage, str):
        scheme = storage.partition("://")[0]
        if storage in ("memory", "memory://"):
            return MemoryStorage()
        if scheme == "sqlite" and "://" in storage:
            try:
                return SQLiteStorage(path_of(storage))
            except SetUpError as error:
                raise ValueError(str(error)) from None
        if scheme in SCHEMES and "://" in storage:
            return RedisStorage(storage)
        raise ValueError(
            f"Unknown storage backend: {masked(storage)!r}, must be 'memory', 'sqlite:///path' "
            "or 'redis://host:port/db'."
        )
    missing = [name for name in _NEEDED if not callable(getattr(storage, name, None))]
    if missing:
        raise ValueError(
            f"Unknown storage backend: {storage!r} has no {', '.join(missing)}. A storage of "
            "your own needs update(key, step) that changes the bytes of a key in one atomic step, "
            "get(key), keys() and clear(key): see headway.smartratelimit.storage.Storage. "
            "get_rate_limit and set_rate_limit alone cannot be safe between processes."
        )
    return _Foreign(storage)


# ---- forks

_storages: "WeakSet[RedisStorage]" = WeakSet()


def _after_fork_in_child() -> None:
    for storage in list(_storages):
        storage._start_anew()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork_in_child)

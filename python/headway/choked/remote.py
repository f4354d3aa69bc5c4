"""A function that waits until the service admits its calls.

The service keeps the line: a request may be kept waiting there, and those of all processes are
served in the order in which they came. So a function asks, to be kept for up to `_KEPT_S`; where
the wait is longer it is told how long, and asks again `_EARLY_S` before. A few of a function's
callers ask at a time, and the others wait behind them here.

Tasks ask in threads, which all functions of the process share. A task that may be kept would hold
its thread for as long, so it asks first without being kept, in threads that are free again at once;
only where it is denied, and one of the `_KEPT` threads for that is free, it asks to be kept. Of the
last half of those a function gets one. A task that gets none sleeps for as long as the service
said, and asks again.
"""

import asyncio
import functools
import logging
import os
import sys
import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from weakref import WeakKeyDictionary

from headway import _core, _wrap
from headway._forks import open_after_fork
from headway.choked.service import Asking, Service, Told
from headway.exceptions import LimitedError

__all__ = ["Remote"]

_KEPT_S = 10.0
_EARLY_S = 5.0
_AT_ONCE = 8
"""Callers of one function that ask at the same time, of threads and of each event loop."""
_BACKOFF_S, _BACKOFF_MOST_S = 1.0, 30.0
"""What is waited where the service does not say how long."""
_LEAST_S = 0.01
"""Who is told to come back at once is not to ask as fast as it can."""
_GO = _core.RateLimitResult(False, _core.RateLimitState(0, 0, 0.0, 0.0))
_QUICK, _KEPT = 16, 48
"""Threads of a process in which tasks ask: that are answered at once, and that may be kept."""

Estimate = Callable[..., int]


class Remote:
    """The limiter of one function: buckets at the service, of calls, of tokens, or of both."""

    token_rules = (0,)

    def __init__(
        self,
        service: Service,
        key: str,
        calls: _core.Quota | None,
        tokens: _core.Quota | None = None,
        estimate: Estimate | None = None,
    ) -> None:
        self.key, self.service = key, service
        self._tokens, self._estimate = tokens, estimate
        for quota in (calls, tokens):
            if quota is not None and not quota.burst:
                raise ValueError("Invalid limit: the service has no buckets of burst 0.")
        self._fields: dict[str, object] = {"key": key}
        for name, quota in (("request", calls), ("token", tokens)):
            self._fields[f"{name}_capacity"] = quota.burst if quota is not None else 0
            self._fields[f"{name}_refill_rate"] = repr(quota.fill_rate) if quota is not None else 0
        self._fields["requests_needed"] = 1 if calls is not None else 0
        self.definition: object = None
        self.on_admitted: Callable[[int], object] = lambda tokens: None
        self._start_anew()

    def __repr__(self) -> str:
        return f"Remote({self.service!r}, key={self.key!r})"

    def _start_anew(self) -> None:
        self._pid = os.getpid()
        self._door = threading.Semaphore(_AT_ONCE)
        self._doors: WeakKeyDictionary[asyncio.AbstractEventLoop, asyncio.Semaphore] = (
            WeakKeyDictionary()
        )

    def decorate(self, func: Any) -> Any:
        """Return `func` behind this, of the kind that it is."""
        if isinstance(func, (classmethod, staticmethod)):
            return type(func)(self.decorate(func.__func__))
        this: Any = self
        if _is_plain(func):

            @functools.wraps(func)
            def wrapper(*args: Any, **kwargs: Any) -> Any:
                self._acquire(args, kwargs)
                return func(*args, **kwargs)

            plain: Any = wrapper
            plain.limiter = self
            return plain
        return _wrap.decorate(this, func)

    # ---- what a wrapper asks of a limiter

    def _acquire(
        self, args: tuple[Any, ...], kwargs: Mapping[str, Any], timeout: None = None
    ) -> _core.RateLimitResult:
        fields, tokens = self._needs(args, kwargs)
        with self._sync_door():
            told, tries = self.service.acquire(fields, _KEPT_S), 0
            while not told.admitted:
                time.sleep(_pause(told, tries))
                told, tries = self.service.acquire(fields, _KEPT_S), tries + 1
        self.on_admitted(tokens)
        return _GO

    async def _acquire_async(
        self, args: tuple[Any, ...], kwargs: Mapping[str, Any]
    ) -> _core.RateLimitResult:
        fields, tokens = self._needs(args, kwargs)
        if _in_trio():
            await self._acquire_trio(fields)
        else:
            async with self._async_door():
                told, tries = await self._ask(fields), 0
                while not told.admitted:
                    await asyncio.sleep(_pause(told, tries))
                    told, tries = await self._ask(fields), tries + 1
        self.on_admitted(tokens)
        return _GO

    async def _ask(self, fields: Mapping[str, object]) -> Told:
        threads = _threads()
        told: Told | None = None
        if not threads.keeps(self):  # else others stand in line, and asking would not help
            told = await _in(threads.quick, self.service, fields, 0.0)
            if told.admitted or told.retry_after is None or told.retry_after > _KEPT_S:
                return told
        if threads.take(self):
            return await _in(threads.patient, self.service, fields, _KEPT_S, self)
        return told or await _in(threads.quick, self.service, fields, 0.0)

    async def _acquire_trio(self, fields: Mapping[str, object]) -> None:
        import trio

        # Threads of our own: the program's are not to be filled by a service that hangs.
        limiter = _trio_limiter()
        told, tries = await trio.to_thread.run_sync(self._ask_once, fields, limiter=limiter), 0
        while not told.admitted:
            await trio.sleep(max(told.retry_after or _pause(told, tries), _LEAST_S))
            told = await trio.to_thread.run_sync(self._ask_once, fields, limiter=limiter)
            tries += 1

    def _ask_once(self, fields: Mapping[str, object]) -> Told:
        return self.service.acquire(fields)

    def _limited_error(self, result: _core.RateLimitResult) -> Exception:
        return LimitedError(result)

    # ---- what settles a call

    def _settle(self, key: str, rule: int, surplus: int) -> None:
        work = functools.partial(self.service.settle, {**self._fields, "tokens_needed": 1}, surplus)
        if not _in_event_loop():
            work()
            return
        _threads().quick.submit(work).add_done_callback(_note_failure)

    # ----

    def _needs(
        self, args: tuple[Any, ...], kwargs: Mapping[str, Any]
    ) -> tuple[Mapping[str, object], int]:
        if self._tokens is None or self._estimate is None:
            return self._fields, 0
        tokens = self._estimate(*args, **kwargs)
        if tokens > self._tokens.burst:
            error = LimitedError()
            error.args = (
                f"The call needs more tokens than {self.key!r} can ever hold "
                f"({self._tokens.burst}), so waiting would not help.",
            )
            raise error
        return {**self._fields, "tokens_needed": tokens}, tokens

    def _sync_door(self) -> threading.Semaphore:
        if self._pid != os.getpid():
            self._start_anew()
        return self._door

    def _async_door(self) -> asyncio.Semaphore:
        if self._pid != os.getpid():
            self._start_anew()
        return self._doors.setdefault(asyncio.get_running_loop(), asyncio.Semaphore(_AT_ONCE))


def _pause(told: Told, tries: int) -> float:
    """Return the seconds until it is worth while to ask again."""
    if told.retry_after is None:
        return float(min(_BACKOFF_S * 2 ** min(tries, 10), _BACKOFF_MOST_S))
    # A service that keeps nobody waiting says it for less than _KEPT_S too.
    early = _EARLY_S if told.retry_after > _KEPT_S else 0.0
    return max(told.retry_after - early, _LEAST_S)


def _is_plain(func: Any) -> bool:
    kinds = _wrap._COROUTINE | _wrap._ASYNC_GENERATOR | _wrap._GENERATOR
    if not callable(func):
        return False  # says so itself
    return not _wrap._code_flags(func) & kinds and not _wrap._marked_as_coroutine(func)


def _in_trio() -> bool:
    if "trio" not in sys.modules:
        return False
    from headway._trio import in_trio

    return in_trio()


def _in_event_loop() -> bool:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return _in_trio()
    return True


def _note_failure(done: Any) -> None:
    error = done.exception()
    if error is not None:
        logging.getLogger("headway.choked").warning("A correction was lost: %s", error)


class _Threads:
    """The threads in which tasks ask, and which functions keep how many of the patient ones."""

    def __init__(self) -> None:
        self.pid = os.getpid()
        self.quick = ThreadPoolExecutor(_QUICK, "headway-choked")
        self.patient = ThreadPoolExecutor(_KEPT, "headway-choked-waits")
        self._lock = open_after_fork(threading.Lock())
        self._kept: dict[Remote, int] = {}
        self._free = _KEPT

    def keeps(self, remote: Remote) -> bool:
        """Whether a caller of this function is kept by the service."""
        return remote in self._kept

    def take(self, remote: Remote) -> bool:
        """Take a patient thread for a caller, if there is one; `give_back` must follow."""
        with self._lock:
            held = self._kept.get(remote, 0)
            if not self._free or (held and self._free <= _KEPT // 2):
                return False
            self._kept[remote] = held + 1
            self._free -= 1
            return True

    def give_back(self, remote: Remote) -> None:
        """The thread is free again."""
        with self._lock:
            self._free += 1
            held = self._kept.pop(remote) - 1
            if held:
                self._kept[remote] = held


async def _in(
    pool: ThreadPoolExecutor,
    service: Service,
    fields: Mapping[str, object],
    wait: float,
    taken_by: Remote | None = None,
) -> Told:
    """Ask in a thread of `pool`; one that was taken is given back when it is free."""
    asking = Asking()
    threads = _threads()
    try:
        asked = pool.submit(service.acquire, fields, wait, asking)
    except BaseException:
        if taken_by is not None:
            threads.give_back(taken_by)
        raise
    if taken_by is not None:
        asked.add_done_callback(lambda _: threads.give_back(taken_by))
    future = asyncio.wrap_future(asked)
    try:
        return await asyncio.shield(future)
    except asyncio.CancelledError:
        asking.leave()
        future.add_done_callback(lambda done: done.cancelled() or done.exception())
        raise


_pool: _Threads | None = None
_pool_lock = open_after_fork(threading.Lock())


def _threads() -> _Threads:
    """Return the threads that ask for tasks: they wait for the service, not for each other."""
    global _pool
    with _pool_lock:
        if _pool is None or _pool.pid != os.getpid():
            _pool = _Threads()
        return _pool


_trio_limiters: Any = None


def _trio_limiter() -> Any:
    """Return what bounds the threads of one run of trio."""
    import trio

    global _trio_limiters
    if _trio_limiters is None:
        _trio_limiters = trio.lowlevel.RunVar("headway.choked")
    limiter = _trio_limiters.get(None)
    if limiter is None:
        limiter = trio.CapacityLimiter(_QUICK)
        _trio_limiters.set(limiter)
    return limiter

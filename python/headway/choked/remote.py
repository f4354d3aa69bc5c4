"""A function that waits until the service admits its calls.

The service keeps the line: a request may be kept waiting there, and those of all processes are
served in the order in which they came. So a function asks, to be kept for up to `_KEPT_S`; where
the wait is longer it is told how long, and asks again `_EARLY_S` before. A few of a function's
callers ask at a time, and the others wait behind them here.
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
_THREADS = 64

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
        asking = Asking()
        loop = asyncio.get_running_loop()
        work = functools.partial(self.service.acquire, fields, _KEPT_S, asking)
        future = loop.run_in_executor(_threads(), work)
        try:
            return await asyncio.shield(future)
        except asyncio.CancelledError:
            asking.leave()
            future.add_done_callback(lambda done: done.cancelled() or done.exception())
            raise

    async def _acquire_trio(self, fields: Mapping[str, object]) -> None:
        import trio

        told, tries = await trio.to_thread.run_sync(self.service.acquire, fields), 0
        while not told.admitted:
            await trio.sleep(max(told.retry_after or _pause(told, tries), _LEAST_S))
            told, tries = await trio.to_thread.run_sync(self.service.acquire, fields), tries + 1

    def _limited_error(self, result: _core.RateLimitResult) -> Exception:
        return LimitedError(result)

    # ---- what settles a call

    def _settle(self, key: str, rule: int, surplus: int) -> None:
        work = functools.partial(self.service.settle, {**self._fields, "tokens_needed": 1}, surplus)
        if not _in_event_loop():
            work()
            return
        _threads().submit(work).add_done_callback(_note_failure)

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


_pool: tuple[int, ThreadPoolExecutor] | None = None
_pool_lock = open_after_fork(threading.Lock())


def _threads() -> ThreadPoolExecutor:
    """Return the threads that ask for tasks: they wait for the service, not for each other."""
    global _pool
    with _pool_lock:
        if _pool is None or _pool[0] != os.getpid():
            _pool = (os.getpid(), ThreadPoolExecutor(_THREADS, "headway-choked"))
        return _pool[1]

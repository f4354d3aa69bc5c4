"""Trying again: after a status that asks for it, and after a connection that was lost.

    handler = RetryHandler(RetryConfig(max_retries=3, strategy=RetryStrategy.EXPONENTIAL))
    response = handler.retry_sync(session.get, "https://api.example.com/data")

Every decision is one of two questions: what a response says (`delay_after_response`) and what an
error says (`delay_after_error`). Each answers with the seconds to wait, or None: this is the last
one, and the caller gets it. The loops around them only wait, in a thread, in asyncio or in trio;
how many tries there were and since when, `Attempts` counts for them.
"""

import asyncio
import inspect
import logging
import random as _random
import sys
import time
from collections.abc import Awaitable, Callable, Iterable
from enum import Enum
from typing import ParamSpec, TypeVar

from headway.smartratelimit._arguments import invalid, items, number, positive_number, whole
from headway.smartratelimit._attempts import Attempts
from headway.smartratelimit._outcomes import (
    HTTP_METHODS,
    answer_of,
    discard,
    discard_async,
    is_lost_connection,
    method_of_call,
    method_of_error,
    retry_after_of,
    status_of,
)

__all__ = ["IDEMPOTENT_METHODS", "RetryConfig", "RetryHandler", "RetryStrategy"]

logger = logging.getLogger("headway.smartratelimit")

_P = ParamSpec("_P")
_R = TypeVar("_R")

IDEMPOTENT_METHODS = frozenset({"GET", "HEAD", "OPTIONS", "PUT", "DELETE", "TRACE"})
"""Methods that do no more when they arrive twice (RFC 9110, 9.2.2)."""

_DELAY_MAX = 3650 * 86400.0
_RETRIES_MAX = 1_000_000


class RetryStrategy(Enum):
    """How delays grow: base * factor^(n-1), base * n, base; NONE: there is one try."""

    EXPONENTIAL = "exponential"
    LINEAR = "linear"
    FIXED = "fixed"
    NONE = "none"


class RetryConfig:
    """How often, when and for what to try again. A wrong value raises InvalidArgument."""

    def __init__(
        self,
        max_retries: int = 3,
        strategy: RetryStrategy = RetryStrategy.EXPONENTIAL,
        base_delay: float = 1.0,
        max_delay: float = 60.0,
        backoff_factor: float = 2.0,
        retry_on_status: Iterable[int] | None = None,
        jitter: float = 0.0,
        *,
        full_jitter: bool = False,
        total_timeout: float | None = None,
        retry_methods: Iterable[str] = IDEMPOTENT_METHODS,
        retry_on_exceptions: type[Exception] | Iterable[type[Exception]] = (),
    ) -> None:
        """Delays are in seconds; none is longer than `max_delay`.

        retry_on_status: 429, 503 and 504 unless told; empty: none.
        jitter: the share of a delay by which it is changed at random, either way.
        full_jitter: a delay is anything from 0 to what the strategy says.
        total_timeout: no retry begins later than that after the first try.
        retry_methods: after a lost connection only these are sent again.
        retry_on_exceptions: these are tried again whatever the method.
        """
        self.max_retries = whole("max_retries", max_retries, 0, _RETRIES_MAX)
        self.strategy = _strategy(strategy)
        self.base_delay = number("base_delay", base_delay, _DELAY_MAX, " of seconds")
        self.max_delay = number("max_delay", max_delay, _DELAY_MAX, " of seconds")
        self.backoff_factor = positive_number("backoff_factor", backoff_factor, 1e6)
        self.retry_on_status = _statuses(retry_on_status)
        self.jitter = number("jitter", jitter, 1)
        self.full_jitter = bool(full_jitter)
        if self.full_jitter and self.jitter:
            invalid("jitter", jitter, "0 where full_jitter is set: it already is all of the delay")
        self.total_timeout = (
            None
            if total_timeout is None
            else positive_number("total_timeout", total_timeout, _DELAY_MAX, " of seconds")
        )
        self.retry_methods = _methods(retry_methods)
        self.retry_on_exceptions = _exceptions(retry_on_exceptions)

    def __repr__(self) -> str:
        said = ", ".join(f"{name}={value!r}" for name, value in vars(self).items())
        return f"RetryConfig({said})"

    def __eq__(self, other: object) -> bool:
        return vars(self) == vars(other) if isinstance(other, RetryConfig) else NotImplemented

    __hash__ = None  # type: ignore[assignment] # it can be changed


class RetryHandler:
    """Runs a function until it succeeds or there is no sense in going on.

    sleep, async_sleep, clock (seconds) and random (0 to 1) may be given for tests that run in
    virtual time. A handler holds no state between calls and may be shared.
    """

    def __init__(
        self,
        config: RetryConfig | None = None,
        *,
        sleep: Callable[[float], object] | None = None,
        async_sleep: Callable[[float], Awaitable[object]] | None = None,
        clock: Callable[[], float] = time.monotonic,
        random: Callable[[], float] = _random.random,
    ) -> None:
        if config is not None and not isinstance(config, RetryConfig):
            invalid("config", config, "a RetryConfig, or None for its defaults")
        self.config = RetryConfig() if config is None else config
        self._sleep = time.sleep if sleep is None else sleep
        self._async_sleep = _sleep_in_loop if async_sleep is None else async_sleep
        self._clock = clock
        self._random = random

    def max_attempts(self) -> int:
        """How many tries there are, the first included."""
        return 1 if self.config.strategy is RetryStrategy.NONE else self.config.max_retries + 1

    def should_retry(self, status_code: int, attempt: int) -> bool:
        """Whether this status is to be followed by retry number `attempt`, counted from 1."""
        return attempt < self.max_attempts() and status_code in self.config.retry_on_status

    def delay_for_attempt(self, attempt: int) -> float:
        """Seconds before retry number `attempt`, counted from 1, by the strategy and its jitter."""
        delay = self._plain_delay(whole("attempt", attempt, 1, _RETRIES_MAX))
        if self.config.full_jitter:
            return delay * self._random()
        spread = delay * self.config.jitter
        return min(self.config.max_delay, delay + spread * (2 * self._random() - 1))

    def delay_after_response(
        self, response: object, attempt: int, elapsed: float = 0.0
    ) -> float | None:
        """Seconds to wait before retry number `attempt`; None: this response is the last one.

        Retry-After is a floor that jitter only adds to. One longer than `max_delay` means that
        there is no sense in waiting. `elapsed`: seconds since the first try.
        """
        status = status_of(response)
        if status is None or not self.should_retry(status, attempt):
            return None
        asked = retry_after_of(response)
        if asked is None:
            return self._within_budget(self.delay_for_attempt(attempt), elapsed)
        if asked > self.config.max_delay:
            return None
        spread = self._plain_delay(attempt) if self.config.full_jitter else asked
        share = 1.0 if self.config.full_jitter else self.config.jitter
        delay = asked + share * spread * self._random()
        return self._within_budget(min(delay, self.config.max_delay), elapsed)

    def delay_after_error(
        self, error: BaseException, attempt: int, elapsed: float = 0.0, method: str | None = None
    ) -> float | None:
        """Seconds to wait before retry number `attempt`; None: this error is the last one.

        An error that stands for a response (`raise_for_status`) is treated as that response. A lost
        connection is retried for `retry_methods`; the method is the error's own request's, else
        `method`.
        """
        if not isinstance(error, Exception) or attempt >= self.max_attempts():
            return None
        if isinstance(error, self.config.retry_on_exceptions):
            return self._within_budget(self.delay_for_attempt(attempt), elapsed)
        answer = answer_of(error)
        if answer is not None:
            return self.delay_after_response(answer, attempt, elapsed)
        known = method_of_error(error) or method
        if known in self.config.retry_methods and is_lost_connection(error):
            return self._within_budget(self.delay_for_attempt(attempt), elapsed)
        return None

    def retry_sync(self, func: Callable[_P, _R], /, *args: _P.args, **kwargs: _P.kwargs) -> _R:
        """Call `func` until there is nothing to retry; return or raise what came last."""
        attempts = Attempts(self, self._clock)
        while True:
            try:
                result = func(*args, **kwargs)
            except Exception as error:
                delay = attempts.after_error(error, method_of_call(func, args, kwargs))
                if delay is None:
                    raise
                self._say(delay, attempts, type(error).__name__)
                discard(answer_of(error))
            else:
                if inspect.iscoroutine(result):
                    result.close()
                    invalid("func", func, "a plain function; use retry_async for a coroutine's")
                delay = attempts.after_response(result)
                if delay is None:
                    return result
                self._say(delay, attempts, f"status {status_of(result)}")
                discard(result)
                del result  # its memory too, before the wait
            self._sleep(delay)

    async def retry_async(
        self, func: Callable[_P, Awaitable[_R]], /, *args: _P.args, **kwargs: _P.kwargs
    ) -> _R:
        """Await `func(...)` until there is nothing to retry; on asyncio and on trio."""
        attempts = Attempts(self, self._clock)
        while True:
            try:
                result = await func(*args, **kwargs)
            except Exception as error:
                delay = attempts.after_error(error, method_of_call(func, args, kwargs))
                if delay is None:
                    raise
                self._say(delay, attempts, type(error).__name__)
                await discard_async(answer_of(error))
            else:
                delay = attempts.after_response(result)
                if delay is None:
                    return result
                self._say(delay, attempts, f"status {status_of(result)}")
                await discard_async(result)
                del result
            await self._async_sleep(delay)

    def _plain_delay(self, attempt: int) -> float:
        config = self.config
        if config.strategy is RetryStrategy.NONE:
            return 0.0
        delay = config.base_delay
        if config.strategy is RetryStrategy.LINEAR:
            delay *= attempt
        elif config.strategy is RetryStrategy.EXPONENTIAL and delay:
            try:
                delay *= config.backoff_factor ** (attempt - 1)
            except OverflowError:
                delay = config.max_delay
        return min(delay, config.max_delay)

    def _within_budget(self, delay: float, elapsed: float) -> float | None:
        budget = self.config.total_timeout
        return None if budget is not None and elapsed + delay > budget else delay

    def _say(self, delay: float, attempts: Attempts, why: str) -> None:
        retries = self.max_attempts() - 1
        logger.info("%s: retry %d of %d in %.2f s", why, attempts.number - 1, retries, delay)


async def _sleep_in_loop(seconds: float) -> None:
    if "trio" in sys.modules:
        from headway._trio import in_trio

        if in_trio():
            await sys.modules["trio"].sleep(seconds)
            return
    await asyncio.sleep(seconds)


def _strategy(value: object) -> RetryStrategy:
    try:
        return RetryStrategy(value)
    except ValueError:
        known = ", ".join(str(strategy) for strategy in RetryStrategy)
        invalid("strategy", value, f"one of: {known}")


def _statuses(value: object) -> list[int]:
    if value is None:
        return [429, 503, 504]
    found = items("retry_on_status", value, "a list of HTTP statuses, such as [429, 503]")
    return [whole("retry_on_status", status, 100, 999) for status in found]


def _methods(value: object) -> frozenset[str]:
    expected = f"a set of HTTP methods, out of: {', '.join(sorted(HTTP_METHODS))}"
    found = set()
    for method in items("retry_methods", value, expected):
        if not isinstance(method, str) or method.upper() not in HTTP_METHODS:
            invalid("retry_methods", method, expected)
        found.add(method.upper())
    return frozenset(found)


def _exceptions(value: object) -> tuple[type[Exception], ...]:
    expected = "classes of Exception, such as (ConnectionError, TimeoutError)"
    found = [value] if isinstance(value, type) else items("retry_on_exceptions", value, expected)
    for kind in found:
        if not isinstance(kind, type) or not issubclass(kind, Exception):
            invalid("retry_on_exceptions", kind, expected)
    return tuple(kind for kind in found if isinstance(kind, type))

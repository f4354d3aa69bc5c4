"""Asking a store for decisions as threads do and as tasks do, with one set of words for both.

`ask` runs each test twice. A thread's connection is the store's own, tasks share one of their
event loop; both live from one decision to the next.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Coroutine, Iterator
from typing import Any, TypeVar

import pytest

from headway import RateLimitResult, StoreUnavailableError, Throttled, rate_limiter
from headway.asyncio import Throttled as AsyncThrottled
from headway.store import RedisStore

T = TypeVar("T")
Told = RateLimitResult | StoreUnavailableError

DEADLINE_S = 30.0
SLACK_S = 15.0
"""What a noisy machine may add to a deadline."""
QUOTA = 5
"""A bucket that does not refill while a test lasts."""


class Ask:
    """Decisions, as a thread or as a task."""

    def __init__(self, as_task: bool) -> None:
        self.as_task = as_task
        self._loop = asyncio.new_event_loop() if as_task else None

    def limiter(self, store: RedisStore, using: str = "gcra", limit: int = QUOTA) -> Any:
        kind = AsyncThrottled if self.as_task else Throttled
        return kind(using=using, quota=rate_limiter.per_day(limit), store=store)

    def limit(self, limiter: Any, key: str = "key", **how: Any) -> RateLimitResult:
        """One decision. Fails the test when it takes longer than any deadline."""
        if self._loop is None:
            return limiter.limit(key, **how)  # type: ignore[no-any-return]
        return self._run(self._loop, limiter.limit(key, **how))

    def told(self, limiter: Any, key: str = "key", **how: Any) -> Told:
        """One decision, or why there was none."""
        try:
            return self.limit(limiter, key, **how)
        except StoreUnavailableError as error:
            return error

    def error(self, limiter: Any, key: str = "key", **how: Any) -> StoreUnavailableError:
        """Why there was no decision; there must be none."""
        with pytest.raises(StoreUnavailableError) as caught:
            self.limit(limiter, key, **how)
        return caught.value

    def many(self, limiter: Any, count: int, key: str = "key") -> list[Told]:
        """So many at once."""
        if self._loop is not None:

            async def together() -> list[Told]:
                tasks = [limiter.limit(key) for _ in range(count)]
                return await asyncio.gather(*tasks, return_exceptions=True)

            return [_expected(one) for one in self._run(self._loop, together())]
        told: list[Any] = []

        def one() -> None:
            try:
                told.append(limiter.limit(key))
            except BaseException as error:
                told.append(error)

        threads = [threading.Thread(target=one, daemon=True) for _ in range(count)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(DEADLINE_S)
        assert len(told) == count, f"{count - len(told)} threads are still waiting"
        return [_expected(one) for one in told]

    def turn(self, seconds: float = 0.05) -> None:
        """Lets time pass, in which an event loop reads what comes."""
        if self._loop is None:
            time.sleep(seconds)
        else:
            self._run(self._loop, asyncio.sleep(seconds))

    def until_answered(self, limiter: Any, deadline: float, key: str = "key") -> float:
        """Asks again and again until the server answers; returns how long that took."""
        start = time.monotonic()
        while isinstance(told := self.told(limiter, key), StoreUnavailableError):
            if time.monotonic() - start > deadline:
                pytest.fail(f"not answered within {deadline} s: {told}")
            self.turn(0.005)
        return time.monotonic() - start

    def close(self) -> None:
        if self._loop is not None:
            self._loop.close()

    @staticmethod
    def _run(loop: asyncio.AbstractEventLoop, work: Coroutine[Any, Any, T]) -> T:
        async def bounded() -> T:
            return await asyncio.wait_for(work, DEADLINE_S)

        return loop.run_until_complete(bounded())


def _expected(one: Any) -> Told:
    if isinstance(one, BaseException) and not isinstance(one, StoreUnavailableError):
        raise one
    return one  # type: ignore[no-any-return]


def ask_both(request: pytest.FixtureRequest) -> Iterator[Ask]:
    ask = Ask(as_task=request.param == "tasks")
    yield ask
    ask.close()


ask = pytest.fixture(params=["threads", "tasks"])(ask_both)
"""Import it where it is used: the conftest is not ours alone."""


def store_of(
    url: str, *, timeout: float = 0.4, connect: float | None = None, **how: Any
) -> RedisStore:
    """A store with short deadlines."""
    options = {"SOCKET_TIMEOUT": timeout, "SOCKET_CONNECT_TIMEOUT": connect or timeout}
    return RedisStore(url, options, **how)


def admitted(told: list[Told]) -> int:
    """How many may go on."""
    return sum(isinstance(one, RateLimitResult) and not one.limited for one in told)


def uncertain(told: list[Told]) -> int:
    """How many may have been counted, and nobody heard."""
    return sum(isinstance(one, StoreUnavailableError) and one.may_have_counted for one in told)

"""`@throttle` of the awaited package asks before whatever it decorates, and leaves it its kind.

A coroutine function and an async generator wait in the loop. A plain function cannot, so it asks
as the synchronous package does.
"""

from __future__ import annotations

import asyncio
import functools
import inspect
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
from task_lines import turns

from headway import MemoryStore
from headway import Throttled as SyncThrottled
from headway.asyncio import Throttled
from headway.exceptions import DataError, LimitedError

Make = Callable[..., Any]


@pytest.fixture(params=[Throttled, SyncThrottled], ids=["awaited", "direct"])
def once_a_minute(request: pytest.FixtureRequest, store: MemoryStore) -> Make:
    """Makes a limiter of one call a minute, of either package."""
    return functools.partial(request.param, key="key", quota="1/m", using="gcra", store=store)


def test_a_coroutine_function_is_limited_when_awaited(once_a_minute: Make) -> None:
    ran = []

    @once_a_minute()
    async def work(number: int) -> int:
        ran.append(number)
        return number

    async def main() -> None:
        work(0).close()
        assert await work(1) == 1
        with pytest.raises(LimitedError):
            await work(2)

    asyncio.run(main())
    assert ran == [1]


def test_a_coroutine_function_stays_one_and_keeps_its_identity(once_a_minute: Make) -> None:
    async def work(number: int) -> int:
        """Works."""
        return number

    throttle = once_a_minute()
    guarded = throttle(work)
    assert inspect.iscoroutinefunction(guarded)
    assert guarded.__name__ == "work"
    assert guarded.__doc__ == "Works."
    assert guarded.__wrapped__ is work
    assert inspect.signature(guarded) == inspect.signature(work)
    assert guarded.limiter is throttle


def test_a_decorated_coroutine_function_waits_in_the_loop(
    once_a_minute: Make, store: MemoryStore
) -> None:
    @once_a_minute(timeout=100)
    async def work() -> str:
        return "done"

    async def main() -> None:
        await work()
        task = asyncio.create_task(work())
        await turns()
        assert not task.done()
        assert store.clock is not None
        store.clock.advance(60)
        await turns()
        assert task.result() == "done"

    asyncio.run(main())


def test_an_async_generator_asks_when_its_first_value_is(once_a_minute: Make) -> None:
    @once_a_minute()
    async def count() -> AsyncIterator[int]:
        for number in range(3):
            yield number

    async def main() -> None:
        assert inspect.isasyncgenfunction(count)
        unused, used = count(), count()
        assert [number async for number in used] == [0, 1, 2]
        with pytest.raises(LimitedError):
            await unused.__anext__()

    asyncio.run(main())


def test_an_async_generator_receives_what_is_sent_thrown_and_closed(once_a_minute: Make) -> None:
    log: list[Any] = []

    @once_a_minute()
    async def echo() -> Any:
        try:
            while True:
                try:
                    log.append((yield len(log)))
                except KeyError as error:
                    log.append(error)
        finally:
            log.append("closed")

    async def main() -> None:
        generator: Any = echo()
        error = KeyError("thrown")
        assert await generator.asend(None) == 0
        assert await generator.asend("sent") == 1
        assert await generator.athrow(error) == 2
        await generator.aclose()
        assert log == ["sent", error, "closed"]

    asyncio.run(main())


def test_a_plain_function_is_limited_and_stays_plain(once_a_minute: Make) -> None:
    @once_a_minute()
    def work(number: int) -> int:
        return number

    async def main() -> None:
        assert not inspect.iscoroutinefunction(work)
        assert work(1) == 1
        with pytest.raises(LimitedError):
            work(2)

    asyncio.run(main())


def test_a_plain_function_is_limited_where_no_loop_runs(once_a_minute: Make) -> None:
    work = once_a_minute()(lambda: "done")
    assert work() == "done"
    with pytest.raises(LimitedError):
        work()


def test_methods_of_every_kind_are_limited(once_a_minute: Make) -> None:
    class Service:
        @once_a_minute(key=lambda self: "method")
        async def method(self) -> object:
            return self

        @classmethod
        @once_a_minute(key=lambda cls: "class")
        async def of_class(cls) -> object:
            return cls

        @staticmethod
        @once_a_minute(key=lambda: "static")
        async def of_nobody() -> object:
            return None

    async def main() -> None:
        service = Service()
        assert await service.method() is service
        assert await Service.of_class() is Service
        assert await Service.of_nobody() is None
        for call in (service.method, Service.of_class, service.of_nobody):
            with pytest.raises(LimitedError):
                await call()

    asyncio.run(main())


def test_a_key_and_a_cost_are_made_from_the_arguments(store: MemoryStore) -> None:
    throttle = Throttled(
        lambda user, size: user, quota="5/m", store=store, cost=lambda user, size: size
    )

    @throttle
    async def upload(user: str, size: int) -> int:
        return size

    async def main() -> None:
        assert await upload("a", 4) == 4
        assert await upload("b", 5) == 5
        with pytest.raises(LimitedError):
            await upload("a", size=2)
        assert await upload("a", size=1) == 1

    asyncio.run(main())


def test_a_call_that_is_cancelled_while_it_waits_does_not_run(
    once_a_minute: Make, store: MemoryStore
) -> None:
    ran = []

    @once_a_minute(timeout=100)
    async def work(name: str) -> None:
        ran.append(name)

    async def main() -> None:
        await work("first")
        task = asyncio.create_task(work("cancelled"))
        await turns()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(main())
    assert ran == ["first"]


def test_decorating_without_a_key_is_refused() -> None:
    async def work() -> None:
        pass

    with pytest.raises(DataError, match="Invalid key"):
        Throttled(quota="1/m")(work)


def test_decorating_what_cannot_be_called_is_refused() -> None:
    with pytest.raises(TypeError, match="'nonsense'"):
        Throttled("key", quota="1/m")("nonsense")  # type: ignore[arg-type]

"""What a waiting task's awaitable yields takes callbacks as a future of the loop does: any number.

Each behaviour is looked at on both: on what `limiter.limit()` yields, and on a future that is done
after as long.
"""

import asyncio
import contextvars
from collections.abc import Callable, Coroutine, Generator, Iterator
from typing import Any

import pytest

from headway import MemoryStore, VirtualClock
from headway.asyncio import Throttled

number = contextvars.ContextVar("number", default=0)
WAIT_S = 10


def loops() -> list[str]:
    try:
        import uvloop  # noqa: F401
    except ImportError:
        return ["asyncio"]
    return ["asyncio", "uvloop"]


@pytest.fixture(params=loops())
def run(request: pytest.FixtureRequest) -> Iterator[Callable[[Coroutine[Any, Any, Any]], Any]]:
    if request.param == "uvloop":
        import uvloop

        loop = uvloop.new_event_loop()
    else:
        loop = asyncio.new_event_loop()
    yield lambda what: loop.run_until_complete(asyncio.wait_for(what, WAIT_S))
    loop.close()


class Yields:
    """Awaits another awaitable, and shows each object that it yields to `seen` before it does."""

    def __init__(self, awaitable: Any, seen: Callable[[Any], None]) -> None:
        self.awaitable, self.seen = awaitable, seen

    def __await__(self) -> Generator[Any, Any, Any]:
        inner = self.awaitable.__await__()
        value = None
        while True:
            try:
                got = inner.send(value)
            except StopIteration as end:
                return end.value
            self.seen(got)
            value = yield got


def waiting(kind: str, seen: Callable[[Any], None]) -> Coroutine[Any, Any, Any]:
    """A coroutine that waits some milliseconds, for a slot or for a future."""

    async def for_slot() -> None:
        clock = VirtualClock()
        limiter = Throttled("k", quota="1/s", store=MemoryStore(clock=clock), timeout=5)
        await limiter.limit()
        asyncio.get_running_loop().call_later(0.02, clock.advance, 1)
        assert await Yields(limiter.limit(), seen)

    async def for_future() -> None:
        loop = asyncio.get_running_loop()
        future = loop.create_future()
        loop.call_later(0.02, future.set_result, None)
        await Yields(future, seen)

    return for_slot() if kind == "slot" else for_future()


kinds = pytest.mark.parametrize("kind", ["slot", "future"])


@kinds
def test_callbacks_beside_the_tasks_own_are_all_called_in_order(
    kind: str, run: Callable[[Coroutine[Any, Any, Any]], Any]
) -> None:
    called: list[Any] = []

    def seen(got: Any) -> None:
        for i in range(3):
            got.add_done_callback(lambda of, i=i: called.append((i, of is got, of.done())))

    async def main() -> None:
        await waiting(kind, seen)
        await asyncio.sleep(0)

    run(main())
    assert called == [(0, True, True), (1, True, True), (2, True, True)]


@kinds
def test_callbacks_run_in_the_contexts_they_were_added_with(
    kind: str, run: Callable[[Coroutine[Any, Any, Any]], Any]
) -> None:
    called: list[int] = []

    def seen(got: Any) -> None:
        for i in range(1, 4):
            context = contextvars.copy_context()
            context.run(number.set, i)
            got.add_done_callback(lambda of: called.append(number.get()), context=context)

    async def main() -> None:
        await waiting(kind, seen)
        await asyncio.sleep(0)

    run(main())
    assert called == [1, 2, 3]


@kinds
def test_removed_callbacks_are_not_called_and_their_number_is_returned(
    kind: str, run: Callable[[Coroutine[Any, Any, Any]], Any]
) -> None:
    called: list[str] = []

    def wanted(of: Any) -> None:
        called.append("wanted")

    def unwanted(of: Any) -> None:
        called.append("unwanted")

    def seen(got: Any) -> None:
        for callback in (unwanted, wanted, unwanted, wanted, unwanted):
            got.add_done_callback(callback)
        assert got.remove_done_callback(unwanted) == 3
        assert got.remove_done_callback(unwanted) == 0

    async def main() -> None:
        await waiting(kind, seen)
        await asyncio.sleep(0)

    run(main())
    assert called == ["wanted", "wanted"]


@kinds
def test_a_callback_that_raises_keeps_none_of_the_others_from_being_called(
    kind: str, run: Callable[[Coroutine[Any, Any, Any]], Any]
) -> None:
    called: list[int] = []
    reported: list[Any] = []

    def fails(of: Any) -> None:
        raise ValueError("a callback's")

    def seen(got: Any) -> None:
        got.add_done_callback(lambda of: called.append(1))
        got.add_done_callback(fails)
        got.add_done_callback(lambda of: called.append(2))

    async def main() -> None:
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(lambda loop, context: reported.append(context["exception"]))
        await waiting(kind, seen)
        await asyncio.sleep(0)

    run(main())
    assert called == [1, 2]
    assert [str(error) for error in reported] == ["a callback's"]


@kinds
def test_a_cancelled_wait_calls_all_callbacks_and_cancels_its_task(
    kind: str, run: Callable[[Coroutine[Any, Any, Any]], Any]
) -> None:
    called: list[bool] = []

    def seen(got: Any) -> None:
        got.add_done_callback(lambda of: called.append(of.cancelled()))
        got.add_done_callback(lambda of: called.append(of.cancelled()))
        asyncio.get_running_loop().call_soon(task.cancel)

    async def main() -> None:
        nonlocal task
        task = asyncio.ensure_future(waiting(kind, seen))
        with pytest.raises(asyncio.CancelledError):
            await task
        await asyncio.sleep(0)

    task: Any = None
    run(main())
    assert called == [True, True]


@kinds
def test_a_callback_that_is_added_when_it_is_over_is_called_soon(
    kind: str, run: Callable[[Coroutine[Any, Any, Any]], Any]
) -> None:
    called: list[int] = []
    kept: list[Any] = []

    def seen(got: Any) -> None:
        kept.append(got)
        got.add_done_callback(lambda of: called.append(1))

    async def main() -> None:
        await waiting(kind, seen)
        kept[0].add_done_callback(lambda of: called.append(2))
        kept[0].add_done_callback(lambda of: called.append(3))
        assert 2 not in called  # never within add_done_callback itself
        await asyncio.sleep(0)
        await asyncio.sleep(0)

    run(main())
    assert called == [1, 2, 3]


def test_callbacks_go_with_what_they_were_added_to(
    run: Callable[[Coroutine[Any, Any, Any]], Any],
) -> None:
    """A callback that refers to the wait, which refers to the callback, is collected with it."""
    import gc
    import weakref

    class Callback:
        got: Any = None

        def __call__(self, of: Any) -> None: ...

    kept: list[weakref.ref[Callback]] = []

    def seen(got: Any) -> None:
        for _ in range(3):
            callback = Callback()
            callback.got = got
            kept.append(weakref.ref(callback))
            got.add_done_callback(callback)

    async def main() -> None:
        await waiting("slot", seen)
        await asyncio.sleep(0)

    run(main())
    gc.collect()
    assert len(kept) == 3
    assert [one() for one in kept] == [None, None, None]

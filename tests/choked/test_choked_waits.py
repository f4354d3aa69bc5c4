"""A call of a choked function waits for its token: to the exact instant, first come first served,
with functions, threads and tasks of one key in one line.
"""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from headway import MemoryStore, VirtualClock
from headway.choked import choked

Start = Callable[[Callable[[], Any]], Any]
Asleep = Callable[[Any], None]
Turns = Callable[[], Awaitable[None]]

pytestmark = pytest.mark.usefixtures("virtual")


@pytest.fixture
def instants(clock: VirtualClock) -> list[int]:
    """Where `timed` notes the nanoseconds that have passed when it runs."""
    return []


@pytest.fixture
def timed(key: str, clock: VirtualClock, instants: list[int]) -> Callable[[], None]:
    """Two at once, then one every three seconds; notes when it runs."""
    began = clock.now_ns

    @choked(key=key, max_tokens=2, refill_period=6)
    def call() -> None:
        instants.append(clock.now_ns - began)

    return call


def test_as_many_calls_as_the_bucket_holds_go_at_once(key: str) -> None:
    @choked(key=key, max_tokens=10, refill_period=60)
    def call() -> str:
        return "answer"

    assert [call() for _ in range(10)] == ["answer"] * 10
    assert call.limiter.peek().remaining == 0  # type: ignore[attr-defined]


def test_a_call_too_many_runs_at_its_instant_and_not_a_nanosecond_before(
    timed: Callable[[], None],
    instants: list[int],
    clock: VirtualClock,
    start: Start,
    asleep: Asleep,
) -> None:
    timed()
    timed()
    worker = start(timed)
    asleep(worker)
    clock.advance(ns=3 * 10**9 - 1)
    worker.join(0.05)
    assert worker.is_alive()
    clock.advance(ns=1)
    worker.result()
    assert instants == [0, 0, 3 * 10**9]


def test_a_period_that_does_not_divide_evenly_is_not_rounded(
    key: str, clock: VirtualClock, turns: Turns
) -> None:
    """Seven in a second: the tokens come at k/7 s, rounded up to whole nanoseconds."""
    began, instants = clock.now_ns, []

    @choked(key=key, max_tokens=7, refill_period=1)
    async def call() -> None:
        instants.append(clock.now_ns - began)

    async def main() -> None:
        tasks = [asyncio.create_task(call()) for _ in range(14)]
        await turns()
        for number in range(1, 8):
            due = -(-number * 10**9 // 7)
            clock.set(began + due - 1)
            await turns()
            clock.set(began + due)
            await turns()
        await asyncio.gather(*tasks)

    asyncio.run(main())
    assert instants == [0] * 7 + [-(-number * 10**9 // 7) for number in range(1, 8)]


def test_threads_are_served_in_the_order_in_which_they_came(
    key: str, clock: VirtualClock, start: Start, asleep: Asleep
) -> None:
    served = []

    @choked(key=key, max_tokens=1, refill_period=1)
    def call(number: int) -> None:
        served.append(number)

    call(0)
    workers = []
    for number in range(1, 6):
        workers.append(start(lambda number=number: call(number)))  # type: ignore[misc]
        asleep(workers[-1])
    for number, worker in enumerate(workers, 1):
        clock.advance(1)
        worker.result()
        assert served == list(range(number + 1))


def test_tasks_are_served_in_the_order_in_which_they_came(
    key: str, clock: VirtualClock, turns: Turns
) -> None:
    served = []

    @choked(key=key, max_tokens=1, refill_period=1)
    async def call(number: int) -> None:
        served.append(number)

    async def main() -> None:
        tasks = [asyncio.create_task(call(number)) for number in range(10)]
        await turns()
        for number in range(10):
            assert served == list(range(number + 1))
            clock.advance(1)
            await turns()
        await asyncio.gather(*tasks)

    asyncio.run(main())


def test_a_thread_and_a_task_stand_in_one_line(
    key: str, clock: VirtualClock, turns: Turns, start: Start, asleep: Asleep
) -> None:
    served = []

    @choked(key=key, max_tokens=1, refill_period=1)
    def plain(name: str) -> None:
        served.append(name)

    @choked(key=key, max_tokens=1, refill_period=1)
    async def coroutine(name: str) -> None:
        served.append(name)

    async def main() -> None:
        plain("at once")
        first = asyncio.create_task(coroutine("task"))
        await turns()
        worker = start(lambda: plain("thread"))
        asleep(worker)
        last = asyncio.create_task(coroutine("another task"))
        await turns()
        clock.advance(1)
        await first
        clock.advance(1)
        await asyncio.get_running_loop().run_in_executor(None, worker.result)
        clock.advance(1)
        await last

    asyncio.run(main())
    assert served == ["at once", "task", "thread", "another task"]


def test_a_task_that_is_cancelled_in_line_takes_no_token(
    key: str, clock: VirtualClock, turns: Turns
) -> None:
    served = []

    @choked(key=key, max_tokens=1, refill_period=1)
    async def call(number: int) -> None:
        served.append(number)

    async def main() -> None:
        tasks = [asyncio.create_task(call(number)) for number in range(4)]
        await turns()
        tasks[1].cancel()
        await turns()
        assert tasks[1].cancelled()
        clock.advance(2)
        await asyncio.gather(tasks[2], tasks[3])

    asyncio.run(main())
    assert served == [0, 2, 3]


def test_functions_of_one_key_share_one_bucket(key: str) -> None:
    @choked(key=key, max_tokens=3, refill_period=60)
    def one() -> str:
        return "one"

    @choked(key=key, max_tokens=3, refill_period=60)
    def other() -> str:
        return "other"

    assert [one(), other(), one()] == ["one", "other", "one"]
    assert one.limiter.peek().remaining == 0  # type: ignore[attr-defined]
    assert other.limiter.peek().remaining == 0  # type: ignore[attr-defined]


def test_functions_of_different_keys_do_not_meet(key: str) -> None:
    @choked(key=key, max_tokens=1, refill_period=60)
    def one() -> None: ...

    @choked(key=key + "'", max_tokens=1, refill_period=60)
    def other() -> None: ...

    one()
    other()
    assert other.limiter.peek().remaining == 0  # type: ignore[attr-defined]


def test_the_state_of_a_key_outlives_its_function(virtual: MemoryStore, key: str) -> None:
    def make() -> Callable[[], None]:
        @choked(key=key, max_tokens=2, refill_period=60)
        def call() -> None: ...

        return call

    make()()
    again = make()
    assert again.limiter.peek().remaining == 1  # type: ignore[attr-defined]


def test_a_call_that_raises_has_taken_its_token(key: str) -> None:
    @choked(key=key, max_tokens=2, refill_period=60)
    def call() -> None:
        raise LookupError

    with pytest.raises(LookupError):
        call()
    assert call.limiter.peek().remaining == 1  # type: ignore[attr-defined]


class TestRealTime:
    """Without the virtual store: the process' own."""

    @pytest.fixture
    def virtual(self) -> None:
        """Time runs."""

    def test_calls_of_threads_and_tasks_never_come_early(self, key: str, start: Start) -> None:
        """Five at once, then one each fiftieth of a second, from three threads and three tasks."""
        instants: list[float] = []

        @choked(key=key, max_tokens=5, refill_period=0.1)
        def plain() -> None:
            instants.append(time.monotonic())

        @choked(key=key, max_tokens=5, refill_period=0.1)
        async def coroutine() -> None:
            instants.append(time.monotonic())

        async def main() -> None:
            async def several() -> None:
                for _ in range(5):
                    await coroutine()

            await asyncio.gather(*[several() for _ in range(3)])

        began = time.monotonic()
        workers = [start(lambda: [plain() for _ in range(5)]) for _ in range(3)]
        asyncio.run(main())
        for worker in workers:
            worker.result()

        assert len(instants) == 30
        early = [
            number
            for number, instant in enumerate(sorted(instants))
            if instant - began < (number - 4) * 0.02
        ]
        assert early == []

    def test_any_interval_holds_no_more_than_the_bucket_gives(self, key: str) -> None:
        instants: list[float] = []

        @choked(key=key, max_tokens=4, refill_period=0.2)
        async def call() -> None:
            instants.append(time.monotonic())

        async def main() -> None:
            await asyncio.gather(*[call() for _ in range(12)])

        before = time.monotonic()
        asyncio.run(main())
        assert time.monotonic() - before >= 8 * 0.05
        # What runs late shortens the gap to the next, never the span from the beginning.
        assert all(
            instant - before >= (number - 3) * 0.05
            for number, instant in zip(itertools.count(), instants, strict=False)
        )

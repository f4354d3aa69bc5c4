"""Token buckets by name: the tokens come one by one, evenly; who waits has them in order; a wait
that is known to be longer than max_sleep is refused at once and takes nothing.

Unless a test says otherwise the bucket holds 5 and gains 2 in 4 seconds, so one each 2 seconds.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from headway import MemoryStore, VirtualClock
from headway.limiters import AsyncTokenBucket, MaxSleepExceededError, SyncTokenBucket

Start = Callable[[Callable[[], Any]], Any]
Asleep = Callable[[Any], None]
Turns = Callable[[], Awaitable[None]]
Make = Callable[..., Any]


@pytest.fixture
def make(name: str, store: MemoryStore) -> Make:
    """Makes buckets of one name, of the kind of the test's class."""

    def bucket(kind: type = SyncTokenBucket, **options: Any) -> Any:
        values = {"capacity": 5, "refill_frequency": 4, "refill_amount": 2, "max_sleep": 0}
        return kind(name, **{**values, "connection": store, **options})

    return bucket


def take(bucket: SyncTokenBucket, times: int = 1) -> None:
    for _ in range(times):
        with bucket:
            pass


async def take_async(bucket: AsyncTokenBucket, noted: list[Any], name: object = None) -> None:
    async with bucket:
        noted.append(name)


class TestThreads:
    def test_as_many_as_it_holds_go_at_once_and_the_next_at_its_instant(
        self, make: Make, clock: VirtualClock, start: Start, asleep: Asleep
    ) -> None:
        bucket = make()
        take(bucket, 5)
        worker = start(lambda: take(bucket))
        asleep(worker)
        clock.advance(ns=2 * 10**9 - 1)
        worker.join(0.05)
        assert worker.is_alive()
        clock.advance(ns=1)
        worker.result()

    def test_threads_are_served_in_the_order_in_which_they_came(
        self, make: Make, clock: VirtualClock, start: Start, asleep: Asleep
    ) -> None:
        bucket, entered = make(capacity=1), []

        def enter(number: int) -> None:
            with bucket:
                entered.append(number)

        enter(0)
        workers = []
        for number in range(1, 5):
            workers.append(start(lambda number=number: enter(number)))  # type: ignore[misc]
            asleep(workers[-1])
        for number, worker in enumerate(workers, 1):
            clock.advance(2)
            worker.result()
            assert entered == list(range(number + 1))

    def test_a_wait_known_to_exceed_max_sleep_raises_at_once_and_takes_nothing(
        self, make: Make, clock: VirtualClock, name: str
    ) -> None:
        bucket = make(max_sleep=1.999_999_999)
        take(bucket, 5)
        began = time.monotonic()
        with pytest.raises(MaxSleepExceededError) as caught, bucket:
            raise AssertionError("entered")
        assert time.monotonic() - began < 30
        assert name in str(caught.value)
        assert "max_sleep=2" in str(caught.value)
        clock.advance(2)
        take(bucket)

    def test_a_wait_that_just_fits_into_max_sleep_is_waited_for(
        self, make: Make, clock: VirtualClock, start: Start, asleep: Asleep
    ) -> None:
        bucket = make(max_sleep=2)
        take(bucket, 5)
        worker = start(lambda: take(bucket))
        asleep(worker)
        with pytest.raises(MaxSleepExceededError), bucket:  # behind the one that waits: 4 s
            raise AssertionError("entered")
        clock.advance(2)
        worker.result()

    def test_a_max_sleep_of_nothing_waits_without_end(
        self, make: Make, clock: VirtualClock, start: Start, asleep: Asleep
    ) -> None:
        bucket = make(capacity=1, refill_frequency=86_400 * 3000, refill_amount=1)
        take(bucket)
        worker = start(lambda: take(bucket))
        asleep(worker)
        clock.advance(86_400 * 3000 - 1)
        worker.join(0.05)
        assert worker.is_alive()
        clock.advance(1)
        worker.result()

    def test_no_token_comes_early_in_real_time(self, name: str, start: Start) -> None:
        """Three at once, then one in 20 ms, for six threads."""
        bucket = SyncTokenBucket(name, 3, 0.1, 5, connection=MemoryStore())
        instants: list[float] = []

        def work() -> None:
            for _ in range(4):
                with bucket:
                    instants.append(time.monotonic())

        began = time.monotonic()
        for worker in [start(work) for _ in range(6)]:
            worker.result()
        late = [
            instant - began - (number - 2) * 0.02 for number, instant in enumerate(sorted(instants))
        ]
        assert len(late) == 24
        assert min(late) >= 0

    def test_leaving_gives_nothing_back_and_an_exception_passes(self, make: Make) -> None:
        bucket = make()
        with pytest.raises(LookupError), bucket:
            raise LookupError
        assert bucket._peek(bucket.name).remaining == 4

    def test_it_refuses_async_with(self, make: Make) -> None:
        async def main() -> None:
            bucket = make()
            async with bucket:
                raise AssertionError("entered")

        with pytest.raises(TypeError, match="AsyncTokenBucket"):
            asyncio.run(main())


class TestTasks:
    def test_tasks_are_served_in_order_each_at_its_instant(
        self, make: Make, clock: VirtualClock, turns: Turns
    ) -> None:
        async def main() -> None:
            bucket, entered = make(AsyncTokenBucket), []
            tasks = [asyncio.create_task(take_async(bucket, entered, n)) for n in range(10)]
            await turns()
            assert entered == [0, 1, 2, 3, 4]
            for number in range(5, 10):
                clock.advance(ns=2 * 10**9 - 1)
                await turns()
                assert entered == list(range(number))
                clock.advance(ns=1)
                await turns()
                assert entered == list(range(number + 1))
            await asyncio.gather(*tasks)

        asyncio.run(main())

    def test_those_whose_wait_exceeds_max_sleep_are_told_at_once(
        self, make: Make, clock: VirtualClock, turns: Turns
    ) -> None:
        """Ten come to a bucket of five; the waits are 2, 4, 6, 8 and 10 seconds."""

        async def main() -> None:
            bucket, entered = make(AsyncTokenBucket, max_sleep=6), []
            tasks = [asyncio.create_task(take_async(bucket, entered, n)) for n in range(10)]
            await turns()
            for task in tasks[8:]:
                assert isinstance(task.exception(), MaxSleepExceededError)
            clock.advance(6)
            await asyncio.gather(*tasks[:8])
            assert entered == list(range(8))

        asyncio.run(main())

    def test_a_task_that_is_cancelled_takes_no_token(
        self, make: Make, clock: VirtualClock, turns: Turns
    ) -> None:
        async def main() -> None:
            bucket, entered = make(AsyncTokenBucket, capacity=1), []
            tasks = [asyncio.create_task(take_async(bucket, entered, n)) for n in range(4)]
            await turns()
            tasks[1].cancel()
            await turns()
            clock.advance(4)
            await asyncio.gather(tasks[2], tasks[3])
            assert entered == [0, 2, 3]

        asyncio.run(main())

    @pytest.mark.parametrize("passed", range(4), ids=lambda passed: f"{passed} turns later")
    def test_a_cancellation_after_the_token_was_handed_over_gives_it_on(
        self, passed: int, make: Make, clock: VirtualClock, turns: Turns
    ) -> None:
        """Whoever of the two runs has the one token; it is not lost, and not there twice."""

        async def main() -> None:
            bucket, entered = make(AsyncTokenBucket, capacity=1), []
            take(make(), 1)
            chosen = asyncio.create_task(take_async(bucket, entered, "chosen"))
            await turns()
            other = asyncio.create_task(take_async(bucket, entered, "other"))
            await turns()
            clock.advance(2)
            for _ in range(passed):
                await asyncio.sleep(0)
            chosen.cancel()
            await turns()
            assert len(entered) == 1
            clock.advance(2)
            await other
            assert entered in (["other"], ["chosen", "other"])

        asyncio.run(main())

    def test_one_instance_used_from_many_tasks_at_once_is_right(self, name: str) -> None:
        bucket = AsyncTokenBucket(name, 10, 0.1, 50, connection=MemoryStore())  # 500 a second
        instants: list[float] = []

        async def work() -> None:
            async with bucket:
                instants.append(time.monotonic())

        async def main() -> None:
            await asyncio.gather(*[work() for _ in range(110)])

        began = time.monotonic()
        asyncio.run(main())
        assert len(instants) == 110
        assert min(t - began - (n - 9) * 0.002 for n, t in enumerate(instants)) >= 0

    def test_threads_and_tasks_of_one_name_share_the_tokens(
        self, make: Make, clock: VirtualClock
    ) -> None:
        async def main() -> None:
            entered: list[None] = []
            take(make(SyncTokenBucket), 3)
            bucket = make(AsyncTokenBucket, max_sleep=1)
            await take_async(bucket, entered)
            await take_async(bucket, entered)
            with pytest.raises(MaxSleepExceededError):
                await take_async(bucket, entered)

        asyncio.run(main())

    def test_entering_gives_nothing(self, make: Make) -> None:
        async def main() -> None:
            async with make(AsyncTokenBucket) as entered:
                assert entered is None

        asyncio.run(main())
        with make() as entered:
            assert entered is None

    def test_it_refuses_with(self, make: Make) -> None:
        bucket = make(AsyncTokenBucket)
        with pytest.raises(TypeError, match="SyncTokenBucket"), bucket:
            raise AssertionError("entered")


class TestTokens:
    @pytest.fixture
    def make(self, make: Make) -> Make:
        """A bucket that refuses what it does not have, so that a wrong count does not hang."""
        return lambda kind=SyncTokenBucket, **options: make(kind, **{"max_sleep": 1, **options})

    def test_entering_takes_as_many_tokens_as_it_is_told(
        self, make: Make, clock: VirtualClock
    ) -> None:
        bucket = make(tokens_to_consume=2)
        take(bucket, 2)
        with pytest.raises(MaxSleepExceededError), bucket:  # one is left, one more comes in 2 s
            raise AssertionError("entered")
        clock.advance(2)
        take(bucket)

    def test_buckets_of_one_name_may_take_different_numbers(self, make: Make) -> None:
        take(make(tokens_to_consume=3))
        take(make(tokens_to_consume=2))
        assert make()._peek(make().name).remaining == 0

    def test_a_large_take_is_not_starved_by_small_ones(
        self, make: Make, clock: VirtualClock, turns: Turns
    ) -> None:
        async def main() -> None:
            entered: list[str] = []
            take(make(), 5)
            large = make(AsyncTokenBucket, tokens_to_consume=5, max_sleep=0)
            small = make(AsyncTokenBucket, tokens_to_consume=1, max_sleep=0)
            tasks = [asyncio.create_task(take_async(large, entered, "large"))]
            await turns()
            tasks += [asyncio.create_task(take_async(small, entered, "small")) for _ in range(2)]
            await turns()
            clock.advance(8)
            await turns()
            assert entered == []
            clock.advance(2)
            await turns()
            assert entered == ["large"]
            clock.advance(4)
            await asyncio.gather(*tasks)

        asyncio.run(main())

    @pytest.mark.parametrize("initial", range(6))
    def test_it_starts_with_the_tokens_it_is_given(self, make: Make, initial: int) -> None:
        bucket = make(initial_tokens=initial)
        take(bucket, initial)
        with pytest.raises(MaxSleepExceededError), bucket:
            raise AssertionError("entered")

    def test_without_them_it_starts_full(self, make: Make) -> None:
        take(make(), 5)

    def test_what_it_starts_without_comes_at_the_rate(
        self, make: Make, clock: VirtualClock
    ) -> None:
        bucket = make(initial_tokens=0)
        clock.advance(6)
        take(bucket, 3)
        with pytest.raises(MaxSleepExceededError), bucket:
            raise AssertionError("entered")

    def test_initial_tokens_count_once_for_a_name(self, make: Make, clock: VirtualClock) -> None:
        first = make(initial_tokens=1)
        clock.advance(100)  # full again
        second = make(initial_tokens=1)
        take(second, 5)
        assert first._peek(first.name).remaining == 0

    def test_initial_tokens_do_not_change_a_bucket_that_is_in_use(self, make: Make) -> None:
        first = make()
        take(first, 3)
        make(initial_tokens=5)
        assert first._peek(first.name).remaining == 2
        make(initial_tokens=0)
        assert first._peek(first.name).remaining == 2

"""What is remembered of requests that may come again, by itself: races and bounds."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from headway.serve.answers import Answer
from headway.serve.remembered import Remembered

CHARGED = Answer(200, b"first", charged=True)


class Work:
    """Counts how often it was done; waits until it may end."""

    def __init__(self) -> None:
        self.done = self.cancelled = 0
        self.go = asyncio.Event()

    async def __call__(self) -> Answer:
        try:
            await self.go.wait()
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        self.done += 1
        return CHARGED


def test_who_leaves_in_the_moment_of_its_answer_is_answered_the_same_when_it_comes_back() -> None:
    async def main() -> None:
        remembered, work = Remembered(), Work()
        task = asyncio.ensure_future(remembered.once(b"id", b"request", work()))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        work.go.set()
        while not work.done:
            await asyncio.sleep(0)
        task.cancel()  # it was decided, and nobody has been told
        with pytest.raises(asyncio.CancelledError):
            await task
        assert await remembered.once(b"id", b"request", work()) is CHARGED
        assert work.done == 1

    asyncio.run(main())


def test_what_nobody_waits_for_is_cancelled_and_not_before() -> None:
    async def main() -> None:
        remembered, work = Remembered(), Work()
        tasks = [
            asyncio.ensure_future(remembered.once(b"id", b"request", work())) for _ in range(2)
        ]
        for _ in range(3):
            await asyncio.sleep(0)
        tasks[0].cancel()
        for _ in range(3):
            await asyncio.sleep(0)
        assert work.cancelled == 0
        tasks[1].cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for _ in range(3):
            await asyncio.sleep(0)
        assert work.cancelled == 1

    asyncio.run(main())


def test_it_holds_so_many_for_so_long() -> None:
    async def once(remembered: Remembered, key: bytes) -> int:
        work = Work()
        work.go.set()
        await remembered.once(key, b"request", work())
        return work.done

    async def main() -> None:
        few = Remembered(most=10)
        for number in range(100):
            await once(few, b"%d" % number)
        entries: Any = few._answered
        assert len(entries) <= 10
        assert await once(few, b"99") == 0
        assert await once(few, b"1") == 1
        brief = Remembered(seconds=0.0)
        assert await once(brief, b"id") == 1
        assert await once(brief, b"id") == 1

    asyncio.run(main())


def test_what_is_under_way_is_not_forgotten_for_others() -> None:
    """It would be charged twice if it were sent again."""

    async def main() -> None:
        remembered, work = Remembered(most=10), Work()
        first = asyncio.ensure_future(remembered.once(b"first", b"request", work()))
        await asyncio.sleep(0)
        quick = Work()
        quick.go.set()
        for number in range(100):
            await remembered.once(b"%d" % number, b"request", quick())
        again = asyncio.ensure_future(remembered.once(b"first", b"request", work()))
        await asyncio.sleep(0)
        work.go.set()
        assert await first is CHARGED
        assert await again is CHARGED
        assert work.done == 1

    asyncio.run(main())


def test_more_than_may_be_under_way_are_refused() -> None:
    async def main() -> None:
        remembered, work = Remembered(most=10), Work()
        tasks = [
            asyncio.ensure_future(remembered.once(b"%d" % n, b"request", work())) for n in range(10)
        ]
        await asyncio.sleep(0)
        assert (await remembered.once(b"more", b"request", work())).status == 503
        work.go.set()
        assert {answer.status for answer in await asyncio.gather(*tasks)} == {200}
        assert (await remembered.once(b"more", b"request", work())).status == 200
        assert work.done == 11

    asyncio.run(main())


def test_answers_take_no_more_memory_than_they_may() -> None:
    async def answer() -> Answer:
        return Answer(200, b"x" * 10_000, charged=True)

    async def main() -> None:
        remembered = Remembered(most_bytes=100_000)
        for number in range(50):
            await remembered.once(b"%d" % number, b"request", answer())
        entries: Any = remembered._answered
        assert 1 <= len(entries) <= 10
        assert b"49" in entries

    asyncio.run(main())


def test_what_is_over_goes_without_another_request() -> None:
    async def main() -> None:
        remembered, work = Remembered(seconds=0.0), Work()
        work.go.set()
        await remembered.once(b"id", b"request", work())
        entries: Any = remembered._answered
        while entries:
            remembered.forget_old()
            await asyncio.sleep(0)

    asyncio.run(main())

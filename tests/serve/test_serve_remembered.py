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
        task = asyncio.ensure_future(remembered.once(b"id", "request", work()))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        work.go.set()
        while not work.done:
            await asyncio.sleep(0)
        task.cancel()  # it was decided, and nobody has been told
        with pytest.raises(asyncio.CancelledError):
            await task
        assert await remembered.once(b"id", "request", work()) is CHARGED
        assert work.done == 1

    asyncio.run(main())


def test_what_nobody_waits_for_is_cancelled_and_not_before() -> None:
    async def main() -> None:
        remembered, work = Remembered(), Work()
        tasks = [asyncio.ensure_future(remembered.once(b"id", "request", work())) for _ in range(2)]
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
        await remembered.once(key, "request", work())
        return work.done

    async def main() -> None:
        few = Remembered(most=10)
        for number in range(100):
            await once(few, b"%d" % number)
        entries: Any = few._entries
        assert len(entries) <= 10
        assert await once(few, b"99") == 0
        assert await once(few, b"1") == 1
        brief = Remembered(seconds=0.0)
        assert await once(brief, b"id") == 1
        assert await once(brief, b"id") == 1

    asyncio.run(main())

"""Waiting on a SQLiteStore: a slot is reserved when it is asked for, so the order is that of
asking, and who leaves gives the slot to the next.
"""

from __future__ import annotations

import asyncio
import importlib.util
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from headway import SQLiteStore, Throttled, VirtualClock
from headway.asyncio import Throttled as AsyncThrottled

SLACK_S = 15.0
Eventually = Callable[..., None]


@pytest.fixture
def store(tmp_path: Path) -> SQLiteStore:  # type: ignore[override]
    return SQLiteStore(tmp_path / "x.db")


@pytest.mark.parametrize("using", ["token_bucket", "leaking_bucket", "gcra"])
def test_a_thread_waits_for_the_instant_and_no_longer(using: str, store: SQLiteStore) -> None:
    limiter = Throttled("key", using=using, quota="20/s burst 1", timeout=30, store=store)
    since = time.monotonic()
    assert all(limiter.limit() for _ in range(5))
    assert 0.2 <= time.monotonic() - since < 0.2 + SLACK_S


@pytest.mark.parametrize("using", ["fixed_window", "sliding_window"])
def test_a_window_is_asked_again_when_it_may_fit(using: str, store: SQLiteStore) -> None:
    limiter = Throttled("key", using=using, quota="2/200ms", timeout=30, store=store)
    since = time.monotonic()
    assert all(limiter.limit() for _ in range(6))
    assert 0.2 < time.monotonic() - since < 0.8 + SLACK_S


@pytest.mark.parametrize("kind", [Throttled, AsyncThrottled])
def test_a_wait_that_is_known_to_be_too_long_is_denied_at_once(
    kind: Any, store: SQLiteStore
) -> None:
    limiter = kind("key", quota="1/h burst 1", timeout=60, store=store)

    async def main() -> Any:
        return await limiter.limit()

    def ask() -> Any:
        return limiter.limit() if kind is Throttled else asyncio.run(main())

    assert ask()
    since = time.monotonic()
    result = ask()
    assert not result
    assert result.state.retry_after > 3000
    assert time.monotonic() - since < SLACK_S


def test_waiters_are_served_in_the_order_in_which_they_asked(
    store: SQLiteStore, start: Any, eventually: Eventually
) -> None:
    quota = "4/s burst 1"
    limiter = Throttled("key", quota=quota, using="gcra", timeout=60, store=store)
    limiter.limit()
    served: list[int] = []

    def ask(number: int) -> None:
        limiter.limit()
        served.append(number)

    def booked() -> float:
        """The instant up to which slots are given away: it moves only when somebody asks."""
        return limiter.peek().reset_after + store._now() / 1e9

    workers = []
    for number in range(4):
        before = booked()
        workers.append(start(lambda number=number: ask(number)))
        eventually(lambda before=before: booked() > before + 0.2, "the waiter asked")
    for worker in workers:
        worker.result()
    assert served == [0, 1, 2, 3]


def test_nobody_overtakes_those_who_wait(store: SQLiteStore) -> None:
    waiting = Throttled("key", quota="4/s burst 1", using="gcra", timeout=60, store=store)
    since = time.monotonic()
    waiting.limit()
    thread = threading.Thread(target=waiting.limit)
    thread.start()
    while waiting.peek().reset_after < 0.3 and time.monotonic() < since + 0.25:
        pass  # until it has its slot, a quarter of a second from the first
    while thread.is_alive():
        if waiting.limit(timeout=-1):
            assert time.monotonic() >= since + 0.5, "the slot was another's"
    thread.join()


def test_tasks_wait_together(store: SQLiteStore) -> None:
    limiter = AsyncThrottled("key", quota="50/s burst 1", timeout=60, store=store)

    async def main() -> float:
        since = time.monotonic()
        assert all(await asyncio.gather(*(limiter.limit() for _ in range(11))))
        return time.monotonic() - since

    assert 0.2 <= asyncio.run(main()) < 0.2 + SLACK_S


def test_a_wait_leaves_the_loop_to_others(store: SQLiteStore) -> None:
    limiter = AsyncThrottled("key", quota="1/h burst 1", timeout=4000, store=store)

    async def main() -> None:
        await limiter.limit()
        waiting = asyncio.ensure_future(limiter.limit())
        for _ in range(100):
            await asyncio.sleep(0.001)
        assert not waiting.done()
        waiting.cancel()
        await asyncio.wait([waiting])

    asyncio.run(main())


@pytest.mark.skipif(importlib.util.find_spec("trio") is None, reason="trio is not installed")
def test_tasks_of_trio_wait_too(store: SQLiteStore) -> None:
    import trio

    limiter = AsyncThrottled("key", quota="20/s burst 1", timeout=60, store=store)
    store.close()  # so that a thread has to open it

    async def main() -> float:
        since = time.monotonic()
        for _ in range(4):
            async with limiter:
                pass
        return time.monotonic() - since

    assert 0.15 <= trio.run(main) < 0.15 + SLACK_S


def test_who_is_cancelled_last_in_line_gives_the_slot_back(
    store: SQLiteStore, eventually: Eventually
) -> None:
    limiter = AsyncThrottled("key", quota="1/m burst 1", timeout=1e6, store=store)

    async def main() -> None:
        await limiter.limit()
        waiting = [asyncio.ensure_future(limiter.limit()) for _ in range(3)]
        await asyncio.sleep(0)
        assert (await limiter.peek()).reset_after > 180
        for task in waiting:  # the first two are not the last one when they go
            task.cancel()
        await asyncio.gather(*waiting, return_exceptions=True)

    asyncio.run(main())
    left = Throttled("key", quota="1/m burst 1", store=store)
    eventually(lambda: left.peek().reset_after <= 60, "all three slots are free again")


def test_a_slot_in_the_middle_goes_to_whoever_asks_next(
    store: SQLiteStore, eventually: Eventually
) -> None:
    limiter = AsyncThrottled("key", quota="5/3s burst 1", timeout=60, store=store)

    async def timed(since: float) -> float:
        await limiter.limit()
        return time.monotonic() - since

    async def main() -> list[float]:
        await limiter.limit()
        since = time.monotonic()
        waiting = [asyncio.ensure_future(timed(since)) for _ in range(4)]
        await asyncio.sleep(0)
        waiting.pop(1).cancel()
        for _ in range(5):  # giving back is a thread's
            await asyncio.sleep(0.01)
        waiting += [asyncio.ensure_future(timed(since)) for _ in range(2)]
        return await asyncio.gather(*waiting)

    first, third, fourth, late, last = asyncio.run(main())
    assert first < late < third < fourth
    assert last - fourth > 0.1  # no instant is had by two
    left = Throttled("key", quota="5/3s burst 1", store=store)
    eventually(lambda: left.peek().reset_after <= 0.6, "nothing was taken twice")


def test_ctrl_c_ends_a_wait_and_gives_the_slot_back(store: SQLiteStore) -> None:
    limiter = Throttled("key", quota="1/m burst 1", timeout=1e6, store=store)
    limiter.limit()
    main = threading.main_thread().ident
    assert main is not None

    def interrupt() -> None:
        while limiter.peek().reset_after <= 60:
            time.sleep(0.001)
        signal.pthread_kill(main, signal.SIGINT)

    thread = threading.Thread(target=interrupt)
    thread.start()
    since = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        limiter.limit()
    assert time.monotonic() - since < 20
    thread.join()
    assert limiter.peek().reset_after <= 60


def test_a_virtual_clock_is_waited_for(
    clock: VirtualClock, start: Any, eventually: Eventually
) -> None:
    limiter = Throttled(
        "key", quota="1/h burst 1", timeout=1e6, store=SQLiteStore(":memory:", clock=clock)
    )
    limiter.limit()
    worker = start(limiter.limit)
    eventually(lambda: limiter.peek().reset_after > 3600, "it waits")
    clock.advance(3599)
    assert worker.is_alive()
    clock.advance(1)
    assert worker.result()


def test_settling_what_was_reserved_before_leaves_the_instants(store: SQLiteStore) -> None:
    limiter = Throttled("key", quota="1/m burst 5", store=store)
    assert limiter.limit(cost=5)
    limiter._settle("key", 0, 2)
    assert limiter.limit(cost=2)
    assert not limiter.limit()
    limiter._settle("key", 0, -3)
    assert limiter.peek().reset_after > 300

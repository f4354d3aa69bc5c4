"""Who waits: order, deadlines, and those who leave."""

from __future__ import annotations

import asyncio
import os
import signal
import threading
import time
from typing import Any

import pytest

from headway.smartratelimit import AsyncRateLimiter, RateLimiter, RateLimitExceeded
from headway.smartratelimit.storage import MemoryStorage

URL = "https://api.example.com/data"
DEADLINE_S = 30.0


def enter(limiter: RateLimiter, costs: dict[str, int] | None = None) -> Any:
    return limiter._enter("GET", URL, {}, costs)


def waiting(limiter: Any) -> int:
    return sum(
        len(line.waiters) for scope in limiter._scopes.known() for line in scope.lines.values()
    )


def until(condition: Any) -> None:
    deadline = time.monotonic() + DEADLINE_S
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.001)


def exhausted(limit: int, window: str, **more: Any) -> RateLimiter:
    limiter = RateLimiter(**more)
    limiter.set_limit("api.example.com", limit, window)
    for _ in range(limit):
        enter(limiter)
    return limiter


def test_threads_are_served_in_the_order_in_which_they_came() -> None:
    limiter, served = exhausted(5, "500ms"), []

    def wait(number: int) -> None:
        enter(limiter)
        served.append(number)

    threads = []
    for number in range(8):
        threads.append(threading.Thread(target=wait, args=(number,)))
        threads[-1].start()
        until(lambda: waiting(limiter) == number + 1 or served)  # noqa: B023
    for thread in threads:
        thread.join(DEADLINE_S)
    assert served == sorted(served)
    assert waiting(limiter) == 0


def test_a_large_cost_is_not_starved_by_small_ones() -> None:
    limiter, served = exhausted(4, "400ms"), []

    def wait(cost: int) -> None:
        enter(limiter, {"requests": cost})
        served.append(cost)

    large = threading.Thread(target=wait, args=(4,))
    large.start()
    until(lambda: waiting(limiter) == 1)
    small = [threading.Thread(target=wait, args=(1,)) for _ in range(3)]
    for thread in small:
        thread.start()
    for thread in [large, *small]:
        thread.join(DEADLINE_S)
    assert served[0] == 4


def test_what_is_learned_wakes_the_head() -> None:
    limiter = exhausted(1, "1h", max_wait=7200)
    thread = threading.Thread(target=enter, args=(limiter,))
    thread.start()
    until(lambda: waiting(limiter) == 1)
    limiter.set_limit("api.example.com", 1000, "1s")
    thread.join(DEADLINE_S)
    assert not thread.is_alive()


def test_who_stands_behind_a_long_wait_is_refused_at_once() -> None:
    storage = MemoryStorage()
    patient = exhausted(1, "1h", max_wait=7200, storage=storage)
    thread = threading.Thread(target=enter, args=(patient,), daemon=True)
    thread.start()
    until(lambda: waiting(patient) == 1)
    hasty = RateLimiter(storage, max_wait=60)
    began = time.monotonic()
    with pytest.raises(RateLimitExceeded):
        enter(hasty)
    assert time.monotonic() - began < 30
    patient.set_limit("api.example.com", 1000, "1s")
    thread.join(DEADLINE_S)


def test_ctrl_c_ends_a_wait_at_once_and_leaves_the_line() -> None:
    limiter = exhausted(1, "1h", max_wait=7200)
    main = threading.get_ident()

    def interrupt() -> None:
        until(lambda: waiting(limiter) == 1)
        signal.pthread_kill(main, signal.SIGINT)

    thread = threading.Thread(target=interrupt)
    thread.start()
    began = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        enter(limiter)
    thread.join()
    assert time.monotonic() - began < 30
    assert waiting(limiter) == 0
    assert os.getpid()


async def aenter(limiter: AsyncRateLimiter) -> Any:
    return await limiter._enter("GET", URL, {}, None)


def test_a_task_that_is_cancelled_leaves_and_the_next_is_served() -> None:
    async def main() -> None:
        limiter = AsyncRateLimiter()
        limiter.set_limit("api.example.com", 2, "400ms")
        for _ in range(2):
            await aenter(limiter)
        first = asyncio.create_task(aenter(limiter))
        second = asyncio.create_task(aenter(limiter))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert waiting(limiter) == 2
        first.cancel()
        with pytest.raises(asyncio.CancelledError):
            await first
        await asyncio.wait_for(second, DEADLINE_S)
        assert waiting(limiter) == 0

    asyncio.run(main())


def test_tasks_are_served_in_order_within_a_loop() -> None:
    async def main() -> list[int]:
        limiter, served = AsyncRateLimiter(), []
        limiter.set_limit("api.example.com", 10, "200ms")

        async def wait(number: int) -> None:
            await aenter(limiter)
            served.append(number)

        await asyncio.gather(*(wait(number) for number in range(40)))
        return served

    assert asyncio.run(main()) == list(range(40))


def test_tasks_of_trio_wait_and_are_cancelled_too() -> None:
    trio = pytest.importorskip("trio")

    async def main() -> None:
        limiter = AsyncRateLimiter()
        limiter.set_limit("api.example.com", 5, "200ms")
        with trio.fail_after(DEADLINE_S):
            async with trio.open_nursery() as nursery:
                for _ in range(15):
                    nursery.start_soon(aenter, limiter)
        limiter.set_limit("api.example.com", 1, "1h")
        await aenter(limiter)
        with trio.move_on_after(0.05) as scope:
            await aenter(limiter)
        assert scope.cancelled_caught
        assert waiting(limiter) == 0

    trio.run(main)

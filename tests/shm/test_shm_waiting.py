"""Waiting in shared memory: first come, first served, over all processes."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

import pytest

from headway import SharedMemoryStore, Throttled
from headway.asyncio import Throttled as AsyncThrottled

DEADLINE_S = 30.0

_WAITS = """
import sys
from headway import Throttled
limiter = Throttled("key", quota="100/s burst 1", timeout=60, store=sys.argv[1], using="gcra")
for _ in range(15):
    assert limiter.limit()
    print(limiter.store._now(), flush=True)
"""


@pytest.mark.slow
def test_waiters_of_several_processes_share_the_rate(name: str) -> None:
    since = SharedMemoryStore(name, size="128K")._now()
    children = [
        subprocess.Popen(
            [sys.executable, "-c", _WAITS, f"shm:///{name}?size=128K"],
            stdout=subprocess.PIPE,
            text=True,
        )
        for _ in range(3)
    ]
    instants: list[int] = []
    for child in children:
        instants += map(int, child.communicate(timeout=DEADLINE_S)[0].split())
    assert len(instants) == 45
    # Each was allowed no earlier than 10 ms after another, and the first no earlier than it asked.
    for number, instant in enumerate(sorted(instants)):
        assert instant >= since + number * 10**7


def test_tasks_are_served_in_the_order_in_which_they_asked(name: str) -> None:
    store = SharedMemoryStore(name, size="128K")
    limiter = AsyncThrottled("key", quota="100/s burst 1", timeout=10, store=store, using="gcra")
    served: list[int] = []

    async def ask(number: int) -> None:
        assert await limiter.limit()
        served.append(number)

    async def main() -> None:
        await asyncio.gather(*(ask(i) for i in range(10)))

    asyncio.run(main())
    assert served == list(range(10))


def test_a_wait_that_would_be_too_long_is_denied_at_once(name: str) -> None:
    limiter = Throttled(
        "key", quota="1/m", timeout=30, store=SharedMemoryStore(name, size="128K"), using="gcra"
    )
    assert limiter.limit()
    begun = time.monotonic()
    result = limiter.limit()
    assert result.limited
    assert 31 < result.state.retry_after <= 60
    assert time.monotonic() - begun < 25


def test_a_cancelled_waiter_gives_its_slot_back(name: str) -> None:
    store = SharedMemoryStore(name, size="128K")
    limiter = AsyncThrottled("key", quota="1/m", timeout=100, store=store, using="gcra")

    async def main() -> float:
        assert await limiter.limit()
        waiting = asyncio.ensure_future(limiter.limit())
        await asyncio.sleep(0)
        assert (await limiter.peek()).reset_after > 100
        waiting.cancel()
        await asyncio.wait([waiting])
        return (await limiter.peek()).reset_after

    assert asyncio.run(main()) <= 60


def test_a_thread_waits_without_the_lock_and_without_the_gil(
    name: str, start: Callable[..., Any], eventually: Callable[..., None]
) -> None:
    limiter = Throttled(
        "key", quota="2/s burst 1", store=SharedMemoryStore(name, size="128K"), using="gcra"
    )
    assert limiter.limit()
    waiter = start(lambda: bool(limiter.limit(timeout=5)))
    eventually(lambda: limiter.peek().reset_after > 0.5, "a slot reserved")
    assert not limiter.limit()
    assert waiter.result()


@pytest.mark.parametrize("using", ["fixed_window", "sliding_window"])
def test_windows_are_asked_again_when_they_end(using: str, name: str) -> None:
    limiter = Throttled(
        "key", quota="1/300ms", store=SharedMemoryStore(name, size="128K"), using=using, timeout=5
    )
    assert all(limiter.limit() for _ in range(3))

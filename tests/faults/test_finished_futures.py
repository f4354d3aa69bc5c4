"""A future that another thread or a timer finishes: the callback of the event loop that does it
runs no Python code of ours, in which a signal's handler could raise before the future is done.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

import pytest

import headway
from headway import AtomicStore, SharedMemoryStore
from headway._core import _finish_future
from headway.asyncio import Throttled
from headway.limiters import AsyncSemaphore, MaxSleepExceededError

PACKAGE = Path(headway.__file__).parent


class Own(AtomicStore):
    def update(self, key: bytes, step: Any) -> Any:
        return step(None)[1]


def callbacks_of(main: Callable[[], Any]) -> set[str]:
    """The Python functions of headway's that the event loop has called back for `main`."""
    found: set[str] = set()

    def see(frame: FrameType, event: str, arg: object) -> None:
        back = frame.f_back
        if event != "call" or back is None or back.f_code.co_name != "_run":
            return
        called = Path(frame.f_code.co_filename)
        if called.is_relative_to(PACKAGE) and "/asyncio/" in back.f_code.co_filename:
            found.add(f"{frame.f_code.co_filename}:{frame.f_code.co_name}")

    async def watched() -> None:
        sys.setprofile(see)
        try:
            await main()
        finally:
            sys.setprofile(None)

    asyncio.run(watched())
    return {name for name in found if "_tasks" not in name}


def test_a_store_in_python_answers_by_no_function_of_ours() -> None:
    limiter = Throttled("key", quota="5/s", store=Own())

    async def main() -> None:
        assert await limiter.limit()

    assert callbacks_of(main) == set()


def test_a_refusal_comes_by_no_function_of_ours(tmp_path: Any) -> None:
    store = SharedMemoryStore(f"finished-{id(tmp_path)}", size="1M")
    semaphore = AsyncSemaphore("name", 1, max_sleep=0.05, expiry=60, connection=store)

    async def main() -> None:
        async with semaphore:
            with pytest.raises(MaxSleepExceededError):
                await semaphore.__aenter__()

    try:
        called = callbacks_of(main)
    finally:
        store.remove()
    # What looks after connections that are not used may be interrupted; the task that listens is
    # resumed by asyncio.
    assert {name.rpartition(":")[2] for name in called} <= {"_look_at_line", "_listen"}


def test_a_future_is_finished_once() -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        answered, failed, cancelled = (loop.create_future() for _ in range(3))
        cancelled.cancel()
        for _ in range(2):
            _finish_future(answered, (1, 2), None)
            _finish_future(failed, None, KeyError("k"))
            _finish_future(cancelled, 1, None)
        assert answered.result() == (1, 2)
        assert isinstance(failed.exception(), KeyError)
        assert cancelled.cancelled()

    asyncio.run(main())

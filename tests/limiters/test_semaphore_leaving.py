"""A permit comes back though code that is asked for its holder fails as the block is left."""

from __future__ import annotations

import asyncio
import contextlib
from typing import Any

import pytest

from headway.limiters import AsyncSemaphore


class FailingLoop(asyncio.SelectorEventLoop):
    """Code of a loop's own that raises: where it keeps its thread, or in its hash."""

    failures = 0

    def _fail(self) -> None:
        if self.failures:
            self.failures -= 1
            raise ZeroDivisionError("of the loop")

    def __getattribute__(self, name: str) -> Any:
        if name == "_thread_id":
            self._fail()
        return super().__getattribute__(name)

    def __hash__(self) -> int:
        self._fail()
        return id(self)


@pytest.mark.parametrize("failures", [1, 2, 1000])
def test_a_permit_comes_back_though_the_loop_s_own_code_raises(failures: int) -> None:
    semaphore = AsyncSemaphore("leaving", 1, max_sleep=1, expiry=3600)
    pool: Any = semaphore._pool

    async def main() -> None:
        await semaphore.__aenter__()
        assert pool.held == 1
        loop: Any = asyncio.get_running_loop()
        with contextlib.suppress(ZeroDivisionError):
            loop.failures = failures
            leaving = semaphore.__aexit__(None, None, None)
            loop.failures = 0
            await leaving
        loop.failures = 0
        assert pool.held == 0

    loop = FailingLoop()
    loop.run_until_complete(main())
    loop.close()

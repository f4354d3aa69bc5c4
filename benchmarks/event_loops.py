"""The event loops that the questions about waiting are asked on: asyncio's own, and uvloop."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

from benchmarks.contenders import has

T = TypeVar("T")


def event_loops() -> list[str]:
    """The names of those that are installed."""
    return ["asyncio", "uvloop"] if has("uvloop") else ["asyncio"]


def run_on(name: str, work: Callable[[], Coroutine[Any, Any, T]]) -> T:
    """The result of `work()`, run to its end on a new loop of that name."""
    if name == "uvloop":
        import uvloop

        loop: asyncio.AbstractEventLoop = uvloop.new_event_loop()
    else:
        loop = asyncio.new_event_loop()
    try:
        return loop.run_until_complete(work())
    finally:
        loop.close()

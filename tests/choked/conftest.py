"""What the tests of choked share: the process' own store in virtual time, a clean environment, and
turns of an event loop.

`choked` takes no store: it keeps its state where REDIS_URL says, else in the process. So that time
stands still here, the process' store is replaced by one with a virtual clock.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

import pytest

import headway.store
from headway import MemoryStore
from headway.choked import estimators

Turns = Callable[[], Awaitable[None]]


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Nothing is set, nothing has been said in the log, and no library was looked for."""
    monkeypatch.delenv("REDIS_URL", raising=False)
    monkeypatch.delenv("CHOKED_API_TOKEN", raising=False)
    monkeypatch.delenv("CHOKED_API_URL", raising=False)
    monkeypatch.setattr(headway.store, "_said", set())
    finders: list[Any] = [estimators._tiktoken, estimators._voyageai]
    for find in finders:
        find.cache_clear()
    yield
    for find in finders:
        find.cache_clear()


@pytest.fixture
def virtual(monkeypatch: pytest.MonkeyPatch, store: MemoryStore) -> MemoryStore:
    """The process' own store, with the clock of the fixture `clock`."""
    monkeypatch.setattr(headway.store, "from_url", lambda url: store)
    return store


@pytest.fixture
def key() -> str:
    """A key that no other test uses: state in the process outlives a test."""
    return f"key {next(_numbers)}"


_numbers = itertools.count()


@pytest.fixture
def turns() -> Turns:
    """Lets every task of the running loop go as far as it can."""

    async def turn() -> None:
        for _ in range(12):
            await asyncio.sleep(0)

    return turn

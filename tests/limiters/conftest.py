"""What the tests of limiters share: names of their own, turns of an event loop, and a block that
knows how many are in it.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Awaitable, Callable

import pytest

import headway.store

Turns = Callable[[], Awaitable[None]]


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """REDIS_URL is not set, and nothing has been said in the log."""
    monkeypatch.delenv("REDIS_URL", raising=False)
    monkeypatch.setattr(headway.store, "_said", set())


@pytest.fixture
def name() -> str:
    """A name that no other test uses: state in the process outlives a test."""
    return f"name {next(_numbers)}"


_numbers = itertools.count()


@pytest.fixture
def turns() -> Turns:
    """Lets every task of the running loop go as far as it can."""

    async def turn() -> None:
        for _ in range(12):
            await asyncio.sleep(0)

    return turn


class Room:
    """Counts who is in it, and the most there ever were. Nothing in it waits, so that the GIL or
    the event loop makes each count one step.
    """

    def __init__(self) -> None:
        self.names: list[object] = []
        self.most = 0
        self.visits: list[object] = []

    def enter(self, name: object = None) -> None:
        self.names.append(name)
        self.visits.append(name)
        self.most = max(self.most, len(self.names))

    def leave(self, name: object = None) -> None:
        self.names.remove(name)


@pytest.fixture
def room() -> Room:
    return Room()

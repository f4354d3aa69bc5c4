"""The places where state may live, and whether processes share it.

A further one is one more line of KINDS, and of `place_of`.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from headway import SharedMemoryStore

if TYPE_CHECKING:
    from servers import RedisServer

KINDS = ["memory", "redis", "sqlite", "shm"]


def _nothing() -> None:
    pass


@dataclass(frozen=True)
class Place:
    """One store, by its URL."""

    kind: str
    url: str
    remove: Callable[[], None] = _nothing

    @property
    def shared(self) -> bool:
        """Whether all processes that name the URL share one quota."""
        return self.kind != "memory"


def place_of(kind: str, folder: Path, server: RedisServer | None) -> Place:
    if kind == "redis":
        assert server is not None
        return Place(kind, server.url)
    if kind == "sqlite":
        return Place(kind, f"sqlite:///{folder}/limits.db")
    if kind == "shm":
        name = f"test-{uuid.uuid4().hex}"

        def remove() -> None:
            SharedMemoryStore(name).remove()

        return Place(kind, f"shm:///{name}", remove)
    return Place(kind, "memory://")

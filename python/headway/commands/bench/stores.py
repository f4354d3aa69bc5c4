"""The stores that `headway bench` measures: those that are named, or those that are there."""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from headway.commands.output import plain, say
from headway.commands.parser import Refused
from headway.commands.targets import SERVICES, close, store_of
from headway.exceptions import SetUpError

if TYPE_CHECKING:
    from headway.types import AnyStore

__all__ = ["stores_of"]

_SHARED_SIZE = "1M"


def stores_of(urls: Sequence[str] | None) -> Iterator[tuple[str, AnyStore]]:
    """Names and stores, each closed when the next is asked for. Raises Refused before the first."""
    if not urls:
        yield from _usual()
        return
    stores = [(name, _named(url)) for name, url in zip(_shown(urls), urls, strict=True)]
    for name, store in stores:
        try:
            yield name, store
        finally:
            close(store)


def _named(url: str) -> AnyStore:
    from headway import MemoryStore

    if url == "memory://":
        return MemoryStore()
    if url.partition("://")[0] in SERVICES:
        raise Refused(
            f"argument --store: {url!r} is a service, which a load generator such as wrk measures "
            "better; must be memory://, redis://…, sqlite:///… or shm:///…"
        )
    return store_of(url)


def _shown(urls: Sequence[str]) -> list[str]:
    from headway._redis_url import masked

    return [masked(url) for url in urls]


def _usual() -> Iterator[tuple[str, AnyStore]]:
    from headway import MemoryStore, SQLiteStore, store

    yield "memory", MemoryStore()
    shared = getattr(store, "SharedMemoryStore", None)
    if shared is not None:
        yield from _shared_memory(shared)
    with tempfile.TemporaryDirectory() as folder:
        file = SQLiteStore(Path(folder, "limits.db"))
        try:
            yield "SQLite", file
        finally:
            close(file)
    url = os.environ.get("REDIS_URL")
    if url and url != "memory://":
        named = store_of(url, "REDIS_URL")
        try:
            yield _shown([url])[0], named
        finally:
            close(named)


def _shared_memory(shared: Any) -> Iterator[tuple[str, AnyStore]]:
    try:
        made = shared(f"headway-bench-{os.getpid()}", size=_SHARED_SIZE)
    except SetUpError as error:  # no /dev/shm, or a full one: the others can be measured
        say(f"headway bench: {plain(str(error))}", sys.stderr)
        return
    try:
        yield "shared memory", made
    finally:
        made.remove()

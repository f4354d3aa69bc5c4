"""SharedMemoryStore: the states of keys in memory that processes of one machine share, and its URL.

The compiled part (`headway._core.SharedStore`) decides; here are the arguments, and what is done
once for a store.
"""

import logging
import os
import re
import sys
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import parse_qsl, quote, unquote

from headway._atomic_store import AtomicStore
from headway._core import Quota, RateLimitState, SharedStore, VirtualClock
from headway._shared_values import SharedValues
from headway.exceptions import SetUpError

__all__ = ["DIRECTORY", "PREFIX", "Entry", "SharedMemoryStore", "path_of", "read_size", "read_url"]

_HAS_SHM = sys.platform == "linux" and os.access("/dev/shm", os.X_OK)
DIRECTORY = Path("/dev/shm" if _HAS_SHM else "/tmp")
"""What shared_directory() in src/core/shared_file.c says."""
PREFIX = "headway."
_LEAST, _MOST = 128 << 10, 1 << 40
_UNITS = {"": 1, "k": 1 << 10, "m": 1 << 20, "g": 1 << 30, "t": 1 << 40}
_SPECIAL = re.compile("[%?#]")
"""What a URL has another use for."""
_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*([kmgt]?)i?b?", re.IGNORECASE)


class Entry(NamedTuple):
    """What a store knows of one key under one rule of its quota."""

    key: str
    whole: bool
    """Whether `key` is the whole key; of one longer than 72 bytes the store knows the beginning."""
    using: str
    quota: Quota
    state: RateLimitState
    admitted: int
    """The cost that was admitted since the key was first seen, and how many calls were denied."""
    denied: int


class SharedMemoryStore(SharedValues):
    """Keeps states in memory that all processes of this user and machine share by a name.

        store = SharedMemoryStore("limits", size="64M")

    The memory is made when the name is first used, and stays until it is removed or the machine is
    restarted: `headway shm list`, `show` and `remove`. A process that is killed in the middle of a
    decision leaves nothing behind, one that is stopped there holds nobody up. Truncating the file
    while processes use it ends them with SIGBUS, as with any mapped file; removing it does not.

    name: 1 to 200 bytes without "/". size: bytes, or text such as "16M" (the default), from 128 KiB
    on; about 200 bytes a key and rule. What is there already keeps its size.
    on_full: what makes room when there is none for another live key. "evict": of the sixteen keys
    that could, the one that has used the smallest share of its quota; where all of them are at
    their limit, one of the prefix and quota that have the most of them. "deny" the new key; "raise"
    `StoreUnavailableError`.
    clock: a VirtualClock, for tests.
    Raises `SetUpError` for a name or size that will not do, memory of another user or version, or
    that is damaged.
    """

    TYPE = "shm"

    def __init__(
        self,
        name: str,
        size: int | str | None = None,
        *,
        on_full: str = "evict",
        clock: VirtualClock | None = None,
    ) -> None:
        if not isinstance(name, str):
            raise SetUpError(f"Invalid name: {name!r}, must be text such as 'limits'.")
        if not isinstance(on_full, str):
            raise SetUpError(f"Invalid on_full: {on_full!r}, must be 'evict', 'deny' or 'raise'.")
        wanted = 0 if size is None else read_size(size)
        if size is not None and not _LEAST <= wanted <= _MOST:
            raise SetUpError(
                f"Invalid size: {size!r}, must be between {_LEAST} bytes (128 KiB) and 1 TiB."
            )
        super().__init__(name, wanted, clock, on_full)
        self._on_full = on_full
        if wanted and abs(self.size - wanted) >= 4096:
            logging.getLogger("headway.store").warning(
                "Shared memory %r has %d bytes and keeps them; size=%r was asked for. To change "
                "it, remove it first.",
                name,
                self.size,
                size,
            )

    def __reduce__(self) -> tuple[Any, ...]:
        """A worker that is given the store opens the same memory."""
        return _reopened, (self.name, self._on_full)

    @property
    def server(self) -> str:
        """The URL that names the store."""
        return "shm:///" + _SPECIAL.sub(lambda found: quote(found[0]), self.name)

    def entries(self) -> list[Entry]:
        """What it knows of each live key and rule; nobody is held up for it."""
        return [Entry(*entry) for entry in self._entries()]

    def remove(self) -> None:
        """Take the name away.

        Who has the store goes on with it; who opens the name makes another.
        """
        if self._is_current():
            path_of(self.name).unlink(missing_ok=True)


AtomicStore.register(SharedStore)


def _reopened(name: str, on_full: str) -> SharedMemoryStore:
    return SharedMemoryStore(name, on_full=on_full)


def path_of(name: str) -> Path:
    """Return the file that has the memory of that name."""
    return DIRECTORY / f"{PREFIX}{name}"


def read_size(size: object) -> int:
    """Return the bytes that `size` says: an integer, or text such as "16M" or "1.5 GiB"."""
    if isinstance(size, int) and not isinstance(size, bool):
        return size
    elif isinstance(size, str):
        match = _SIZE.fullmatch(size.strip())
        if match is not None and len(match[1]) < 20:
            return int(float(match[1]) * _UNITS[match[2].lower()])
    raise SetUpError(
        f"Invalid size: {size!r}, must be a number of bytes, or text such as '16M' or '1G'."
    )


def read_url(url: str) -> tuple[str, dict[str, str]]:
    """Return the name and the options of `shm:///name?size=16M&on_full=deny`.

    Raises `SetUpError` for anything else.
    """
    place, _, query = url.removeprefix("shm://").partition("?")
    wanted = "must be 'shm:///name', or 'shm:///name?size=16M'"
    if not place.startswith("/") or "#" in url:
        raise SetUpError(f"Invalid store: {url!r}, {wanted}.")
    try:
        pairs = parse_qsl(query, keep_blank_values=True, strict_parsing=bool(query))
    except ValueError:
        raise SetUpError(f"Invalid store: {url!r}, {wanted}.") from None
    for name, _ in pairs:
        if name not in ("size", "on_full"):
            raise SetUpError(
                f"Invalid store: {url!r}, unknown option {name!r}, known are 'size' and 'on_full'."
            )
    return unquote(place[1:]), dict(pairs)

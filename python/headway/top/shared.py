"""Shared memory: what every process of the machine did, from the table that they share.

Nobody publishes and nobody is held up: each cell of the table has its counters. What was admitted
is counted by cost there, each rule of a quota by itself, and who waits is not known. Keys that
expire leave the table, so the totals are those since somebody looked first.
"""

from __future__ import annotations

import time
from importlib import import_module
from typing import Any

from headway._snapshot import KeyActivity, Snapshot
from headway.commands.parser import Refused
from headway.exceptions import SetUpError

__all__ = ["SharedMemorySource"]


class SharedMemorySource:
    """The table that `shm:///name` names, which must be there. Raises Refused."""

    note = ""

    def __init__(self, url: str, called: str) -> None:
        try:
            shared = import_module("headway._shm_store")
        except ImportError:
            raise Refused(
                f"{called}: {url!r}, this release of headway has no shared memory"
            ) from None
        from headway.store import from_url

        try:
            name, _ = shared.read_url(url)
            if not shared.path_of(name).exists():
                raise Refused(f"{called}: {url!r} names no table; must be one that is in use")
            self._store: Any = from_url(url)
        except (SetUpError, ValueError) as error:
            raise Refused(f"{called}: {error}") from None
        self.name = url
        self._counts: dict[tuple[str, str, str], tuple[int, int]] = {}
        self._totals = (0, 0)

    def snapshot(self, search: str = "", sort: str = "denied", limit: int = 100) -> Snapshot:
        """What the table says."""
        now = time.time()
        keys = []
        for entry in self._store.entries():
            state = entry.state
            keys.append(
                KeyActivity(
                    key=entry.key if entry.whole else f"{entry.key}…",
                    algorithm=entry.using,
                    quota=str(entry.quota),
                    limit=state.limit,
                    remaining=state.remaining,
                    admitted=entry.admitted,
                    denied=entry.denied,
                    waiting=0,
                    reset_after=float(state.reset_after),
                    last_seen=0.0,
                )
            )
        return Snapshot.of(now, *self._grown(keys), keys, search, sort, limit)

    def _grown(self, keys: list[KeyActivity]) -> tuple[int, int]:
        """The totals, which go on growing when keys expire and take their counts along."""
        before, self._counts = self._counts, {}
        admitted, denied = self._totals
        for key in keys:
            who = (key.key, key.algorithm, key.quota)
            now = self._counts[who] = (key.admitted or 0, key.denied or 0)
            old = before.get(who, (0, 0))
            anew = now[0] < old[0] or now[1] < old[1]
            admitted += now[0] - (0 if anew else old[0])
            denied += now[1] - (0 if anew else old[1])
        self._totals = (admitted, denied)
        return self._totals

"""A Redis server to which nobody publishes: which keys there are, and until when they are in use.

The server holds the state of a limit and not its quota, so what remains, and who was denied, cannot
be told. Keys are found by SCAN, a few rounds in each snapshot, so that a server with many other
keys is not kept busy: a large one is known after some snapshots. What is found is read with MGET.
"""

from __future__ import annotations

import re
import time
from typing import TYPE_CHECKING, Any

from headway._snapshot import KeyActivity, Snapshot, text_of

if TYPE_CHECKING:
    from headway.store import RedisStore

__all__ = ["ScannedSource"]

ROUNDS = 20
"""SCANs in one snapshot, of about 1000 keys of the server each."""
KEYS_MOST = 10_000
_ALGORITHMS = rb"gcra|token_bucket|leaking_bucket|fixed_window|sliding_window"
_NAME = re.compile(rb".+?:v1:(" + _ALGORITHMS + rb"):\{\\?(.+)\}(?::(\d+)us#\d+)?", re.DOTALL)
_STATE = re.compile(rb"(\d{1,16}):\d+(?::\d+)?")


class ScannedSource:
    """The keys of limits on a server."""

    def __init__(self, store: RedisStore) -> None:
        self._store = store
        self._cluster = store._place is not None and store._place.cluster
        shown = "nothing to show of a cluster" if self._cluster else "keys only, without counts"
        self.note = f"nobody publishes there: {shown} (see Activity(publish=…))"
        self._cursor = b"0"
        self._names: dict[bytes, tuple[bytes, bytes, bytes]] = {}

    def snapshot(self, search: str = "", sort: str = "denied", limit: int = 100) -> Snapshot:
        """The keys that are in use. Raises StoreUnavailableError."""
        if self._cluster:  # each node would have to be asked by itself
            return Snapshot.of(time.time(), 0, 0, (), search, sort, limit)
        self._scan()
        seconds, micros = (int(word) for word in self._ask(b"TIME"))
        now_us = seconds * 10**6 + micros
        keys = []
        names = list(self._names)
        for first in range(0, len(names), 500):
            chosen = names[first : first + 500]
            for name, state in zip(chosen, self._ask(b"MGET", *chosen), strict=True):
                found = _STATE.fullmatch(state) if isinstance(state, bytes) else None
                ends_us = int(found[1]) if found is not None else 0
                if ends_us <= now_us:
                    del self._names[name]
                    continue
                keys.append(_key_activity(*self._names[name], (ends_us - now_us) / 1e6, now_us))
        return Snapshot.of(now_us / 1e6, 0, 0, keys, search, sort, limit)

    def _scan(self) -> None:
        for _ in range(ROUNDS):
            reply = self._ask(b"SCAN", self._cursor, b"MATCH", b"*:v1:*", b"COUNT", b"1000")
            self._cursor = bytes(reply[0])
            for name in reply[1]:
                found = _NAME.fullmatch(name)
                if found is not None and len(self._names) < KEYS_MOST:
                    self._names[name] = (found[1], found[2], found[3] or b"")
            if self._cursor == b"0":
                return

    def _ask(self, *words: bytes) -> Any:
        return self._store._run(None, (b"headway",), words)


def _key_activity(
    algorithm: bytes, key: bytes, period_us: bytes, reset_after: float, now_us: int
) -> KeyActivity:
    return KeyActivity(
        key=text_of(key),
        algorithm=algorithm.decode(),
        quota=f"rule of {int(period_us) / 1e6:g} s" if period_us else "",
        limit=None,
        remaining=None,
        admitted=None,
        denied=None,
        waiting=0,
        reset_after=reset_after,
        last_seen=now_us / 1e6,
    )

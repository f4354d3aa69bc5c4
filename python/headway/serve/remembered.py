"""What was answered to a request that may be sent again.

A client that loses its connection cannot know whether its request was counted. It may send it again
with the same `Idempotency-Key`: for a minute it is answered as it was the first time, and charged
once. Only what was charged is remembered; whoever was denied is decided anew.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Coroutine
from dataclasses import dataclass
from typing import Any

from headway.serve.answers import Answer, failure

__all__ = ["Remembered"]

_LONGEST_KEY = 128


@dataclass
class _Entry:
    request: object
    answer: asyncio.Future[Answer]
    asking: int = 0
    until: float = float("inf")


class Remembered:
    """The latest requests of one tenant, `most` of them, each for `seconds`."""

    def __init__(self, seconds: float = 60.0, most: int = 16_384) -> None:
        self._seconds, self._most = seconds, most
        self._entries: dict[bytes, _Entry] = {}

    async def once(self, key: bytes, request: object, work: Coroutine[Any, Any, Answer]) -> Answer:
        """Return the answer of `work`, or what it was when `key` was last seen.

        `request` is what the key was sent with: another one under the same key is an error.
        Whoever comes while the first is still waiting shares its answer. Where all of them leave,
        the decision is cancelled.
        """
        if not 1 <= len(key) <= _LONGEST_KEY:
            work.close()
            return failure(400, f"Invalid Idempotency-Key: must be 1 to {_LONGEST_KEY} bytes.")
        entry = self._entries.get(key)
        if entry is not None and (entry.until < time.monotonic() or entry.answer.cancelled()):
            del self._entries[key]
            entry = None
        if entry is None:
            self._make_room()
            entry = _Entry(request, asyncio.ensure_future(work))
            self._entries[key] = entry
        else:
            work.close()
            if entry.request != request:
                return failure(422, "Invalid Idempotency-Key: it was used for another request.")
        entry.asking += 1
        try:
            return await asyncio.shield(entry.answer)
        finally:
            entry.asking -= 1
            if not entry.asking:
                self._settle(key, entry)

    def _settle(self, key: bytes, entry: _Entry) -> None:
        """Keep what was charged, also for who left in that moment; cancel what nobody waits for."""
        answer = entry.answer
        if answer.done() and not answer.cancelled() and answer.exception() is None:
            if answer.result().charged:
                if entry.until == float("inf"):
                    entry.until = time.monotonic() + self._seconds
                    # A task would keep all that it was made of.
                    entry.answer = asyncio.get_running_loop().create_future()
                    entry.answer.set_result(answer.result())
                return
        else:
            answer.cancel()
        self._forget(key, entry)

    def _forget(self, key: bytes, entry: _Entry) -> None:
        if self._entries.get(key) is entry:
            del self._entries[key]

    def _make_room(self) -> None:
        """Let go what is over, which stands first, and the eldest where there are too many."""
        now = time.monotonic()
        for key in list(self._first(16)):
            if self._entries[key].until < now or len(self._entries) >= self._most:
                del self._entries[key]

    def _first(self, count: int) -> list[bytes]:
        keys = []
        for key in self._entries:
            keys.append(key)
            if len(keys) == count:
                break
        return keys

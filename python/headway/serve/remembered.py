"""What was answered to a request that may be sent again.

A client that loses its connection cannot know whether its request was counted. It may send it again
with the same `Idempotency-Key`: for a minute it is answered as it was the first time, and charged
once. Only what was charged is remembered; a denied request is decided anew.

Of a request a digest is kept, and of the answers `most_bytes` at most, so a tenant takes memory for
the number of its requests and not for their size. A request that still waits is never forgotten:
sent again it would be charged twice. Where there are too many of those, another one is refused.
"""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict
from collections.abc import Coroutine
from dataclasses import dataclass
from hashlib import blake2b
from typing import Any

from headway.serve.answers import Answer, failure

__all__ = ["Remembered"]

_LONGEST_KEY = 128
_OF_AN_ENTRY = 1024
"""Bytes that an entry takes beside its answer, about."""
_TOO_MANY = failure(
    503, "Too many requests with an Idempotency-Key are under way.", (b"retry-after", b"1")
)


@dataclass
class _Entry:
    request: bytes
    """The digest of what was asked."""
    answer: asyncio.Future[Answer]
    asking: int = 0
    until: float = float("inf")
    size: int = 0


class Remembered:
    """The latest requests of one tenant, `most` of them, each for `seconds`.

    `most` bounds those that are under way too, `most_bytes` the memory of the answers that are
    kept: where they are larger, the eldest are forgotten before their time.
    """

    def __init__(
        self, seconds: float = 60.0, most: int = 16_384, most_bytes: int = 32 * 1024 * 1024
    ) -> None:
        self._seconds, self._most, self._most_bytes = seconds, most, most_bytes
        self._asking: dict[bytes, _Entry] = {}
        self._answered: OrderedDict[bytes, _Entry] = OrderedDict()
        """In the order of their ends."""
        self._bytes = 0

    async def once(self, key: bytes, request: bytes, work: Coroutine[Any, Any, Answer]) -> Answer:
        """Return the answer of `work`, or what it was when `key` was last seen.

        `request` is what the key was sent with: another one under the same key is an error.
        Callers that come while the first is still waiting share its answer. Where all of them
        leave, the decision is cancelled.
        """
        if not 1 <= len(key) <= _LONGEST_KEY:
            work.close()
            return failure(400, f"Invalid Idempotency-Key: must be 1 to {_LONGEST_KEY} bytes.")
        self.forget_old()
        digest = blake2b(request, digest_size=16).digest()
        entry = self._asking.get(key) or self._answered.get(key)
        if entry is not None and entry.answer.cancelled():
            self._asking.pop(key, None)
            entry = None
        if entry is None:
            if len(self._asking) >= self._most:
                work.close()
                return _TOO_MANY
            entry = _Entry(digest, asyncio.ensure_future(work))
            self._asking[key] = entry
        else:
            work.close()
            if entry.request != digest:
                return failure(422, "Invalid Idempotency-Key: it was used for another request.")
        entry.asking += 1
        try:
            return await asyncio.shield(entry.answer)
        finally:
            entry.asking -= 1
            if not entry.asking:
                self._settle(key, entry)

    def forget_old(self) -> None:
        """Forget the requests whose time is over."""
        now = time.monotonic()
        while self._answered and next(iter(self._answered.values())).until < now:
            self._forget_first()

    def _settle(self, key: bytes, entry: _Entry) -> None:
        """Keep what was charged, if its caller has left too; cancel what nobody waits for."""
        answer = entry.answer
        if self._asking.get(key) is not entry:
            return
        del self._asking[key]
        if not answer.done() or answer.cancelled():
            answer.cancel()
            return
        if answer.exception() is not None or not answer.result().charged:
            return
        entry.until = time.monotonic() + self._seconds
        # A task would keep all that it was made of.
        entry.answer = asyncio.get_running_loop().create_future()
        entry.answer.set_result(answer.result())
        entry.size = len(answer.result().body) + _OF_AN_ENTRY
        self._answered[key] = entry
        self._bytes += entry.size
        while len(self._answered) > self._most or self._bytes > self._most_bytes:
            self._forget_first()

    def _forget_first(self) -> None:
        _, entry = self._answered.popitem(last=False)
        self._bytes -= entry.size

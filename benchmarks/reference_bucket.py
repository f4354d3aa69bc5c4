"""A token bucket in plain Python, as token-bucket.md describes it: one lock, one float, one clock
reading a call.

The contender that a reader of that document would write; `token_bucket.py` measures it.
"""

from __future__ import annotations

import threading
import time


class LockedBucket:
    """`allow` takes tokens if there are enough, under a lock."""

    __slots__ = ("_capacity", "_filled_at", "_lock", "_rate", "_tokens")

    def __init__(self, capacity: float, tokens_per_second: float) -> None:
        self._capacity = capacity
        self._rate = tokens_per_second
        self._tokens = capacity
        self._filled_at = time.monotonic()
        self._lock = threading.Lock()

    def allow(self, tokens: float = 1) -> bool:
        """True, and the tokens are gone, when that many were there."""
        if tokens <= 0:
            raise ValueError(f"tokens: {tokens}, must be positive")
        with self._lock:
            now = time.monotonic()
            grown = self._tokens + (now - self._filled_at) * self._rate
            self._tokens = grown if grown < self._capacity else self._capacity
            self._filled_at = now
            if tokens <= self._tokens:
                self._tokens -= tokens
                return True
            return False

"""A tenant's limiters, made when first asked for and kept while they are asked for.

A limiter holds no state of a key, so one that makes room for others costs nothing but being made
again.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import Generic, TypeVar

from headway._core import AsyncThrottled, Quota, RateLimitResult
from headway.activity import Activity
from headway.types import AnyStore

__all__ = ["Kept", "Limited", "Limiters"]

_V = TypeVar("_V")


@dataclass(slots=True)
class Limited:
    """A limiter, and how those who watch are told of it."""

    limiter: AsyncThrottled
    algorithm: str
    quota: str
    store: str

    async def limit(
        self, activity: Activity, key: str, cost: int, timeout: float | None = None
    ) -> RateLimitResult:
        """Decide, waiting for up to `timeout` seconds, and record it."""
        if timeout is None:
            result = await self.limiter.limit(key, cost)
            activity.record(key, self.algorithm, self.quota, result, cost, 0.0, self.store)
            return result
        who = (key, self.algorithm, self.quota, self.store)
        started = time.monotonic()
        activity.begin_wait(*who)
        try:
            result = await self.limiter.limit(key, cost, timeout)
        finally:
            activity.end_wait(*who)
        waited = time.monotonic() - started
        activity.record(*who[:3], result, cost, waited, self.store)
        return result


class Kept(Generic[_V]):
    """What was made of the requests of late, by what they said: the same is asked over and over."""

    def __init__(self, most: int = 4096) -> None:
        self._most = most
        self._values: OrderedDict[Hashable, _V] = OrderedDict()

    def get(self, ident: Hashable) -> _V | None:
        """Return what is kept, which stays the longer for it."""
        value = self._values.get(ident)
        if value is not None:
            self._values.move_to_end(ident)
        return value

    def put(self, ident: Hashable, value: _V) -> None:
        """Keep a value, in the place of the one that was not asked for the longest."""
        self._values[ident] = value
        if len(self._values) > self._most:
            self._values.popitem(last=False)

    def forget(self) -> None:
        """Forget all."""
        self._values.clear()


class Limiters:
    """The limiters of one prefix, those that were asked for last."""

    def __init__(self, store: AnyStore, prefix: str) -> None:
        self._store, self._prefix = store, prefix
        self._known: Kept[Limited] = Kept()

    def get(self, ident: Hashable, make: Callable[[], tuple[str, tuple[Quota, ...]]]) -> Limited:
        """Return what `ident` stands for; `make` tells its algorithm and rules when it is new.

        Raises what `make` does, and DataError or SetUpError where the store cannot do it.
        """
        known = self._known.get(ident)
        if known is not None:
            return known
        using, rules = make()
        limiter = AsyncThrottled(
            using=using, quota=list(rules), store=self._store, key_prefix=self._prefix
        )
        text = "; ".join(map(str, rules))
        known = Limited(limiter, limiter.using, text, self._store.TYPE)
        self._known.put(ident, known)
        return known

"""Aliases for annotations in user code.

A key names who is limited. A quota is written as a `Quota`, as text in the quota language
(`"10/s burst 20; 1000/h"`), or as a list of either: all rules must admit.
"""

from collections.abc import Sequence
from typing import ParamSpec, TypeAlias, TypeVar

from headway._atomic_store import AtomicStore
from headway._core import MemoryStore, Quota, RedisStore, SharedStore

__all__ = [
    "AnyStore",
    "Key",
    "KeyT",
    "P",
    "QuotaLike",
    "R",
    "RateLimiterTypeT",
    "StoreValueT",
    "TimeLikeValueT",
]

P = ParamSpec("P")
R = TypeVar("R")

AnyStore: TypeAlias = MemoryStore | RedisStore | SharedStore | AtomicStore
Key: TypeAlias = str | bytes
KeyT: TypeAlias = Key
QuotaLike: TypeAlias = Quota | str | Sequence[Quota | str]
RateLimiterTypeT: TypeAlias = str
StoreValueT: TypeAlias = int | float
TimeLikeValueT: TypeAlias = int | float

"""Limiters by the name of their algorithm, awaited: as `headway.rate_limiter`.

`RateLimiterRegistry.get("gcra")(quota, store)` has `await limit(key)` and `await peek(key)`.
"""

from abc import ABCMeta
from typing import TYPE_CHECKING, Any, ClassVar, cast

from headway._core import AsyncThrottled, MemoryStore
from headway.constants import RateLimiterType
from headway.rate_limiter import (
    Quota,
    Rate,
    RateLimitResult,
    RateLimitState,
    parse_quota,
    per_day,
    per_duration,
    per_hour,
    per_min,
    per_sec,
    per_week,
)
from headway.rate_limiter.registry import RateLimiterRegistry as _Sync
from headway.rate_limiter.registry import known_class

if TYPE_CHECKING:
    from headway.types import Key, QuotaLike

__all__ = [
    "BaseRateLimiter",
    "Quota",
    "Rate",
    "RateLimitResult",
    "RateLimitState",
    "RateLimiterMeta",
    "RateLimiterRegistry",
    "parse_quota",
    "per_day",
    "per_duration",
    "per_hour",
    "per_min",
    "per_sec",
    "per_week",
]


class RateLimiterRegistry:
    """The awaited limiter classes by algorithm."""

    _classes: ClassVar[dict[str, "type[BaseRateLimiter]"]] = {}

    @classmethod
    def get(cls, name: str | RateLimiterType) -> "type[BaseRateLimiter]":
        """Return the class for an algorithm; an unknown one raises SetUpError."""
        return known_class(cls._classes, name)

    @classmethod
    def register(cls, limiter: "type[BaseRateLimiter]") -> None:
        """Add a class under its `Meta.type`, in place of one that had that name."""
        cls._classes[limiter.Meta.type] = limiter


class RateLimiterMeta(ABCMeta):
    """Registers every awaited limiter class that names its algorithm."""

    def __init__(
        cls, name: str, bases: tuple[type, ...], namespace: dict[str, Any], **kwargs: Any
    ) -> None:
        super().__init__(name, bases, namespace, **kwargs)
        if "Meta" in namespace and cls.Meta.type:  # type: ignore[attr-defined]
            RateLimiterRegistry.register(cls)  # type: ignore[arg-type]


class BaseRateLimiter(metaclass=RateLimiterMeta):
    """One quota over one store, asked by key and awaited; see `headway.rate_limiter`."""

    class Meta:
        """`type` is the name of the algorithm."""

        type: str = ""

    def __init__(
        self, quota: "QuotaLike", store: MemoryStore | str, key_prefix: str | None = None
    ) -> None:
        self._throttled = AsyncThrottled(
            using=self.Meta.type, quota=quota, store=store, key_prefix=key_prefix
        )

    @property
    def quota(self) -> "Quota | tuple[Quota, ...]":
        """The quota, or the rules if there are several."""
        return self._throttled.quota  # type: ignore[return-value]  # never a callable here

    async def limit(self, key: "Key", cost: int = 1) -> RateLimitResult:
        """Take `cost` of the quota of `key`, or be denied and take nothing; never waits."""
        return await self._throttled.limit(key, cost)

    async def peek(self, key: "Key") -> RateLimitState:
        """Return the state of `key` and change nothing."""
        return await self._throttled.peek(key)


def _define(algorithm: RateLimiterType) -> type[BaseRateLimiter]:
    """Make the class of an algorithm, which registers itself; its sync twin says what it does."""
    name = _Sync.get(algorithm).__name__
    meta = type("Meta", (BaseRateLimiter.Meta,), {"type": algorithm.value})
    made = RateLimiterMeta(name, (BaseRateLimiter,), {"Meta": meta, "__module__": __name__})
    return cast("type[BaseRateLimiter]", made)


FixedWindowRateLimiter = _define(RateLimiterType.FIXED_WINDOW)
SlidingWindowRateLimiter = _define(RateLimiterType.SLIDING_WINDOW)
TokenBucketRateLimiter = _define(RateLimiterType.TOKEN_BUCKET)
LeakingBucketRateLimiter = _define(RateLimiterType.LEAKING_BUCKET)
GCRARateLimiter = _define(RateLimiterType.GCRA)

"""Names that are values: the algorithms and the kinds of store (throttled.md)."""

from enum import Enum

__all__ = ["RateLimiterType", "StoreType"]


class RateLimiterType(Enum):
    """The algorithms. `using=` takes a member or its value."""

    FIXED_WINDOW = "fixed_window"
    SLIDING_WINDOW = "sliding_window"
    LEAKING_BUCKET = "leaking_bucket"
    TOKEN_BUCKET = "token_bucket"
    GCRA = "gcra"

    @classmethod
    def choice(cls) -> list[str]:
        """Every value that `using=` accepts."""
        return [member.value for member in cls]


class StoreType(Enum):
    """The kinds of store, as `HookContext.store_type` reports them.

    A store of your own reports its `TYPE`, which may be anything.
    """

    REDIS = "redis"
    MEMORY = "memory"
    SQLITE = "sqlite"
    SHM = "shm"

    @classmethod
    def choice(cls) -> list[str]:
        """Every kind of store."""
        return [member.value for member in cls]

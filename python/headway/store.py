"""Where the states of keys live (throttled.md, "Storage Backends").

`MemoryStore` keeps them in the process, bounded by `options={"MAX_SIZE": 65536}` keys. The other
stores arrive with later releases; asking for `RedisStore` says so instead of failing obscurely.
"""

from abc import ABC
from typing import Any, NoReturn

from headway._core import MemoryStore
from headway.exceptions import SetUpError

__all__ = ["BaseStore", "MemoryStore", "RedisStore"]


class BaseStore(ABC):
    """What every store is an instance of: `isinstance(store, BaseStore)`.

    It is a name to check against and not one to build on: the stores are compiled.
    """

    TYPE: str


BaseStore.register(MemoryStore)


class RedisStore:
    """Not in this release: making one raises `SetUpError`, which names what there is."""

    TYPE = "redis"

    def __new__(cls, server: str | None = None, options: dict[str, Any] | None = None) -> NoReturn:
        """Raise `SetUpError`."""
        raise SetUpError(
            "RedisStore is not in this release of headway: use MemoryStore(), "
            "which keeps the limits of one process."
        )

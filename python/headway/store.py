"""Where the states of keys live (throttled.md, "Storage Backends").

`MemoryStore` keeps them in the process, bounded by `options={"MAX_SIZE": 65536}` keys. The other
stores arrive with later releases; asking for `RedisStore` says so instead of failing obscurely.
"""

from abc import ABC
from typing import Any, NoReturn

from headway._core import MemoryStore
from headway.exceptions import SetUpError

__all__ = ["BaseStore", "MemoryStore", "RedisStore", "from_env", "from_url", "shared_store"]


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


_LATER = ("redis", "rediss", "unix", "redis+sentinel", "redis+cluster", "shm", "sqlite")


def _masked(url: str) -> str:
    """The URL as it may be shown: without its password."""
    scheme, colon, rest = url.partition("://")
    if not colon:
        return url
    login, at, place = rest.rpartition("@")
    user, has_password, _ = login.partition(":")
    return f"{scheme}://{user}:***@{place}" if at and has_password else url


def from_url(url: str) -> MemoryStore:
    """The store that a URL names: ``memory://`` is the one that the whole process shares.

    Raises `SetUpError`, with the password masked, for any other URL.
    """
    if url == "memory://":
        from headway._core import Throttled

        return Throttled().store
    scheme = url.partition("://")[0]
    if "://" in url and scheme in _LATER:
        raise SetUpError(
            f"Invalid store: {_masked(url)!r}, {scheme}:// is not in this release of headway: "
            "use 'memory://' or MemoryStore(), which keep the limits of one process."
        )
    raise SetUpError(
        f"Invalid store: {_masked(url)!r}, must be a MemoryStore or the URL 'memory://'."
    )


_said: set[str] = set()


def shared_store(family: str, connection: object = None) -> MemoryStore:
    """The store of a family that shares by itself: `connection`, else REDIS_URL, else the process.

    `connection` is a MemoryStore or a URL. That limits are kept in the process is said once for
    each family, at log level INFO. Raises `SetUpError` for anything else.
    """
    if isinstance(connection, MemoryStore):
        return connection
    if isinstance(connection, str):
        return from_url(connection)
    if connection is not None:
        raise SetUpError(
            f"Invalid connection: {connection!r}, must be a MemoryStore or a URL: clients of Redis "
            "are not in this release of headway."
        )
    import os

    url = os.environ.get("REDIS_URL")
    if url:
        try:
            return from_url(url)
        except SetUpError as error:
            raise SetUpError(f"REDIS_URL is set: {error}") from None
    if family not in _said:
        import logging

        _said.add(family)
        logging.getLogger(f"headway.{family}").info(
            "REDIS_URL is not set: the limits of %s are kept in this process.", family
        )
    return from_url("memory://")


def from_env(name: str = "REDIS_URL") -> MemoryStore:
    """The store that the environment variable `name` names; the process' own where it is not set.

    Raises `SetUpError` as `from_url` does.
    """
    import os

    return from_url(os.environ.get(name) or "memory://")

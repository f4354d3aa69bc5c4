"""Where the states of keys live (throttled.md, "Storage Backends").

`MemoryStore` keeps them in the process, bounded by `options={"MAX_SIZE": 65536}` keys;
`SharedMemoryStore` in memory that processes of one machine share; `RedisStore` on a server, for
processes and machines; `SQLiteStore` in a file, for processes of one machine, and over restarts. A
store of your own is made on `AtomicStore`.
"""

import atexit
import logging
import threading
from abc import ABC
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any
from weakref import WeakSet, WeakValueDictionary

from headway import _core
from headway._atomic_store import AtomicStore
from headway._core import MemoryStore
from headway._forks import open_after_fork
from headway._redis_classes import CLASS_OPTIONS, client_of
from headway._redis_client import Client, is_client
from headway._redis_lease import Lease
from headway._redis_topology import Cluster, Sentinels
from headway._redis_url import SCHEMES, Place, lease_from, parse, replicas, tls_context
from headway._redis_url import masked as _masked
from headway.exceptions import SetUpError
from headway.types import AnyStore

if TYPE_CHECKING:
    from headway._shm_store import SharedMemoryStore
    from headway._sqlite_store import SQLiteStore

__all__ = [
    "AtomicStore",
    "BaseStore",
    "MemoryStore",
    "RedisStore",
    "SQLiteStore",
    "SharedMemoryStore",
    "from_any",
    "from_env",
    "from_url",
    "shared_store",
]


class BaseStore(ABC):
    """What every store is an instance of: `isinstance(store, BaseStore)`.

    It is a name to check against. A store of your own is built on `AtomicStore`.
    """

    TYPE: str


BaseStore.register(MemoryStore)
BaseStore.register(_core.RedisStore)
BaseStore.register(_core.SharedStore)
BaseStore.register(AtomicStore)  # type: ignore[type-abstract]

_MODULES = {"SQLiteStore": "headway._sqlite_store", "SharedMemoryStore": "headway._shm_store"}


def __getattr__(name: str) -> object:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module  # sqlite3 takes a while to import

    value: object = getattr(import_module(_MODULES[name]), name)
    globals()[name] = value
    return value


_leasing: "WeakSet[RedisStore]" = WeakSet()


@atexit.register
def _give_back_at_exit() -> None:
    for store in list(_leasing):
        store._give_back()


class RedisStore(_core.RedisStore):
    """Keeps the states of keys on a Redis server, so that processes and machines share limits.

        store = RedisStore("redis://:password@localhost:6379/0")

    Each decision is one round trip, by the server's clock. Threads share one connection and its
    writes, tasks of asyncio one for each event loop. Nothing is connected before the first
    decision; a server that cannot answer raises `StoreUnavailableError`, or follows `on_error`.

    server: `redis://`, `rediss://` (TLS), `unix://`, `redis+sentinel://host:port,host:port/service`
    or `redis+cluster://host:port,host:port`, with user, password and database, and options in the
    query: timeout and connect_timeout (seconds, 5 by default), client_name, on_error; for TLS
    ssl_ca_certs, ssl_certfile, ssl_keyfile, ssl_cert_reqs, ssl_check_hostname. options: those of
    throttled.md: PASSWORD, SOCKET_TIMEOUT, SOCKET_CONNECT_TIMEOUT, CONNECTION_POOL_KWARGS (the
    names of the query, and ssl_context), SENTINELS, SENTINEL_KWARGS, CLUSTER_NODES. Those that
    name classes (REDIS_CLIENT_CLASS, CONNECTION_POOL_CLASS, ...) select redis-py instead.
    Instead of a URL, server may be a client of redis-py (sync, asyncio, cluster) or of fakeredis:
    then decisions go through it, and it stays the caller's to close.
    on_error: what a decision is when the server cannot answer: "raise", "allow", "deny", or what a
    MemoryStore says, which then keeps the same quota in the process. It is logged once each way.
    wait_replicas: a decision holds once so many replicas have it, so that a failover does not lose
    it; where they do not say so in half of the timeout, that is a failure like any other.
    lease: "50ms" or {"tokens": 100}: tokens are taken in blocks, of what a quota yields in that
    time or so many, and most decisions are made without asking the server. Together all processes
    never exceed the quota. What is not spent goes back with `close`.
    Raises `SetUpError` naming what is wrong with the URL, its password masked, or an option.
    """

    TYPE = "redis"
    _LEASED_KEYS = 65_536
    """Of each quota, at most; the key with the least left makes room, and gives it back."""

    def __init__(
        self,
        server: Any = None,
        options: dict[str, Any] | None = None,
        *,
        on_error: str | MemoryStore | None = None,
        wait_replicas: int | None = None,
        lease: str | Mapping[str, int] | None = None,
    ) -> None:
        leased = None if lease is None else lease_from(lease)
        if is_client(server):
            if wait_replicas:
                raise SetUpError(
                    "Invalid wait_replicas: a client of your own may ask another connection; "
                    "give a URL."
                )
            self._init_client(server, options, on_error, leased)
            return
        if server is not None and not isinstance(server, str):
            raise SetUpError(
                f"Invalid server: {server!r}, must be a URL such as 'redis://localhost:6379/0', "
                "or a client of redis-py."
            )
        server = server or "redis://localhost:6379/0"
        if isinstance(options, dict) and any(name in options for name in CLASS_OPTIONS):
            client = client_of(server, options)
            if client is not None:
                if leased is None and options.get("LEASE") is not None:
                    leased = lease_from(options["LEASE"], "Invalid options: LEASE is")
                self._init_client(client, None, on_error or options.get("ON_ERROR"), leased)
                return
            options = {name: options[name] for name in options if name not in CLASS_OPTIONS}
        place = parse(server, options)
        if wait_replicas is not None:
            place.wait_replicas = replicas(wait_replicas, place)
        place.lease = leased or place.lease
        self._init_place(place, on_error or place.on_error)

    def _init_place(self, place: Place, on_error: str | MemoryStore) -> None:
        self._place: Place | None = place
        self._tls = tls_context(place)
        topology: Cluster | Sentinels | None = None
        first = (place.host, place.port)
        if place.cluster:
            first = place.nodes[0]
            topology = Cluster(place.nodes)
        elif place.service is not None:
            first = ("127.0.0.1", 0)  # nobody: the sentinels are asked first
            topology = Sentinels(place.service, place.nodes, self._sentinel_link)
        try:
            self._init_core(
                self._link_to(*first),
                place.url,
                on_error,
                topology,
                place.lease,
                place.wait_replicas,
            )
        except SetUpError as error:
            raise SetUpError(f"Invalid store: {place.url!r}: {error}") from None

    def _init_client(
        self,
        client: Any,
        options: dict[str, Any] | None,
        on_error: str | MemoryStore | None,
        lease: Lease | None,
    ) -> None:
        if options:
            raise SetUpError(
                f"Invalid options: {', '.join(options)}, a client of your own has its options."
            )
        self._place, self._tls = None, None
        own = Client(client)
        self._init_core(own, own.name, on_error or "raise", None, lease)

    def _init_core(
        self,
        link: object,
        name: str,
        on_error: str | MemoryStore,
        topology: Cluster | Sentinels | None,
        lease: Lease | None,
        wait_replicas: int = 0,
    ) -> None:
        lease = lease or Lease()
        leased = (lease.ns, lease.tokens, self._LEASED_KEYS)
        super().__init__(link, name, on_error, topology, wait_replicas, *leased)
        if lease != Lease():
            _leasing.add(self)

    def _for_blocking(self, seconds: float) -> "RedisStore":
        """A store of the same server with connections of its own, on which a command may block.

        A client of the user's own takes a connection of its pool for each command anyway.
        """
        if self._place is None:
            return RedisStore(self._client.client)
        other = RedisStore.__new__(RedisStore)
        patient = replace(self._place, timeout=self._place.timeout + seconds, lease=None)
        other._init_place(patient, "raise")
        return other

    def _link_to(self, host: str, port: int) -> _core.Link:
        place = self._known_place
        return self._link_within(host, port, place.connect_timeout, place.timeout)

    @property
    def _known_place(self) -> Place:
        assert self._place is not None, "a client of the user's own knows its place"
        return self._place

    def _brief_link(self, host: str, port: int, share: int) -> _core.Link:
        """For a question to one of so many nodes, which together have the time of one."""
        place = self._known_place
        limits = (place.connect_timeout / share, place.timeout / share)
        return self._link_within(host, port, *(min(1.0, limit) for limit in limits))

    def _link_within(
        self, host: str, port: int, connect_timeout: float, timeout: float
    ) -> _core.Link:
        place = self._known_place
        return _core.Link(
            host,
            port,
            place.unix_path,
            place.user,
            place.password,
            place.database,
            place.client_name,
            connect_timeout,
            timeout,
            self._tls,
        )

    def _sentinel_link(self, host: str, port: int) -> _core.Link:
        place = self._known_place
        return _core.Link(
            host,
            port,
            None,
            place.sentinel_user,
            place.sentinel_password,
            0,
            place.client_name,
            min(place.connect_timeout, 1.0),
            min(place.timeout, 1.0),
            self._tls,
        )

    def close(self) -> None:
        """Give back what is leased, and hang up.

        The next decision connects again; an event loop hangs up in its next turn.
        """
        self._give_back()
        for link in self._links():
            link.close()

    def __del__(self) -> None:
        self._give_back()

    def __repr__(self) -> str:
        return f"RedisStore({self.server!r})"


_by_url: "WeakValueDictionary[str, RedisStore]" = WeakValueDictionary()
_by_url_lock = open_after_fork(threading.Lock())


def _shared_redis(url: str) -> RedisStore:
    """Return the one store of a URL, so that all who name the URL share its connections."""
    with _by_url_lock:
        store = _by_url.get(url)
        if store is None:
            store = _by_url[url] = RedisStore(url)
        return store


_by_file: "WeakValueDictionary[str, SQLiteStore]" = WeakValueDictionary()


def _shared_sqlite(url: str) -> "SQLiteStore":
    """Return the one store of a file, so that all who name it share its connection."""
    from headway._sqlite_store import SQLiteStore, path_of

    name = path_of(url)
    # All who name ":memory:" by a URL mean the same one.
    path = name if name == ":memory:" else str(Path(name).absolute())
    with _by_url_lock:
        store = _by_file.get(path)
        if store is None:
            store = _by_file[path] = SQLiteStore(path)
        return store


_by_name: "WeakValueDictionary[tuple[str, str], SharedMemoryStore]" = WeakValueDictionary()


def _shared_memory(url: str) -> "SharedMemoryStore":
    """Return the one store of a name and of what is done when it is full."""
    from headway._shm_store import SharedMemoryStore, read_url

    name, options = read_url(url)
    on_full = options.get("on_full", "evict")
    with _by_url_lock:
        store = _by_name.get((name, on_full))
        if store is None or not store._is_current():  # it was removed: the name makes another
            store = SharedMemoryStore(name, options.get("size"), on_full=on_full)
            _by_name[name, on_full] = store
        return store


_by_client: "WeakValueDictionary[int, RedisStore]" = WeakValueDictionary()


def from_any(store: object) -> AnyStore:
    """The store that `store` stands for: itself, a URL, or a client of redis-py or fakeredis.

    All who give the same client share one store. Raises `SetUpError` for anything else.
    """
    if isinstance(store, (MemoryStore, RedisStore, _core.SharedStore, AtomicStore)):
        return store
    if isinstance(store, str):
        return from_url(store)
    if not is_client(store):
        raise SetUpError(
            f"Invalid store: {store!r}, must be a MemoryStore, a SharedMemoryStore, a RedisStore, "
            "a SQLiteStore, a URL such as 'redis://localhost:6379/0', or a client of redis-py."
        )
    with _by_url_lock:
        made = _by_client.get(id(store))  # the store keeps the client, so its id is nobody else's
        if made is None:
            made = _by_client[id(store)] = RedisStore(store)
        return made


def from_url(url: str) -> AnyStore:
    """The store that a URL names: ``memory://`` is the one that the whole process shares.

    Raises `SetUpError`, with the password masked, for any other URL.
    """
    if url == "memory://":
        from headway._core import Throttled

        return Throttled().store
    scheme = url.partition("://")[0]
    if scheme in SCHEMES and "://" in url:
        return _shared_redis(url)
    if scheme == "sqlite" and "://" in url:
        return _shared_sqlite(url)
    if scheme == "shm" and "://" in url:
        return _shared_memory(url)
    raise SetUpError(
        f"Invalid store: {_masked(url)!r}, must be a store, or a URL such as 'memory://' or 'redis://localhost:6379/0'."
    )


_said: set[str] = set()


def shared_store(family: str, connection: object = None) -> AnyStore:
    """The store of a family that shares by itself: `connection`, else REDIS_URL, else the process.

    `connection` is a store, a URL, or a client of redis-py. That limits are kept in the process is
    said once for each family, at log level INFO. Raises `SetUpError` for anything else.
    """
    if connection is not None:
        try:
            return from_any(connection)
        except SetUpError as error:
            raise SetUpError(str(error).replace("Invalid store", "Invalid connection", 1)) from None
    import os

    url = os.environ.get("REDIS_URL")
    if url:
        try:
            return from_url(url)
        except SetUpError as error:
            raise SetUpError(f"REDIS_URL is set: {error}") from None
    if family not in _said:
        _said.add(family)
        logging.getLogger(f"headway.{family}").info(
            "REDIS_URL is not set: the limits of %s are kept in this process.", family
        )
    return from_url("memory://")


def from_env(name: str = "REDIS_URL") -> AnyStore:
    """The store that the environment variable `name` names; the process' own where it is not set.

    Raises `SetUpError` as `from_url` does.
    """
    import os

    return from_url(os.environ.get(name) or "memory://")

"""The options of RedisStore that name classes of redis-py (throttled.md, "RedisStore Options").

Naming a class selects redis-py: the client is made of these classes, and decisions go through it.
throttled-py's own three connection factories only say which kind of place is meant (one server,
sentinels, a cluster), and headway's client knows these itself.
"""

from collections.abc import Mapping
from importlib import import_module
from typing import Any

from headway.exceptions import SetUpError

__all__ = ["CLASS_OPTIONS", "client_of"]

CLASS_OPTIONS = (
    "CONNECTION_FACTORY_CLASS",
    "CONNECTION_POOL_CLASS",
    "REDIS_CLIENT_CLASS",
    "REDIS_CLIENT_KWARGS",
    "PARSER_CLASS",
    "SENTINEL_CLASS",
    "REDIS_CLUSTER_NODE_CLASS",
    "REUSE_CONNECTION",
)
# The name of throttled-py's factory, and the option that it cannot do without.
_FACTORIES = {
    "ConnectionFactory": None,
    "SentinelConnectionFactory": "SENTINELS",
    "ClusterConnectionFactory": "CLUSTER_NODES",
}
_FACTORY_HOMES = ("throttled.store", "throttled.store.redis_pool", "headway.throttled.store")


def client_of(server: str, options: Mapping[str, Any]) -> Any:
    """Return the client that the options ask for; None where headway's own will do.

    Raises SetUpError naming the option that is wrong, or what has to be installed.
    """
    factory = options.get("CONNECTION_FACTORY_CLASS")
    if factory is not None:
        home, _, name = _path("CONNECTION_FACTORY_CLASS", factory).rpartition(".")
        if home not in _FACTORY_HOMES or name not in _FACTORIES:
            return _imported("CONNECTION_FACTORY_CLASS", factory)(dict(options)).connect(server)
        needed = _FACTORIES[name]
        if needed and not options.get(needed):
            raise SetUpError(f"Invalid options: {name} needs {needed}, a list of (host, port).")
    named = [
        name
        for name in CLASS_OPTIONS
        if options.get(name) and name not in ("CONNECTION_FACTORY_CLASS", "REUSE_CONNECTION")
    ]
    if not named:
        return None
    if options.get("CLUSTER_NODES"):
        return _cluster(options)
    if options.get("SENTINELS"):
        return _primary(server, options)
    pool = _pool_class(options).from_url(server, **_connection(options))
    return _client_class(options)(connection_pool=pool, **_dict(options, "REDIS_CLIENT_KWARGS"))


def _cluster(options: Mapping[str, Any]) -> Any:
    asked = options.get("REDIS_CLIENT_CLASS", "redis.cluster.RedisCluster")
    client = _imported("REDIS_CLIENT_CLASS", asked)
    home = "redis.asyncio.cluster" if ".asyncio" in client.__module__ else "redis.cluster"
    asked = options.get("REDIS_CLUSTER_NODE_CLASS", f"{home}.ClusterNode")
    node = _imported("REDIS_CLUSTER_NODE_CLASS", asked)
    nodes = [node(*address) for address in options["CLUSTER_NODES"]]
    kwargs = {**_connection(options), **_dict(options, "REDIS_CLIENT_KWARGS")}
    kwargs.pop("parser_class", None)
    return client(startup_nodes=nodes, **kwargs)


def _primary(server: str, options: Mapping[str, Any]) -> Any:
    client = _client_class(options)
    home = "redis.asyncio" if ".asyncio" in client.__module__ else "redis"
    sentinel = _imported("SENTINEL_CLASS", options.get("SENTINEL_CLASS", f"{home}.Sentinel"))
    connection = _connection(options)
    manager = sentinel(
        options["SENTINELS"], sentinel_kwargs=options.get("SENTINEL_KWARGS"), **connection
    )
    service = server.partition("://")[2].rpartition("@")[2].partition("/")[0].partition(":")[0]
    return manager.master_for(
        service, redis_class=client, **_dict(options, "REDIS_CLIENT_KWARGS"), **connection
    )


def _client_class(options: Mapping[str, Any]) -> Any:
    pool = str(options.get("CONNECTION_POOL_CLASS") or "")
    usual = "redis.asyncio.Redis" if ".asyncio" in pool else "redis.Redis"
    return _imported("REDIS_CLIENT_CLASS", options.get("REDIS_CLIENT_CLASS") or usual)


def _pool_class(options: Mapping[str, Any]) -> Any:
    home = "redis.asyncio" if ".asyncio" in _client_class(options).__module__ else "redis"
    asked = options.get("CONNECTION_POOL_CLASS") or f"{home}.ConnectionPool"
    return _imported("CONNECTION_POOL_CLASS", asked)


def _connection(options: Mapping[str, Any]) -> dict[str, Any]:
    """What each connection is made with."""
    made: dict[str, Any] = {}
    if options.get("PARSER_CLASS"):
        made["parser_class"] = _imported("PARSER_CLASS", options["PARSER_CLASS"])
    for option in ("PASSWORD", "SOCKET_TIMEOUT", "SOCKET_CONNECT_TIMEOUT"):
        if options.get(option):
            made[option.lower()] = options[option]
    return {**made, **_dict(options, "CONNECTION_POOL_KWARGS")}


def _dict(options: Mapping[str, Any], option: str) -> Mapping[str, Any]:
    value = options.get(option)
    if value is not None and not isinstance(value, Mapping):
        raise SetUpError(f"Invalid options: {option} is {value!r}, must be a dict.")
    return value or {}


def _path(option: str, path: object) -> str:
    if not isinstance(path, str) or "." not in path:
        raise SetUpError(
            f"Invalid options: {option} is {path!r}, must be the path of a class, "
            "such as 'redis.client.Redis'."
        )
    return path


def _imported(option: str, path: object) -> Any:
    module, _, name = _path(option, path).rpartition(".")
    try:
        return getattr(import_module(module), name)
    except (ImportError, AttributeError) as error:
        missing = isinstance(error, ImportError) and module.startswith("redis")
        hint = " Is it installed? pip install 'headway[redis]'." if missing else ""
        raise SetUpError(
            f"Invalid options: {option} is {path!r}, which cannot be imported: {error}.{hint}"
        ) from error

"""Where a Redis server is and how to talk to it: URLs, and throttled.md's options, into one record.

Scheme and host say where, the query says how: `redis://user:password@host:6379/0?timeout=0.5`.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qsl, unquote, urlsplit

from headway._redis_lease import Lease, lease_of
from headway.exceptions import SetUpError

if TYPE_CHECKING:
    import ssl

__all__ = ["Place", "lease_from", "masked", "parse", "replicas", "tls_context"]

SCHEMES = ("redis", "rediss", "unix", "redis+sentinel", "redis+cluster")
DEFAULT_TIMEOUT = 5.0
SSL_OPTIONS = (
    "ssl_ca_certs",
    "ssl_ca_path",
    "ssl_certfile",
    "ssl_cert_reqs",
    "ssl_check_hostname",
    "ssl_context",
    "ssl_keyfile",
    "ssl_password",
)


@dataclass
class Place:
    """A server, and what a connection to it needs. Times are seconds."""

    url: str
    """As it may be shown: the password masked."""
    host: str = "localhost"
    port: int = 6379
    unix_path: str | None = None
    user: str | None = None
    password: str | None = field(default=None, repr=False)
    database: int = 0
    client_name: str | None = None
    connect_timeout: float = DEFAULT_TIMEOUT
    timeout: float = DEFAULT_TIMEOUT
    on_error: str = "raise"
    wait_replicas: int = 0
    lease: Lease | None = None
    """What is leased at a time; None: every decision asks the server."""
    service: str | None = None
    """With sentinels: the name that they know the primary by."""
    nodes: list[tuple[str, int]] = field(default_factory=list)
    """The sentinels, or nodes of a cluster."""
    cluster: bool = False
    sentinel_user: str | None = None
    sentinel_password: str | None = field(default=None, repr=False)
    tls: bool = False
    ssl_options: dict[str, Any] = field(default_factory=dict, repr=False)


_OPTION = re.compile(r"([?&])([^=&#]*)=([^&#]*)")
_SHOWN = {
    *("db", "timeout", "socket_timeout", "connect_timeout", "socket_connect_timeout", "on_error"),
    *("wait_replicas", "lease", "client_name", "tls", "size", "on_full", "busy_timeout"),
    *(name for name in SSL_OPTIONS if name != "ssl_password"),
}
"""Options whose values hold no secret. Of all others, mistyped ones too, the value is masked."""


def masked(url: str) -> str:
    """Return the URL as it may be shown: without its secrets, even where it is mistyped.

    A user without a password is masked too, since it is a password as a rule that lacks its colon.
    """
    login, at, place = url.rpartition("@")
    if at:
        scheme, slashes, name = login.partition("://")
        if not slashes:
            login = "***"
        else:
            user, colon, _ = name.partition(":")
            login = f"{scheme}://{user}:***" if colon else f"{scheme}://***"
    place, sign, _ = place.partition("#")
    return _OPTION.sub(_shown, f"{login}{at}{place}") + ("#***" if sign else "")


def _shown(option: "re.Match[str]") -> str:
    sign, name, _ = option.groups()
    return option.group() if name in _SHOWN else f"{sign}{name}=***"


def parse(url: str, options: Mapping[str, Any] | None = None) -> Place:
    """Return what a URL and options say; raise SetUpError naming what is wrong with them."""
    place = Place(url=masked(url))
    scheme, slashes, rest = url.partition("://")
    if scheme not in SCHEMES or not slashes:
        raise _bad(place, f"the scheme must be one of {', '.join(f'{s}://' for s in SCHEMES)}")
    # Several hosts are more than urlsplit knows: they are taken out first.
    place_text = rest.partition("?")[0].partition("/")[0]
    login, at, hosts = place_text.rpartition("@")
    if "@" in rest.partition("?")[0][len(place_text) :] or "#" in rest:
        raise _bad(
            place, "'/', '?', '#' and '@' in a user or password are written %2F, %3F, %23, %40"
        )
    several = scheme in ("redis+sentinel", "redis+cluster")
    if several:
        port = 26379 if scheme == "redis+sentinel" else 6379
        place.nodes = [_node(place, text, port) for text in hosts.split(",")]
        rest = rest.replace(place_text, f"{login}{at}{place.nodes[0][0]}", 1)
    try:
        parts = urlsplit(f"{scheme}://{rest}")
        port = 6379 if parts.port is None else parts.port
    except ValueError:
        parts, port = urlsplit(f"{scheme}://localhost"), -1
    if "[" in hosts and "]" not in hosts:
        raise _bad(place, "an IPv6 address must be in brackets, as [::1]:6379")
    if not 0 < port < 65536:
        raise _bad(place, "the port must be a number from 1 to 65535")
    place.tls = scheme == "rediss" or dict(parse_qsl(parts.query)).get("tls") in ("true", "1")
    place.cluster = scheme == "redis+cluster"
    if parts.username:
        place.user = unquote(parts.username)
    if parts.password is not None:
        place.password = unquote(parts.password)
    path = unquote(parts.path).strip("/")
    if scheme == "unix":
        place.unix_path = unquote(parts.path)
        if not place.unix_path:
            raise _bad(
                place, "a unix:// URL needs the path of the socket, as unix:///run/redis.sock"
            )
    elif scheme == "redis+sentinel":
        place.service, _, path = path.partition("/")
        if not place.service:
            raise _bad(
                place, "the name of the service is missing, as redis+sentinel://host/mymaster/0"
            )
    else:
        place.host, place.port = parts.hostname or "localhost", port
    if path and scheme != "unix":
        place.database = _database(place, path)
    for name, value in parse_qsl(parts.query, keep_blank_values=True):
        if name == "tls":
            continue
        _set(place, name, value, f"option {name!r} in the URL")
    if options is not None and not isinstance(options, Mapping):
        raise SetUpError(f"Invalid options: {options!r}, must be a dict such as {{'PASSWORD': …}}.")
    for name, value in (options or {}).items():
        _option(place, name, value)
    if place.cluster and place.database:
        raise _bad(place, "a cluster has only database 0")
    for text in (place.user, place.password, place.client_name):
        if text is not None and "\0" in text:
            raise _bad(place, "a user, password or client_name cannot hold a NUL")
    return place


def tls_context(place: Place) -> "ssl.SSLContext | None":
    """Return what the connection is to be wrapped with; None for a plain one."""
    if not place.tls:
        return None
    import ssl

    options = place.ssl_options
    ready = options.get("ssl_context")
    if ready is not None:
        if not isinstance(ready, ssl.SSLContext):
            raise _bad(place, f"ssl_context is {ready!r}, must be an ssl.SSLContext")
        return ready
    try:
        context = ssl.create_default_context(
            cafile=options.get("ssl_ca_certs"), capath=options.get("ssl_ca_path")
        )
        if options.get("ssl_certfile"):
            context.load_cert_chain(
                options["ssl_certfile"], options.get("ssl_keyfile"), options.get("ssl_password")
            )
    except (OSError, ssl.SSLError) as error:
        raise _bad(place, f"the certificates cannot be loaded: {error}") from None
    asked = options.get("ssl_cert_reqs", "required")
    wanted = asked.name.removeprefix("CERT_") if isinstance(asked, ssl.VerifyMode) else str(asked)
    modes = {
        "NONE": ssl.CERT_NONE,
        "OPTIONAL": ssl.CERT_OPTIONAL,
        "REQUIRED": ssl.CERT_REQUIRED,
    }
    if wanted.upper() not in modes:
        raise _bad(place, f"ssl_cert_reqs is {asked!r}, must be none, optional or required")
    mode = modes[wanted.upper()]
    check = str(options.get("ssl_check_hostname", mode != ssl.CERT_NONE)).lower()
    context.check_hostname = check in ("true", "1", "yes") and mode != ssl.CERT_NONE
    context.verify_mode = mode
    return context


_OTHERS = ("CONNECTION_POOL_KWARGS", "SENTINELS", "SENTINEL_KWARGS", "CLUSTER_NODES")


def _node(place: Place, text: str, default_port: int) -> tuple[str, int]:
    host, colon, port = text.rpartition(":")
    if text.startswith("[") and text.endswith("]"):  # an IPv6 address without a port
        host, colon, port = text, "", ""
    elif not colon:
        host, port = text, ""
    if not host or (port and not (port.isdigit() and 0 < int(port) < 65536)):
        shown = "what stands before '@'" if "@" in place.url else repr(text)  # it may be a password
        raise _bad(place, f"{shown} must be a host and a port, as host:6379")
    return host.strip("[]"), int(port) if port else default_port


def _address(place: Place, option: str, item: Any) -> tuple[str, int]:
    if isinstance(item, str):
        return _node(place, item, 6379 if option == "CLUSTER_NODES" else 26379)
    try:
        host, port = item
        if not 0 < int(port) < 65536:
            raise ValueError
        return str(host), int(port)
    except (TypeError, ValueError):
        raise _bad(place, f"{option} holds {item!r}, must be (host, port)") from None


def _dict(place: Place, option: str, value: Any) -> Mapping[str, Any]:
    if value is not None and not isinstance(value, Mapping):
        raise _bad(place, f"option {option} is {value!r}, must be a dict")
    return value or {}


def _option(place: Place, name: str, value: Any) -> None:
    known = {
        "PASSWORD": "password",
        "SOCKET_TIMEOUT": "timeout",
        "SOCKET_CONNECT_TIMEOUT": "connect_timeout",
        "ON_ERROR": "on_error",
        "LEASE": "lease",
    }
    if name in ("SENTINELS", "CLUSTER_NODES"):
        if not isinstance(value, (list, tuple)):
            raise _bad(place, f"option {name} is {value!r}, must be a list of (host, port)")
        place.nodes = [_address(place, name, item) for item in value]
        if place.nodes and name == "CLUSTER_NODES":
            place.cluster = True
        elif place.nodes:
            place.service = place.service or place.host
    elif name == "SENTINEL_KWARGS":
        for key, item in _dict(place, name, value).items():
            if key not in ("username", "password"):
                raise _bad(
                    place, f"SENTINEL_KWARGS[{key!r}] is unknown, known are username, password"
                )
            setattr(place, "sentinel_user" if key == "username" else "sentinel_password", item)
    elif name == "CONNECTION_POOL_KWARGS":
        for key, item in _dict(place, name, value).items():
            _set(place, key, item, f"CONNECTION_POOL_KWARGS[{key!r}]")
    elif name in known:
        if value is not None and value != "":
            _set(place, known[name], value, f"option {name}")
    else:
        raise SetUpError(
            f"Unknown option {name!r} for RedisStore, known are "
            f"{', '.join(map(repr, [*known, *_OTHERS]))}."
        )


_NAMES = {
    "db": "database",
    "username": "user",
    "password": "password",
    "client_name": "client_name",
    "timeout": "timeout",
    "socket_timeout": "timeout",
    "connect_timeout": "connect_timeout",
    "socket_connect_timeout": "connect_timeout",
    "on_error": "on_error",
    "wait_replicas": "wait_replicas",
    "lease": "lease",
    "sentinel_user": "sentinel_user",
    "sentinel_password": "sentinel_password",
}


def _set(place: Place, name: str, value: Any, what: str) -> None:
    if name in SSL_OPTIONS and place.tls:
        place.ssl_options[name] = value
        return
    target = _NAMES.get(name)
    if target is None:
        known = [*_NAMES, *(SSL_OPTIONS if place.tls else ())]
        raise _bad(place, f"{what} is unknown, known are {', '.join(known)}")
    if value is None:
        return
    if target == "database":
        place.database = _database(place, str(value))
    elif target in ("timeout", "connect_timeout"):
        try:
            seconds = float(value)
        except (TypeError, ValueError):
            seconds = -1.0
        if not 0 < seconds <= 86400:
            raise _bad(place, f"{what} is {value!r}, must be a number of seconds above 0")
        setattr(place, target, seconds)
    elif target == "wait_replicas":
        place.wait_replicas = replicas(value, place)
    elif target == "lease":
        place.lease = lease_from(value, f"{what} is", f"Invalid store: {place.url!r}: ")
    else:
        setattr(place, target, str(value))


def replicas(value: Any, place: Place) -> int:
    """Return how many replicas a decision waits for. Raises SetUpError."""
    text = str(value)
    if isinstance(value, bool) or not text.isdigit() or int(text) > 100:
        raise _bad(place, f"wait_replicas is {value!r}, must be a number of replicas such as 1")
    return int(text)


def lease_from(value: object, what: str = "Invalid lease:", before: str = "") -> Lease:
    """Return what is leased at a time; raise SetUpError naming the value."""
    lease = lease_of(value)
    if lease is None:
        raise SetUpError(
            f"{before}{what} {value!r}, must be a time from '1us' to '10s' such as '50ms', "
            "or {'tokens': 100}, a whole number of them above 0."
        )
    return lease


def _database(place: Place, text: str) -> int:
    if not text.isdigit() or int(text) > 2**31 - 1:
        raise _bad(place, f"the database is {text!r}, must be a number such as 0")
    return int(text)


def _bad(place: Place, what: str) -> SetUpError:
    return SetUpError(f"Invalid store: {place.url!r}: {what}.")

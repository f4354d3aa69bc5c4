"""Where a Redis server is and how to talk to it: URLs, and throttled.md's options, into one record.

Scheme and host say where, the query says how: `redis://user:password@host:6379/0?timeout=0.5`.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qsl, unquote, urlsplit

from headway.exceptions import SetUpError

__all__ = ["Place", "masked", "parse"]

SCHEMES = ("redis", "rediss", "unix")
DEFAULT_TIMEOUT = 5.0


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


def masked(url: str) -> str:
    """Return the URL as it may be shown: without its password."""
    scheme, colon, rest = url.partition("://")
    if not colon:
        return url
    login, at, place = rest.rpartition("@")
    user, has_password, _ = login.partition(":")
    shown = f"{scheme}://{user}:***@{place}" if at and has_password else url
    head, question, query = shown.partition("?")
    if question and "password=" in query:
        parts = ["password=***" if p.startswith("password=") else p for p in query.split("&")]
        shown = f"{head}?{'&'.join(parts)}"
    return shown


def parse(url: str, options: Mapping[str, Any] | None = None) -> Place:
    """Return what a URL and options say; raise SetUpError naming what is wrong with them."""
    place = Place(url=masked(url))
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError as error:
        raise _bad(place, str(error)) from None
    if parts.scheme not in SCHEMES:
        raise _bad(place, f"the scheme must be one of {', '.join(f'{s}://' for s in SCHEMES)}")
    if parts.scheme == "rediss":
        raise _bad(place, "TLS is not in this release of headway")
    if parts.username:
        place.user = unquote(parts.username)
    if parts.password is not None:
        place.password = unquote(parts.password)
    if parts.scheme == "unix":
        place.unix_path = unquote(parts.path)
        if not place.unix_path:
            raise _bad(place, "a unix:// URL needs the path of the socket, as unix:///run/redis.sock")
    else:
        place.host = parts.hostname or "localhost"
        place.port = 6379 if port is None else port
        path = parts.path.strip("/")
        if path:
            place.database = _database(place, path)
    for name, value in parse_qsl(parts.query, keep_blank_values=True):
        _set(place, name, value, f"option {name!r} in the URL")
    for name, value in (options or {}).items():
        _option(place, name, value)
    return place


def _option(place: Place, name: str, value: Any) -> None:
    known = {
        "PASSWORD": "password",
        "SOCKET_TIMEOUT": "timeout",
        "SOCKET_CONNECT_TIMEOUT": "connect_timeout",
        "ON_ERROR": "on_error",
    }
    if name == "CONNECTION_POOL_KWARGS":
        for key, item in dict(value or {}).items():
            _set(place, key, item, f"CONNECTION_POOL_KWARGS[{key!r}]")
    elif name in known:
        if value is not None and value != "":
            _set(place, known[name], value, f"option {name}")
    else:
        raise SetUpError(
            f"Unknown option {name!r} for RedisStore, known are "
            f"{', '.join(map(repr, [*known, 'CONNECTION_POOL_KWARGS']))}."
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
}


def _set(place: Place, name: str, value: Any, what: str) -> None:
    target = _NAMES.get(name)
    if target is None:
        raise _bad(place, f"{what} is unknown, known are {', '.join(_NAMES)}")
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
    else:
        setattr(place, target, str(value))


def _database(place: Place, text: str) -> int:
    if not text.isdigit() or int(text) > 2**31 - 1:
        raise _bad(place, f"the database is {text!r}, must be a number such as 0")
    return int(text)


def _bad(place: Place, what: str) -> SetUpError:
    return SetUpError(f"Invalid store: {place.url!r}: {what}.")

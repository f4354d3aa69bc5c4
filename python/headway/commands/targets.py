"""Where limits are kept, as `--store` names it: a store of headway, or a service that is asked.

Whoever only looks must leave nothing behind: a file or a table in shared memory that is not there
is said to be missing, and not made. The memory of another process cannot be reached at all.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, Protocol

from headway.commands.parser import Refused

if TYPE_CHECKING:
    from headway._core import Throttled
    from headway.store import RedisStore
    from headway.types import AnyStore, Key

__all__ = [
    "ALGORITHMS",
    "Limit",
    "Remaining",
    "Target",
    "add_limit_arguments",
    "add_store_arguments",
    "close",
    "limit_of",
    "opened",
    "store_of",
    "url_of",
]

ALGORITHMS = ("token_bucket", "leaking_bucket", "gcra", "fixed_window", "sliding_window")
SERVICES = ("http", "https")
_OTHERS = "redis://…, sqlite:///…, shm:///… or the http://… of a service"


class Limit(NamedTuple):
    """What is limited, and how: the arguments of `Throttled`."""

    key: Key
    quota: str
    using: str
    prefix: str | None
    """None: the one that is meant where nobody names one."""


class Remaining(NamedTuple):
    """What a key has left."""

    limit: int
    remaining: int
    reset_after: float


class Target(AbstractContextManager["Target"], Protocol):
    """A store or a service."""

    name: str
    """Its URL, the password masked."""

    def peek(self, limit: Limit) -> Remaining:
        """What the key has left; changes nothing."""
        ...

    def reset(self, limit: Limit) -> None:
        """Gives the key its whole limit back."""
        ...


def add_limit_arguments(parser: argparse.ArgumentParser) -> None:
    """KEY, --quota and what else says which limit is meant."""
    add = parser.add_argument
    add("key", metavar="KEY", help="the key, as the program gives it to its limiter")
    add(
        "--quota",
        required=True,
        metavar="TEXT",
        help='the quota, as the program has it: "10/s burst 20; 1000/h"',
    )
    add(
        "--using",
        default="token_bucket",
        choices=ALGORITHMS,
        metavar="ALGORITHM",
        help=f"{', '.join(ALGORITHMS)} (default: token_bucket)",
    )
    add("--prefix", metavar="TEXT", help="the limiter's key_prefix (default: headway)")


def add_store_arguments(parser: argparse.ArgumentParser, what: str) -> None:
    """--store and --token-file."""
    parser.add_argument("--store", metavar="URL", help=what)
    parser.add_argument(
        "--token-file",
        metavar="FILE",
        help="holds the token for a service (default: the environment variable HEADWAY_TOKEN)",
    )


def limit_of(args: argparse.Namespace) -> Limit:
    """The limit that the arguments name; raises Refused where there cannot be one."""
    from headway._core import parse_quota
    from headway.exceptions import DataError

    try:
        parse_quota(args.quota)
    except DataError as error:
        raise Refused(f"argument --quota: {error}") from None
    if not args.key:
        raise Refused("argument KEY: '', must be a non-empty key")
    if args.prefix is not None and (args.prefix.strip(": ") != args.prefix or not args.prefix):
        raise Refused(
            f"argument --prefix: {args.prefix!r}, must not be blank, nor begin or end with ':'"
        )
    return Limit(_key(args.key), args.quota, args.using, args.prefix)


def _key(text: str) -> Key:
    try:
        text.encode()
    except UnicodeEncodeError:  # bytes of the command line that are no UTF-8
        return os.fsencode(text)
    return text


def opened(args: argparse.Namespace) -> Target:
    """The store or service that the arguments name; to be closed by `with`."""
    url, source = url_of(args)
    if url is None:
        raise Refused(
            f"argument --store: not given, and REDIS_URL is not set; must be {_OTHERS} (the memory "
            "of another process cannot be reached)"
        )
    if url.partition("://")[0] in SERVICES:
        from headway.commands.service import Service

        return Service(url, source, args.token_file)
    return _Store(store_of(url, source), url)


def url_of(args: argparse.Namespace) -> tuple[str | None, str]:
    """The URL, and what to call it in an error."""
    if args.store is not None:
        return args.store, "argument --store"
    return os.environ.get("REDIS_URL") or None, "REDIS_URL"


def store_of(url: str, source: str = "argument --store") -> AnyStore:
    """The store at `url`, which must be there already and be more than this process' memory."""
    from headway._redis_url import SCHEMES, masked
    from headway.exceptions import SetUpError
    from headway.store import from_url

    scheme = url.partition("://")[0]
    if scheme == "memory":
        raise Refused(
            f"{source}: {url!r} is memory of one process, which no other can reach; must be "
            f"{_OTHERS}"
        )
    if scheme in _FILES and "://" in url:
        _must_exist(scheme, url, source)
    try:
        return _redis(url) if scheme in SCHEMES and "://" in url else from_url(url)
    except SetUpError as error:
        reason = str(error).removeprefix(f"Invalid store: {masked(url)!r}")
        reason = reason if reason.startswith((":", ",")) else f": {error}"
        raise Refused(f"{source}: {masked(url)!r}{reason.rstrip('.')}") from None


def _redis(url: str) -> RedisStore:
    """A store that says what the server says: without the URL's on_error, and without leases."""
    from headway._redis_url import parse
    from headway.store import RedisStore

    store = RedisStore.__new__(RedisStore)
    store._init_place(replace(parse(url), lease=None), "raise")
    return store


_FILES: Mapping[str, Callable[[str], Path | None]]


def _must_exist(scheme: str, url: str, source: str) -> None:
    from headway.exceptions import SetUpError

    try:
        path = _FILES[scheme](url)
    except SetUpError as error:
        raise Refused(f"{source}: {error}") from None
    if path is not None and not path.exists():
        what = "file" if scheme == "sqlite" else "shared memory"
        raise Refused(f"{source}: {url!r} names no {what}; must be one that a program has made")


def _database(url: str) -> Path:
    from headway._sqlite_store import path_of
    from headway.exceptions import SetUpError

    path = path_of(url)
    if path == ":memory:":
        raise SetUpError(f"{url!r} is memory of one process; must name a file")
    return Path(path)


def _shared_memory(url: str) -> Path:
    from headway._shm_store import path_of, read_url

    return path_of(read_url(url)[0])


_FILES = {"sqlite": _database, "shm": _shared_memory}


def close(store: AnyStore) -> None:
    """Hangs up, where a store has something to hang up."""
    hang_up = getattr(store, "close", None)
    if hang_up is not None:
        hang_up()


class _Store:
    """A store of headway."""

    def __init__(self, store: AnyStore, url: str) -> None:
        from headway._redis_url import masked

        self.store, self.name = store, masked(url)

    def __enter__(self) -> _Store:
        return self

    def __exit__(self, *_: object) -> None:
        close(self.store)

    def peek(self, limit: Limit) -> Remaining:
        state = self._limiter(limit).peek()
        return Remaining(state.limit, state.remaining, state.reset_after)

    def reset(self, limit: Limit) -> None:
        self._limiter(limit).reset()

    def _limiter(self, limit: Limit) -> Throttled:
        from headway._core import Throttled

        return Throttled(
            key=limit.key,
            quota=limit.quota,
            using=limit.using,
            store=self.store,
            key_prefix=limit.prefix,
        )

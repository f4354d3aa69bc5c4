"""Which limit a URL counts against: a host, or a part of it.

A scope is `https://host[:port]` or that and a path prefix, and has a ledger. The narrowest one that
is known holds: after `set_limit("api.example.com/search", ...)` whatever lies under /search has its
own. Within a scope a server may tell of resources (GitHub's core and search, Discord's buckets);
which route uses which is learned from its answers, so it is known here and not in the ledger.

Finding the scope of a URL is one look into a dict for a host that has none of this.
"""

import ipaddress
import re
import threading
from collections.abc import Callable, Iterable, Mapping
from hashlib import blake2b
from typing import Any
from urllib.parse import SplitResult, urlsplit

from headway._forks import open_after_fork
from headway.smartratelimit._arguments import invalid
from headway.smartratelimit._waiting import Line

__all__ = ["Routes", "Scope", "Scopes", "covers", "narrowed", "scope_key", "without_scheme"]

ORIGINS_MAX = 4096
ROUTES_MAX = 1024
PARTITIONS_MAX = 4096
_RESOURCES_MAX = 64
_PORTS = {"http": 80, "https": 443}
_EXPECTED = "a URL or a host, such as 'api.example.com' or 'https://api.example.com/search'"

Partition = Callable[[str, Mapping[str, str]], "str | None"]


def scope_key(endpoint: str) -> str:
    """The key of an endpoint: https where no scheme is said; no query, no slash at the end."""
    if not isinstance(endpoint, str) or not endpoint.strip():
        invalid("endpoint", endpoint, _EXPECTED)
    text = endpoint.strip()
    try:
        split = urlsplit(text if "://" in text else f"https://{text}")
        return _origin(split, endpoint) + _path(split.path)
    except ValueError as error:
        if type(error) is not ValueError and not isinstance(error, UnicodeError):
            raise
        invalid("endpoint", endpoint, _EXPECTED)


def without_scheme(key: str) -> str:
    """A key as people write it: api.example.com/search."""
    return key.partition("://")[2]


def covers(scope: str, key: str) -> bool:
    """Whether `key` is that scope or lies under it."""
    return key == scope or key.startswith(scope + "/")


def _origin(split: SplitResult, given: str) -> str:
    host = (split.hostname or "").rstrip(".")
    if not host or any(sign.isspace() for sign in host):
        invalid("endpoint", given, _EXPECTED)
    if not host.isascii():
        host = host.encode("idna").decode("ascii")
    if ":" in host:
        host = f"[{ipaddress.ip_address(host.partition('%')[0])}]"
    port = split.port
    scheme = split.scheme.lower()
    if port is None or port == _PORTS.get(scheme):
        return f"{scheme}://{host}"
    return f"{scheme}://{host}:{port}"


def _path(path: str) -> str:
    parts = [part for part in path.split("/") if part]
    return "/" + "/".join(parts) if parts else ""


class Scope:
    """What has a ledger of its own: its key, and those who wait for it."""

    __slots__ = ("endpoint", "key", "lines", "path", "prepared", "warned")

    def __init__(self, endpoint: str, path: str, key: str) -> None:
        self.endpoint = endpoint
        """The host, for people and for metrics."""
        self.path = path
        self.key = key
        self.lines: dict[str, Line] = {}
        """By resource."""
        self.prepared = False
        """Seeds and defaults have been set."""
        self.warned: set[str] = set()
        """Costs that nobody meters, and of which that has been said."""

    def line(self, resource: str) -> Line:
        """Those who wait for a resource."""
        found = self.lines.get(resource)
        return found if found is not None else self.lines.setdefault(resource, Line())

    def stir(self, always: bool = False) -> None:
        """Something was learned: the heads of all lines are to look again."""
        for line in list(self.lines.values()):
            line.stir(always)


class Routes:
    """Which resource a route uses, by what the server has answered there before.

    A route is a method and a path whose ids are left out. One that is not known uses what the
    longest known path above it uses, and else what the host uses most. Bounded; oldest go first.
    """

    _ID = re.compile(r"[0-9]+\Z|(?=[^0-9]*[0-9])[0-9A-Za-z_~.-]{8,}\Z|.{25,}\Z")

    def __init__(self) -> None:
        self._lock = open_after_fork(threading.Lock())
        self._known: dict[str, str] = {}
        self.counts: dict[str, int] = {}
        self.usual = ""
        """The resource that most requests use; "": none is known."""
        self._found: dict[tuple[str, str], str] = {}
        """Answers of `resource`, until something is learned."""

    def __len__(self) -> int:
        return len(self._known)

    def __bool__(self) -> bool:
        return bool(self.counts)

    def template(self, method: str, path: str) -> str:
        """GET /users/{}/repos"""
        parts = ["{}" if self._ID.match(part) else part for part in path.split("/") if part]
        return " /".join([method.upper(), "/".join(parts)])

    def resource(self, method: str, path: str) -> str:
        """The resource that a request will most likely use; "": none."""
        if len(self.counts) <= 1:
            usual = self.usual
            if usual:
                self.counts[usual] = self.counts.get(usual, 0) + 1
            return usual
        found = self._found.get((method, path))
        if found is None:
            if len(self._found) >= ROUTES_MAX:
                self._found.clear()
            found = self._found[method, path] = self._look_up(method, path)
        self.counts[found] = self.counts.get(found, 0) + 1
        return found

    def _look_up(self, method: str, path: str) -> str:
        route = self.template(method, path)
        while True:
            found = self._known.get(route)
            if found is not None:
                return found
            route, slash, _ = route.rpartition("/")
            if not slash:
                return self.usual

    def learn(self, method: str, path: str, resource: str, asked: int = 0) -> None:
        """The server has said which it was. asked: requests for the usual one, not counted yet."""
        with self._lock:
            self._learn(method, path, resource, asked)

    def _learn(self, method: str, path: str, resource: str, asked: int) -> None:
        if self.usual and asked:
            self.counts[self.usual] = self.counts.get(self.usual, 0) + asked
        route = self.template(method, path)
        known = self._known.pop(route, None)
        if known is None and len(self._known) >= ROUTES_MAX:
            self._known.pop(next(iter(self._known)), None)
        self._known[route] = resource
        counts = self.counts
        while resource not in counts and len(counts) >= _RESOURCES_MAX:
            # `resource` counts without the lock: a copy is what does not change meanwhile.
            least = min(counts.copy().items(), key=lambda pair: pair[1])[0]
            counts.pop(least, None)
        counted = counts[resource] = counts.get(resource, 0) + 1
        self._found.clear()
        if counted > counts.get(self.usual, 0):
            self.usual = resource


class _Host:
    __slots__ = ("asked", "base", "narrow", "parts", "plain", "routes", "scope")

    def __init__(self, base: str, scope: Scope) -> None:
        self.base = base
        self.scope = scope
        self.plain: tuple[Scope, str] | None = (scope, "")
        """The answer for every URL of the host, where it is one."""
        self.asked = 0
        """How often that was given: what `routes` has not counted yet."""
        self.narrow: list[Scope] = []
        """The longest path first."""
        self.routes = Routes()
        self.parts: dict[tuple[str, str], Scope] = {}


class Scopes:
    """The scopes that this limiter has met, by the beginning of a URL."""

    def __init__(self, partition: Partition | None, narrow: Callable[[str], Iterable[str]]) -> None:
        """narrow: the paths under a host that have limits of their own, asked when it is met."""
        self._partition = partition
        self._narrow = narrow
        self._origins: dict[str, _Host] = {}
        self._hosts: dict[str, _Host] = {}

    def find(self, method: str, url: str, headers: Any) -> tuple[Scope, str]:
        """The scope of a request, and the resource that it will most likely use there."""
        at = url.find("/", 8)
        host = self._origins.get(url if at < 0 else url[:at])
        if host is None:
            host = self._meet(url)
        plain = host.plain
        if plain is None:
            return self._look(host, method, url, headers)
        host.asked += 1
        return plain

    def has_met(self, url: str) -> bool:
        """Whether `find` and `learn` need not ask for the paths of this URL's host."""
        at = url.find("/", 8)
        if (url if at < 0 else url[:at]) in self._origins:
            return True
        try:
            return _origin(urlsplit(url), url) in self._hosts
        except ValueError:  # `find` says what is wrong
            return True

    def meet(self, url: str) -> None:
        """Ask for the paths of a URL's host, which takes a look at the storage."""
        self._meet(url)

    def learn(self, method: str, url: str, resource: str) -> None:
        """A response told the resource."""
        host = self._meet(url)
        asked, host.asked = host.asked, 0
        host.routes.learn(method, urlsplit(url).path, resource, asked)
        self._settle(host)

    def _settle(self, host: _Host) -> None:
        """See whether one answer will do for all URLs of the host."""
        is_one = self._partition is None and not host.narrow and len(host.routes.counts) <= 1
        host.plain = (host.scope, host.routes.usual) if is_one else None

    def add(self, key: str) -> None:
        """A path has got limits of its own."""
        split = urlsplit(key)
        host = self._hosts.get(_origin(split, key))
        if host is not None:
            self._narrow_to(host, split.path)

    def forget(self) -> None:
        """Meet everything anew."""
        self._origins.clear()
        self._hosts.clear()

    def known(self) -> list[Scope]:
        """All scopes."""
        found = []
        for host in list(self._hosts.values()):
            found += [host.scope, *host.narrow, *list(host.parts.values())]
        return found

    def _meet(self, url: str) -> _Host:
        at = url.find("/", 8)
        given = url if at < 0 else url[:at]
        host = self._origins.get(given)
        if host is not None:
            return host
        try:
            origin = _origin(urlsplit(url), url)
        except ValueError as error:
            if type(error) is not ValueError and not isinstance(error, UnicodeError):
                raise
            invalid("url", url, "a URL with a host, such as 'https://api.example.com/data'")
        host = self._hosts.get(origin)
        if host is None:
            if len(self._hosts) >= ORIGINS_MAX:
                self._drop()
            host = _Host(origin, Scope(without_scheme(origin), "", origin))
            for path in self._narrow(origin):
                self._narrow_to(host, path)
            self._settle(host)
            host = self._hosts.setdefault(origin, host)
        if not any(sign in given for sign in "@?#"):
            if len(self._origins) >= ORIGINS_MAX:
                self._origins.clear()
            self._origins[given] = host
        return host

    def _drop(self) -> None:
        """Forget the oldest quarter of those for which nobody waits."""
        for origin in list(self._hosts)[: ORIGINS_MAX // 4]:
            host = self._hosts.get(origin)
            if host is None:  # another thread has dropped it
                continue
            scopes = [host.scope, *host.narrow, *list(host.parts.values())]
            if not any(line.waiters for scope in scopes for line in list(scope.lines.values())):
                self._hosts.pop(origin, None)
        self._origins.clear()

    def _narrow_to(self, host: _Host, path: str) -> None:
        path = _path(path)
        if path and all(scope.path != path for scope in host.narrow):
            scope = Scope(host.scope.endpoint + path, path, host.base + path)
            host.narrow = sorted([*host.narrow, scope], key=lambda one: -len(one.path))
            host.plain = None

    def _look(self, host: _Host, method: str, url: str, headers: Any) -> tuple[Scope, str]:
        scope, path = host.scope, ""
        if host.narrow or len(host.routes.counts) > 1:
            path = _path(urlsplit(url).path)
        if host.narrow:
            scope = next((one for one in host.narrow if covers(one.path, path)), scope)
        if self._partition is not None:
            scope = self._part(host, scope, self._partition(url, headers))
        return scope, host.routes.resource(method, path) if host.routes else ""

    def _part(self, host: _Host, scope: Scope, part: str | None) -> Scope:
        if part is None:
            return scope
        if not isinstance(part, str):
            invalid("partition", part, "a function that returns a string or None")
        found = host.parts.get((scope.path, part))
        if found is None:
            if len(host.parts) >= PARTITIONS_MAX:
                host.parts.clear()
            key = narrowed(scope.key, part)
            made = Scope(scope.endpoint, scope.path, key)
            found = host.parts.setdefault((scope.path, part), made)
        return found


def narrowed(key: str, part: str) -> str:
    """The key of one partition. Partitions are secrets as a rule, so only their hash is kept."""
    return f"{key}/#{blake2b(part.encode('utf-8', 'surrogatepass'), digest_size=8).hexdigest()}"

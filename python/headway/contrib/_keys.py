"""Key functions: who is limited, told from a request.

    client_address(trusted_proxies=["10.0.0.0/8"])    one count for each client address
    api_key()                                         one for each API key
    user()                                            one for each user who is logged in
    combine(user(), route())                          one for each user on each route

A key function returns a string, or None for a request that is not limited. A function of the
user's own takes the framework's request and does the same. An empty string is an error: it would
put all whom something is missing for into one count, or none.
"""

import logging
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from hashlib import blake2b
from typing import Any

from headway.contrib._addresses import UNKNOWN, forwarded_client, key_of, networks, parse
from headway.contrib._facts import Facts
from headway.exceptions import DataError, SetUpError

__all__ = [
    "ClientAddress",
    "KeyFunction",
    "KeyLike",
    "api_key",
    "checked_key",
    "client_address",
    "combine",
    "key_function",
    "route",
    "user",
]

_KEY_MAX = 200
"""Longer keys are hashed: a client chooses their length, and pays nothing for it."""


_FACTORIES = (__name__, "headway.contrib.mcp._call")
"""Modules whose functions make key functions."""
_CREDENTIALS = ("authorization", "proxy-authorization")
"""Headers of a scheme, in whatever letters, blanks, and the secret (RFC 9110, section 11.4)."""


class KeyFunction(ABC):
    """A key function that reads `Facts`, so that it works in every framework."""

    __slots__ = ()

    @abstractmethod
    def __call__(self, facts: Facts) -> Any:
        """The key, or None for no limit; an awaitable of it where the integration awaits."""

    def functions(self) -> Iterable[Callable[[Any], Any]]:
        """Functions of the user's own that it calls."""
        return ()


KeyLike = KeyFunction | Callable[[Any], Any]


class _Own(KeyFunction):
    """A function of the user's own, which takes the framework's request."""

    __slots__ = ("function",)

    def __init__(self, function: Callable[[Any], Any]) -> None:
        self.function = function

    def __call__(self, facts: Facts) -> Any:
        return self.function(facts.request)

    def functions(self) -> Iterable[Callable[[Any], Any]]:
        return (self.function,)

    def __repr__(self) -> str:
        return repr(self.function)


def key_function(key: object) -> KeyFunction:
    """`key` as something that reads Facts. Raises SetUpError where it cannot be called."""
    if isinstance(key, KeyFunction):
        return key
    if not callable(key) or isinstance(key, type):
        raise SetUpError(
            f"Invalid key: {key!r}, must be a key function such as client_address(), or a callable "
            "that takes the request and returns a string, or None for no limit."
        )
    if getattr(key, "__module__", None) in _FACTORIES:
        name = getattr(key, "__name__", "")
        raise SetUpError(
            f"Invalid key: {name} makes a key function and must be called: key={name}()."
        )
    return _Own(key)


def checked_key(key: object, function: object) -> str:
    """The key as it goes to the store. Raises DataError for what is none."""
    if isinstance(key, bytes):
        key = key.decode("utf-8", "backslashreplace")
    if not isinstance(key, str) or not key:
        raise DataError(
            f"Invalid key: {key!r} of {function!r}, must be a non-empty string, or None for no "
            "limit."
        )
    if len(key) > _KEY_MAX:
        return "hash:" + _digest(key)
    return key


def _digest(text: str) -> str:
    return blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).hexdigest()


class ClientAddress(KeyFunction):
    """What `client_address` makes. Its key is a string always, and short."""

    __slots__ = ("any_trusted", "header", "ipv6_prefix", "said", "trusts", "unix")

    def __init__(self, trusted: "str | Iterable[str]", header: str, ipv6_prefix: int) -> None:
        if not isinstance(trusted, Iterable):
            raise SetUpError(
                f"Invalid trusted_proxies: {trusted!r}, must be addresses or networks such as "
                "'10.0.0.0/8'."
            )
        trusted = (trusted,) if isinstance(trusted, str) else tuple(trusted)
        if not isinstance(header, str) or not header.strip():
            raise SetUpError(
                f"Invalid header: {header!r}, must be the name of a header, such as "
                "'x-forwarded-for', 'forwarded' or 'x-real-ip'."
            )
        if type(ipv6_prefix) is not int or not 1 <= ipv6_prefix <= 128:
            raise SetUpError(
                f"Invalid ipv6_prefix: {ipv6_prefix!r}, must be an integer between 1 and 128: 64 "
                "for one count for each network, 128 for each address."
            )
        self.trusts, self.unix = networks(trusted)
        self.any_trusted = bool(trusted)
        self.header = header.strip().lower()
        self.ipv6_prefix = ipv6_prefix
        self.said = False

    def __call__(self, facts: Facts) -> str:
        client = facts.address()
        if self.any_trusted and (self.trusts(client) if client else self.unix):
            value = facts.header(self.header)
            if value:
                if self.header in ("x-forwarded-for", "forwarded"):
                    chain = (client or "", value, self.header == "forwarded", self.trusts)
                    client = forwarded_client(*chain)
                elif parse(value) is not None:
                    client = value
        if client:
            return key_of(client, self.ipv6_prefix)
        if not self.said:
            self.said = True
            logging.getLogger("headway.contrib").warning(
                "A request has no client address, so it is counted under %r with all others of "
                "the kind. Behind a proxy on a Unix socket, trusted_proxies=['unix'] reads %s.",
                UNKNOWN,
                self.header,
            )
        return UNKNOWN

    def __repr__(self) -> str:
        return "client_address()"


def client_address(
    trusted_proxies: "str | Iterable[str]" = (),
    header: str = "x-forwarded-for",
    ipv6_prefix: int = 64,
) -> KeyFunction:
    """The address a request comes from.

    trusted_proxies: addresses and networks of your own proxies; "unix" for one that calls on a
    Unix socket. Only when one of them is connected, `header` is read: x-forwarded-for or forwarded,
    from the right, trusted ones skipped; any other, such as x-real-ip, as one address.
    ipv6_prefix: an IPv6 client usually has a whole /64 to itself, so that is what is counted; 128
    counts each address by itself. Who has no address is counted under "unknown", all together.

    Where the server (uvicorn's --proxy-headers) puts the client's address in already, give nothing.
    Raises SetUpError.
    """
    return ClientAddress(trusted_proxies, header, ipv6_prefix)


class _ApiKey(KeyFunction):
    __slots__ = ("header", "missing", "query")

    def __init__(self, header: str | None, query: str | None, missing: KeyLike | None) -> None:
        for field, value in (("header", header), ("query", query)):
            if value is not None and (not isinstance(value, str) or not value.strip()):
                raise SetUpError(f"Invalid {field}: {value!r}, must be a name, or None.")
        if header is None and query is None:
            raise SetUpError("Invalid header: None, must be a name where there is no query.")
        self.header = header.strip().lower() if header else None
        self.query = query
        self.missing = _missing(missing)

    def __call__(self, facts: Facts) -> Any:
        secret = facts.header(self.header) if self.header else None
        if not secret and self.query:
            secret = facts.query(self.query)
        if not secret:
            return self.missing(facts)
        if self.header in _CREDENTIALS:
            scheme, *rest = secret.split(None, 1)
            secret = " ".join([scheme.lower(), *(part.strip() for part in rest)])
        return "key:" + _digest(secret)

    def functions(self) -> Iterable[Callable[[Any], Any]]:
        return self.missing.functions()

    def __repr__(self) -> str:
        return f"api_key({self.header!r})"


def api_key(
    header: str | None = "x-api-key", query: str | None = None, missing: KeyLike | None = None
) -> KeyFunction:
    """The API key of a request, hashed: a store never sees the secret.

    header: where it stands; "authorization" takes that whole header, its scheme in any letters.
    query: a parameter that may
    hold it instead. missing: who is counted where there is none, by default `client_address()`.

    Nothing here knows whether a key is valid, and who makes up a new one for each request has a new
    count for each. So check keys before this, or add a rule for the client's address.
    """
    return _ApiKey(header, query, missing)


class _User(KeyFunction):
    __slots__ = ("missing",)

    def __init__(self, missing: KeyLike | None) -> None:
        self.missing = _missing(missing)

    def __call__(self, facts: Facts) -> Any:
        name = facts.user()
        return "user:" + name if name else self.missing(facts)

    def functions(self) -> Iterable[Callable[[Any], Any]]:
        return self.missing.functions()

    def __repr__(self) -> str:
        return "user()"


def user(missing: KeyLike | None = None) -> KeyFunction:
    """Who is logged in, as the framework knows; whatever logs them in must run before the limit.

    missing: who is counted where nobody is logged in, by default `client_address()`.
    """
    return _User(missing)


def _missing(missing: KeyLike | None) -> KeyFunction:
    return client_address() if missing is None else key_function(missing)


class _Route(KeyFunction):
    __slots__ = ()

    def __call__(self, facts: Facts) -> str:
        method = facts.method
        return f"{'GET' if method == 'HEAD' else method} {facts.route()}"

    def __repr__(self) -> str:
        return "route()"


def route() -> KeyFunction:
    """The method and the route's template: all who call it share one count. HEAD counts as GET.

    In a middleware, which runs before routing, it is the path.
    """
    return _Route()


class _Combined(KeyFunction):
    __slots__ = ("parts",)

    def __init__(self, parts: tuple[KeyFunction, ...]) -> None:
        self.parts = parts

    def __call__(self, facts: Facts) -> Any:
        found: list[str] = []
        for at, part in enumerate(self.parts):
            key = part(facts)
            if key is None:
                return None
            if hasattr(key, "__await__"):
                return self._awaited(facts, found, at, key)
            found.append(_field(checked_key(key, part)))
        return "|".join(found)

    def functions(self) -> Iterable[Callable[[Any], Any]]:
        return [function for part in self.parts for function in part.functions()]

    async def _awaited(self, facts: Facts, found: list[str], at: int, key: Any) -> str | None:
        """The same from `at` on, whose key is to be awaited."""
        while True:
            if hasattr(key, "__await__"):
                key = await key
            if key is None:
                return None
            found.append(_field(checked_key(key, self.parts[at])))
            at += 1
            if at == len(self.parts):
                return "|".join(found)
            key = self.parts[at](facts)

    def __repr__(self) -> str:
        return f"combine({', '.join(map(repr, self.parts))})"


def combine(*keys: KeyLike) -> KeyFunction:
    """Several key functions as one: each pair, triple … has a count of its own.

    Where one of them says None, the request is not limited.
    """
    if not keys:
        raise SetUpError("Invalid keys: combine() takes at least one key function.")
    return _Combined(tuple(key_function(key) for key in keys))


def _field(text: str) -> str:
    """Escaped, so that ("a|b", "c") and ("a", "b|c") are two keys."""
    if "|" in text or "%" in text:
        return text.replace("%", "%25").replace("|", "%7C")
    return text

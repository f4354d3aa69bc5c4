"""Who a request comes from: the peer of the connection, or whom trusted proxies name.

A proxy appends the address it was called from on the right of X-Forwarded-For or Forwarded. So only
what trusted proxies have appended is worth anything: read from the right, skip those who are
trusted, and the first who is not is the client. What stands further left anybody can write.

Parsing an address takes microseconds, so results are kept; what a client can send is bounded.
"""

import re
from collections.abc import Callable, Iterable
from functools import lru_cache
from ipaddress import (
    IPv4Address,
    IPv4Network,
    IPv6Address,
    IPv6Network,
    ip_address,
    ip_network,
)

from headway.exceptions import SetUpError

__all__ = ["UNKNOWN", "forwarded_client", "key_of", "networks", "parse"]

UNKNOWN = "unknown"
"""The key that all share whose address is not known."""

UNIX = "unix"
"""Stands among trusted proxies for a peer without an address: who calls on a Unix socket."""

_PAIR = re.compile(r"""\s*(?:([^\s=;"]+)=("(?:[^"\\]|\\.)*"|[^\s;"]*)\s*)?(?:;|$)""")
"""A parameter of Forwarded, or none, as between two semicolons."""

_TEXT_MAX = 64
_CUT = "?"
_CHAIN_MAX = 4096
"""Characters of a chain of addresses that are read, from the right. What a client wrote itself is
on the left, and of any length.
"""
_KEPT = 4096

Address = IPv4Address | IPv6Address
Trusts = Callable[[str], bool]


@lru_cache(_KEPT)
def _parse(text: str) -> Address | None:
    text = text.strip().strip('"')
    if text.startswith("["):
        text = text[1:].partition("]")[0]
    elif text.count(":") == 1:
        text = text.partition(":")[0]
    try:
        address = ip_address(text.partition("%")[0])
    except ValueError:
        return None
    if isinstance(address, IPv6Address) and address.ipv4_mapped is not None:
        return address.ipv4_mapped
    return address


def parse(text: str) -> Address | None:
    """An address, with a port, brackets, quotes or a zone or without; None where it is none."""
    return _parse(text) if len(text) <= _TEXT_MAX else None


@lru_cache(_KEPT)
def _key_of(text: str, ipv6_prefix: int) -> str:
    address = _parse(text)
    if address is None:
        return text
    if isinstance(address, IPv4Address) or ipv6_prefix == 128:
        return str(address)
    return str(IPv6Network((address, ipv6_prefix), strict=False))


def key_of(text: str, ipv6_prefix: int) -> str:
    """The key of an address: itself, or its network for IPv6, where one client has many.

    What is no address, such as a test client's name, is its own key.
    """
    return _key_of(text, ipv6_prefix) if len(text) <= _TEXT_MAX else text[:_TEXT_MAX]


def networks(trusted: "str | Iterable[str]") -> tuple[Trusts, bool]:
    """Whether an address is trusted, and whether a peer on a Unix socket is.

    Raises SetUpError naming what is no address and no network.
    """
    names = [trusted] if isinstance(trusted, str) else list(trusted)
    unix = UNIX in names
    known = []
    for name in names:
        if name == UNIX:
            continue
        try:
            known.append(_unmapped(ip_network(name)))
        except (ValueError, TypeError) as error:
            raise SetUpError(
                f"Invalid trusted_proxies: {name!r}, must be addresses or networks such as "
                f"'10.0.0.0/8', or 'unix' for a proxy on a Unix socket: {error}."
            ) from None

    @lru_cache(_KEPT)
    def trusts(text: str) -> bool:
        address = _parse(text)
        return address is not None and any(address in network for network in known)

    return (lambda text: len(text) <= _TEXT_MAX and trusts(text)), unix


def _unmapped(network: IPv4Network | IPv6Network) -> IPv4Network | IPv6Network:
    """The IPv4 network that one of IPv6 stands for, as `parse` does it with addresses."""
    if isinstance(network, IPv6Network) and network.prefixlen >= 96:
        mapped = network.network_address.ipv4_mapped
        if mapped is not None:
            return IPv4Network((mapped, network.prefixlen - 96))
    return network


def _hops(value: str, forwarded: bool) -> Iterable[str]:
    """The addresses that are named, from the right; for an element without one, no address."""
    parts = _elements if forwarded else _fields
    if len(value) <= _CHAIN_MAX:
        elements = parts(value)
    else:
        elements = [*parts(value[-_CHAIN_MAX:])]
        elements[-1] = _CUT
    stated = (element.strip() for element in elements)
    named = (element for element in stated if element)  # RFC 9110: empty elements are ignored
    return map(_named, named) if forwarded else named


def _fields(value: str) -> Iterable[str]:
    return reversed(value.split(","))


def _elements(value: str) -> Iterable[str]:
    """The elements of Forwarded, from the right: what stands further left may be cut off anywhere.

    A comma in quotes parts nothing: a proxy may quote the Host, which is what a client makes it.
    """
    end = at = len(value)
    quoted = False
    while at:
        at -= 1
        if value[at] == '"':
            before = at
            while quoted and before and value[before - 1] == "\\":
                before -= 1
            if (at - before) % 2 == 0:  # else it is escaped
                quoted = not quoted
        elif value[at] == "," and not quoted:
            yield value[at + 1 : end]
            end = at
    yield value[:end]


def _named(element: str) -> str:
    """Whom an element of Forwarded is for; "" where that is nobody, or it cannot be read."""
    named = ""
    at = 0
    while at < len(element):
        pair = _PAIR.match(element, at)
        if pair is None:
            return ""
        at = pair.end()
        if (pair[1] or "").lower() == "for":
            if named:
                return ""
            named = pair[2].strip('"')
    return named


def forwarded_client(peer: str, value: str, forwarded: bool, trusts: Trusts) -> str:
    """The client that a chain of trusted proxies names; `peer` is trusted already.

    A hop that is not an address ends the search: then it is the last one known that counts, since
    what is written further left is not worth more than this.
    """
    client = peer
    for hop in _hops(value, forwarded):
        if parse(hop) is None:
            return client
        client = hop
        if not trusts(hop):
            return client
    return client

"""The HTTP libraries, imported when one is used; and what their errors say."""

import contextlib
import socket
from collections.abc import Iterator
from contextvars import ContextVar
from importlib import import_module
from typing import Any

from headway.exceptions import SetUpError

__all__ = ["costing", "library", "take_cost", "was_sent"]

_UNSENT = frozenset(
    {
        # requests and urllib3
        "ConnectTimeout",
        "ConnectTimeoutError",
        "NewConnectionError",
        "NameResolutionError",
        "InvalidURL",
        "InvalidSchema",
        "InvalidHeader",
        "MissingSchema",
        "LocationParseError",
        # httpx
        "ConnectError",
        "PoolTimeout",
        "UnsupportedProtocol",
        "LocalProtocolError",
        # aiohttp
        "ClientConnectorError",
        "ClientConnectorDNSError",
        "ClientConnectorCertificateError",
        "ClientConnectorSSLError",
        "ClientProxyConnectionError",
        "ConnectionTimeoutError",
        "InvalidUrlClientError",
        "NonHttpUrlClientError",
    }
)


def library(name: str) -> Any:
    """The module `name`; a sentence where it is not installed."""
    try:
        return import_module(name)
    except ImportError as error:
        raise SetUpError(
            f"The package {name} is not installed: pip install 'headway[{name}]'."
        ) from error


def was_sent(error: BaseException) -> bool:
    """Whether a request that failed may have reached the server: False only where it cannot."""
    seen: set[int] = set()
    pending: list[Any] = [error]
    while pending:
        one = pending.pop()
        if not isinstance(one, BaseException) or id(one) in seen:
            continue
        seen.add(id(one))
        names = {kind.__name__ for kind in type(one).__mro__}
        if names & _UNSENT or isinstance(one, (ConnectionRefusedError, socket.gaierror)):
            return False
        pending += [one.__cause__, one.__context__, getattr(one, "reason", None), *one.args]
    return True


_cost: ContextVar["list[dict[str, int] | None] | None"] = ContextVar("headway_cost", default=None)


@contextlib.contextmanager
def costing(costs: "dict[str, int] | None") -> Iterator[None]:
    """The next request that this thread or task sends spends that; those after it one request."""
    if costs is None and _cost.get() is None:
        yield
        return
    token = _cost.set([costs])
    try:
        yield
    finally:
        _cost.reset(token)


def take_cost() -> "dict[str, int] | None":
    """What the request at hand spends."""
    held = _cost.get()
    return held.pop() if held else None

"""HTTP as a client of the service speaks it: answers within a deadline, URLs without their secrets.

A timeout of a socket is for each read. A peer that sends a byte now and then would hold its caller
for ever, so what is read here ends at a deadline that holds for the whole answer.
"""

import http.client
import re
import socket
import ssl
import time
from typing import Any

__all__ = ["Connection", "SecureConnection", "shown"]


class _Deadline:
    """A socket whose reads end at `deadline`, by the monotonic clock."""

    deadline = float("inf")

    def recv_into(self, *args: Any, **kwargs: Any) -> int:
        """Read as a socket does. Raises TimeoutError at the deadline."""
        this: Any = self
        if self.deadline < float("inf"):
            left = self.deadline - time.monotonic()
            if left <= 0:
                raise TimeoutError("timed out")
            this.settimeout(left)
        parent: Any = super()
        read: int = parent.recv_into(*args, **kwargs)
        return read


class _Socket(_Deadline, socket.socket):
    pass


class _SecureSocket(_Deadline, ssl.SSLSocket):
    pass


class Connection(http.client.HTTPConnection):
    """A connection whose answers have a time limit each, which `allow` sets."""

    _deadline = float("inf")

    def allow(self, seconds: float) -> None:
        """Let the next answer come as a whole within so many seconds."""
        self._deadline = time.monotonic() + seconds
        if self.sock is not None:
            self._set_deadline(seconds)

    def connect(self) -> None:
        """Connect, within the timeout that the connection was made with."""
        super().connect()
        plain = self.sock
        assert plain is not None
        if not isinstance(plain, _Deadline):
            family, kind, protocol = plain.family, plain.type, plain.proto
            self.sock = _Socket(family, kind, protocol, fileno=plain.detach())
        self._set_deadline(max(0.001, self._deadline - time.monotonic()))

    def _set_deadline(self, seconds: float) -> None:
        sock: Any = self.sock
        sock.deadline = self._deadline
        sock.settimeout(seconds if seconds < float("inf") else self.timeout)


class SecureConnection(Connection, http.client.HTTPSConnection):
    """The same over TLS."""

    def __init__(
        self, host: str, port: int | None, timeout: float, context: ssl.SSLContext | None = None
    ) -> None:
        context = context or ssl.create_default_context()
        context.sslsocket_class = _SecureSocket
        http.client.HTTPSConnection.__init__(self, host, port, timeout=timeout, context=context)


_PORT = re.compile(r":(?![0-9]{1,5}\Z)[^:\]]*\Z")
"""A port that is none: a password, where the host was left out."""


def shown(url: str) -> str:
    """Return a URL as a message may show it: without a login, a query, and a port that is none."""
    place, query, _ = _cut(url)
    scheme, slashes, rest = place.partition("://") if "://" in place else ("", "", place)
    _, at, rest = rest.rpartition("@")
    host, slash, path = rest.partition("/")
    host = _PORT.sub(":***", host)
    hidden = f"{query}***" if query else ""
    return f"{scheme}{slashes}{'***@' if at else ''}{host}{slash}{path}{hidden}"


def _cut(url: str) -> tuple[str, str, str]:
    found = re.search(r"[?#]", url)
    if found is None:
        return url, "", ""
    return url[: found.start()], found[0], url[found.end() :]

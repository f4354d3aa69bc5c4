"""RESP as it goes over the wire, and the smallest client that speaks it.

Tests arrange things with it and see with it what a server says; the code under test shares nothing
with it.
"""

from __future__ import annotations

import socket
import ssl
from typing import Any

DEADLINE_S = 30.0
"""How long anything here may take. Only a failure ever takes that long."""


class RedisError(Exception):
    """An error reply."""


class Wire:
    """The smallest client: writes commands, reads replies (RESP2 and RESP3), knows nothing else.

    Text comes back as `str`, an aggregate as a list (a map as a flat one).
    """

    def __init__(
        self,
        address: str | tuple[str, int],
        *,
        timeout: float = DEADLINE_S,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        family = socket.AF_UNIX if isinstance(address, str) else socket.AF_INET
        self.socket = socket.socket(family)
        try:
            self.socket.settimeout(timeout)
            self.socket.connect(address)
            if tls is not None:
                self.socket = tls.wrap_socket(self.socket, server_hostname=address[0])
        except BaseException:
            self.socket.close()
            raise
        self._file = self.socket.makefile("rb")

    def __enter__(self) -> Wire:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self._file.close()
        self.socket.close()

    def command(self, *args: str | int | bytes) -> Any:
        """The reply to one command; an error reply is raised."""
        self.send(*args)
        reply = self.read()
        if isinstance(reply, RedisError):
            raise reply
        return reply

    def send(self, *args: str | int | bytes) -> None:
        self.socket.sendall(encode(*args))

    def read(self) -> Any:
        """The next reply; an error is returned."""
        line = self._file.readline()
        if not line.endswith(b"\r\n"):
            raise ConnectionError("the server closed the connection")
        kind, rest = line[:1], line[1:-2].decode("utf-8", "surrogateescape")
        if kind == b"-":
            return RedisError(rest)
        if kind == b":":
            return int(rest)
        if kind == b"_" or rest == "-1":
            return None
        if kind in b"$=!":
            data = self._file.read(int(rest) + 2)
            if len(data) != int(rest) + 2:
                raise ConnectionError("the server closed the connection")
            return data[:-2].decode("utf-8", "surrogateescape")
        if kind in b"*~>%":
            return [self.read() for _ in range(int(rest) * (2 if kind == b"%" else 1))]
        if kind in b"+,(":
            return rest
        if kind == b"#":
            return rest == "t"
        raise ConnectionError(f"not a reply: {line!r}")


def encode(*args: str | int | bytes) -> bytes:
    """A command as it goes over the wire."""
    parts = [a if isinstance(a, bytes) else str(a).encode("utf-8", "surrogateescape") for a in args]
    return b"*%d\r\n" % len(parts) + b"".join(b"$%d\r\n%s\r\n" % (len(p), p) for p in parts)


def frame_end(data: bytes, start: int = 0) -> int | None:
    """Where the request or reply that begins at `start` ends; None if it is not all there. What is
    no RESP ends with its line.
    """
    line = data.find(b"\r\n", start)
    if line < 0:
        return None
    kind, end = data[start : start + 1], line + 2
    if kind not in b"$=!*~>%|":
        return end
    try:
        count = int(data[start + 1 : line])
    except ValueError:
        return end
    if count < 0:
        return end
    if kind in b"$=!":
        end += count + 2
        return end if end <= len(data) else None
    for _ in range(count * (2 if kind in b"%|" else 1) + (kind == b"|")):
        following = frame_end(data, end)
        if following is None:
            return None
        end = following
    return end


def name_of(request: bytes) -> str:
    """The command of a request, in upper case."""
    words = request.split(b"\r\n", 3)
    first = words[2] if request[:1] == b"*" and len(words) > 2 else request.split(b" ")[0]
    return first.strip().decode("ascii", "replace").upper()

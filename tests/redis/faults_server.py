"""A server that speaks the protocol as badly as a test wants.

    with FakeServer(lambda request: b"*1\\r\\n:1\\r\\n") as server:
        store = RedisStore(server.url)

It greets every connection as Redis does, so that what a test gets wrong is a decision's reply. The
answer is what goes over the wire: bytes, or `HANG_UP`, or `SILENCE`; a list of them goes out piece
by piece. `greeting` answers instead of the usual greeting; with `tls` it speaks TLS. Requests for
decisions are counted.
"""

from __future__ import annotations

import contextlib
import socket
import ssl
import threading
import time
from collections import Counter
from collections.abc import Callable

from ports import claim_port
from wire import frame_end, name_of

SILENCE = b""
"""Nothing, and the connection stays."""
HANG_UP = None
"""The end of the connection."""

Piece = bytes | None
Answer = Piece | list[Piece]
GREETING = ("HELLO", "AUTH", "SELECT", "CLIENT")


def array(*items: int | str | bytes) -> bytes:
    """An array of numbers and texts."""
    parts = []
    for item in items:
        if isinstance(item, int):
            parts.append(b":%d\r\n" % item)
        else:
            text = item.encode() if isinstance(item, str) else item
            parts.append(b"$%d\r\n%s\r\n" % (len(text), text))
    return b"*%d\r\n" % len(items) + b"".join(parts)


def decided(admitted: int = 1, *, now_us: int | None = None, ahead_us: int = 0) -> bytes:
    """What gcra.lua says of a quota with one rule whose bucket owes `ahead_us`."""
    now = int(time.time() * 1e6) if now_us is None else now_us
    return array(admitted, str(now), str(now + ahead_us), "0")


class FakeServer:
    """Answers each decision with what `answer` makes of the request."""

    def __init__(
        self,
        answer: Callable[[bytes], Answer] | None = None,
        *,
        greeting: Callable[[bytes], Answer] | None = None,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        self.answer = answer if answer is not None else lambda request: decided()
        self.greeting = greeting if greeting is not None else _greet
        self.tls = tls
        self.requests: Counter[str] = Counter()
        self.connections = 0
        self._sockets: set[socket.socket] = set()
        self._lock = threading.Lock()

    def __enter__(self) -> FakeServer:
        self.port, self._claim = claim_port()
        self._listener = socket.socket()
        self._listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self._listener.bind(("127.0.0.1", self.port))
        self._listener.listen(128)
        threading.Thread(target=self._listen, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._claim.close()
        self.hang_up()

    @property
    def url(self) -> str:
        return f"{'redis' if self.tls is None else 'rediss'}://127.0.0.1:{self.port}/0"

    @property
    def links(self) -> int:
        """How many connections there are now."""
        with self._lock:
            return len(self._sockets)

    def say(self, data: bytes) -> None:
        """Tells every client something that nobody asked for."""
        with self._lock:
            for sock in self._sockets:
                sock.sendall(data)

    def hang_up(self) -> None:
        """Ends every connection."""
        with self._lock:
            for sock in self._sockets:
                with contextlib.suppress(OSError):
                    sock.shutdown(socket.SHUT_RDWR)

    def _listen(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                sock, _ = self._listener.accept()
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                with self._lock:
                    self._sockets.add(sock)
                    self.connections += 1
                threading.Thread(target=self._begin, args=(sock,), daemon=True).start()

    def _begin(self, plain: socket.socket) -> None:
        sock = plain
        if self.tls is not None:
            try:
                sock = self.tls.wrap_socket(plain, server_side=True)
            except OSError:
                return self._end(plain)
            with self._lock:
                self._sockets.discard(plain)
                self._sockets.add(sock)
        self._serve(sock)

    def _serve(self, sock: socket.socket) -> None:
        data = b""
        with contextlib.suppress(OSError):
            while piece := sock.recv(65_536):
                data += piece
                while (end := frame_end(data) if data else None) is not None:
                    request, data = data[:end], data[end:]
                    if not self._reply(sock, request):
                        return self._end(sock)
        self._end(sock)

    def _reply(self, sock: socket.socket, request: bytes) -> bool:
        name = name_of(request)
        with self._lock:
            self.requests[name] += 1
        answer = self.greeting(request) if name in GREETING else self.answer(request)
        for piece in answer if isinstance(answer, list) else [answer]:
            if piece is HANG_UP:
                return False
            sock.sendall(piece)
        return True

    def _end(self, sock: socket.socket) -> None:
        with self._lock:
            self._sockets.discard(sock)
        sock.close()


def _greet(request: bytes) -> Answer:
    if name_of(request) == "HELLO":
        return array("server", "redis", "proto", 3)
    return b"+OK\r\n"

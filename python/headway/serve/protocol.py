"""A connection of uvicorn with deadlines: who sends too slowly, or too much, is cut off.

uvicorn times how long a connection may idle between two requests, and nothing else. This adds the
rest: a request's head must come within `header_timeout` of its first byte (of a new connection: of
its opening), a body within `body_timeout` of its head, and an answer must be read within
`body_timeout`.

That costs a request next to nothing, because no timer is set for it. `Guard` looks at all
connections twice a second, sees from uvicorn's own state what each waits for, and notes since when
it has waited for that. Only sizes are counted as bytes come in.

`respond` gives a short answer to uvicorn in one step instead of two messages, which is a sixth of
the time that an empty handler takes.
"""

from __future__ import annotations

import asyncio
from collections import deque
from dataclasses import dataclass, field

from uvicorn.protocols.http.httptools_impl import (
    STATUS_LINE,
    HttpToolsProtocol,
    RequestResponseCycle,
)

from headway.serve.answers import Answer

__all__ = ["Guard", "guarded", "respond"]

_HEAD, _BODY, _READER, _NOBODY = range(4)
"""What a connection waits for: a head that has begun, a body, a reader of its answer; or nobody."""
_LOOK_S = 0.5


@dataclass
class Guard:
    """What the connections of a server share: the limits, and what was counted."""

    header_timeout: float = 10.0
    body_timeout: float = 10.0
    max_head: int = 32 * 1024
    """Bytes of a request line and its headers."""
    max_message: int = 1024 * 1024
    """Bytes of a request on the wire, with the framing of its chunks."""
    max_connections: int = 10_000
    open: set[GuardedConnection] = field(default_factory=set)
    slow: int = 0
    """Connections that were closed for being slow."""
    refused: int = 0
    """Connections that were closed because there were too many."""
    malformed: int = 0
    """Requests that were no HTTP, or too large a head."""

    async def watch(self) -> None:
        """Close who is overdue, for ever."""
        loop = asyncio.get_running_loop()
        while True:
            now = loop.time()
            for connection in [c for c in self.open if c.overdue(now)]:
                self.slow += 1
                connection.cut_off()
            await asyncio.sleep(_LOOK_S)


def guarded(guard: Guard) -> type[GuardedConnection]:
    """Return the class of connections that `guard` watches, for uvicorn's `http=`."""
    return type("Connection", (GuardedConnection,), {"guard": guard})


_receive = HttpToolsProtocol.data_received
_begin = HttpToolsProtocol.on_headers_complete


class GuardedConnection(HttpToolsProtocol):
    """One connection. Subclassed by `guarded`, which says by whom it is watched."""

    guard: Guard

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self.waits_for: tuple[int, object] = (_NOBODY, None)
        self.since = 0.0
        self.head_size = self.body_size = 0
        self.measured: object = None
        """The request that has begun last when bytes came last."""
        self.earlier: deque[RequestResponseCycle] = deque()
        """Requests before the last, in the order of their answers; uvicorn knows the last alone."""
        guard = self.guard
        if len(guard.open) >= guard.max_connections:
            guard.refused += 1
            self._end(503, "Too many connections.")
            return
        guard.open.add(self)

    def connection_lost(self, exc: Exception | None) -> None:
        self.guard.open.discard(self)
        for cycle in self.earlier:  # one may be kept waiting, and would never hear of it
            cycle.disconnected = cycle.disconnected or not cycle.response_complete
            cycle.message_event.set()
        super().connection_lost(exc)

    def on_headers_complete(self) -> None:
        before = self.cycle
        _begin(self)
        if before is not None and not before.response_complete:
            while self.earlier and self.earlier[0].response_complete:
                self.earlier.popleft()
            self.earlier.append(before)

    def data_received(self, data: bytes) -> None:
        # What comes in one piece may be several requests; what comes in more is measured.
        cycle = self.cycle
        if cycle is not self.measured:
            self.measured = cycle
            self.head_size = self.body_size = 0
        if cycle is not None and cycle.more_body:
            if self.body_size > self.guard.max_message:
                self.cut_off()
                return
            self.body_size += len(data)
        else:
            if self.head_size > self.guard.max_head:
                self.guard.malformed += 1
                self._end(431, "The request line and headers are too large.")
                return
            self.head_size += len(data)
        _receive(self, data)

    def send_400_response(self, msg: str) -> None:
        self.guard.malformed += 1
        self._end(400, msg)

    def shutdown(self) -> None:
        # Closing TLS waits for the peer's goodbye, which one that is idle does not say.
        idle = self.cycle is None or self.cycle.response_complete
        if idle and self.scheme == "https" and not self.transport.get_write_buffer_size():
            self.transport.abort()
        else:
            super().shutdown()

    def overdue(self, now: float) -> bool:
        """Note what is waited for; tell whether that has taken too long."""
        cycle, guard = self.cycle, self.guard
        if self.flow.write_paused:
            what = _READER
        elif cycle is not None and cycle.more_body and not cycle.response_complete:
            what = _BODY
        elif cycle is not None and not cycle.response_complete:
            what = _NOBODY
        else:  # the timer of keep-alive runs as long as nothing more has come
            what = _HEAD if self.timeout_keep_alive_task is None else _NOBODY
        if self.waits_for[0] != what or self.waits_for[1] is not cycle:
            self.waits_for, self.since = (what, cycle), now
            return False
        if what == _NOBODY:
            return False
        longest = guard.header_timeout if what == _HEAD else guard.body_timeout
        return now - self.since > longest

    def cut_off(self) -> None:
        """Hang up: with a word where nothing was answered yet, at once where nobody reads."""
        self.guard.open.discard(self)
        if self.flow.write_paused:
            self.transport.abort()
        elif self.cycle is None or not (self.cycle.response_started and self.cycle.more_body):
            self._end(408, "The request took too long to arrive.")
        else:
            self.transport.close()

    def _end(self, status: int, message: str) -> None:
        if self.transport.is_closing():
            return
        body = b'{"error": "%s"}' % message.encode()
        self.transport.write(
            b"HTTP/1.1 %d %s\r\ncontent-type: application/json\r\ncontent-length: %d\r\n"
            b"connection: close\r\n\r\n%s" % (status, _REASONS[status], len(body), body)
        )
        self.transport.close()


_REASONS: dict[int, bytes] = {
    400: b"Bad Request",
    408: b"Request Timeout",
    431: b"Request Header Fields Too Large",
    503: b"Service Unavailable",
}


def respond(send: object, answer: Answer) -> bool:
    """Answer by what `send` belongs to; False where that cannot be, and messages must be sent.

    This does what uvicorn does with the two messages of a response whose length is known, on a
    connection that stays open.
    """
    cycle = getattr(send, "__self__", None)
    if (
        type(cycle) is not RequestResponseCycle
        or not cycle.keep_alive
        or cycle.disconnected
        or cycle.response_started
        or cycle.flow.write_paused
        or cycle.access_log
    ):
        return False
    cycle.response_started = cycle.response_complete = True
    cycle.waiting_for_100_continue = False
    lines = [b"%s: %s\r\n" % header for header in (*cycle.default_headers, *answer.headers)]
    cycle.transport.write(
        b"%s%scontent-length: %d\r\n\r\n%s"
        % (STATUS_LINE[answer.status], b"".join(lines), len(answer.body), answer.body)
    )
    cycle.message_event.set()
    cycle.on_response()
    return True

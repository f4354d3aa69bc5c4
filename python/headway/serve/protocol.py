"""A connection of uvicorn with limits: of time, of bytes, and of requests that wait in it.

uvicorn times how long a connection may idle between two requests, and nothing else. Here a
request's head must come within `header_timeout` of its first byte (of a new connection: of its
opening), a body within `body_timeout` of its head, and an answer must be read within
`body_timeout`. No request costs a timer, that of uvicorn neither: `Guard` looks at all connections
twice a second and asks each what it waits for.

A client may send many requests in one piece. uvicorn would parse all of them at once, and keep some
kilobytes for each. Here nothing more is parsed while a request is being answered: the bytes that
follow it are held as they are, and the connection is not read. What is parsed at once has few
lines, so it holds few requests and few headers.

`respond` gives a short answer to uvicorn in one step instead of two messages, which is a sixth of
the time that an empty handler takes.
"""

from __future__ import annotations

import asyncio
import select
from collections import deque
from typing import Any

import httptools
from uvicorn.protocols.http.flow_control import FlowControl
from uvicorn.protocols.http.httptools_impl import (
    STATUS_LINE,
    HttpToolsProtocol,
    RequestResponseCycle,
)

from headway.serve.answers import Answer
from headway.serve.guard import Guard, address_of

__all__ = ["Guard", "GuardedConnection", "guarded", "respond"]

_REQUEST, _HEAD, _BODY, _READER, _END, _NOTHING = range(6)
"""What a connection waits for: another request, the end of a head, a body, that its answer is read,
its end; nothing, since the service is at work."""
_LINGER_S = 2.0
"""How long a connection is read, and what comes is dropped, after its last answer: a connection
that is closed with bytes unread is reset, and the client might never see the answer."""
_MOST_DROPPED = 1 << 20
_MOST_LINGERING = 32
"""Connections that were turned away and linger."""
_WAITS_S = 1.0
"""A request that is answered by then does not wait for its turn."""
_SMALL = 1024
_PIECE = 256
_MOST_LINES = 32
"""Of bytes with more lines, `_PIECE` are parsed at once."""


def guarded(guard: Guard) -> type[GuardedConnection]:
    """Return the class of connections that `guard` watches, for uvicorn's `http=`."""
    return type("Connection", (GuardedConnection,), {"guard": guard})


class _Flow(FlowControl):
    """uvicorn resumes reading whenever a handler asks for a body; not while bytes are held."""

    held = False

    def resume_reading(self) -> None:
        if not self.held:
            super().resume_reading()


_begin = HttpToolsProtocol.on_headers_complete
_answered = HttpToolsProtocol.on_response_complete


class GuardedConnection(HttpToolsProtocol):
    """One connection. Subclassed by `guarded`, which says which guard watches it."""

    guard: Guard

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self.flow = self.reading = _Flow(transport)
        self.address = address_of(self.client)
        self.waits_for: tuple[int, object] = (_NOTHING, None)
        self.since = self.unread_since = self.loop.time()
        self.unread = 0
        """Bytes of answers that the peer's system has not taken, when they were last looked at."""
        self.in_body = False
        self.head_size = self.body_size = 0
        self.fed = 0
        """Bytes that were parsed since the head began, or somewhat before."""
        self.rest, self.rest_from = b"", 0
        """Bytes that are held back, and how many of them were parsed since."""
        self.earlier: deque[RequestResponseCycle] = deque()
        """Requests before the last, in the order of their answers; uvicorn knows the last alone."""
        self.ended = False
        """Whether the last answer was given; what comes is dropped."""
        self.lost = False
        if not self.guard.let_in(self):
            self._end(503, "Too many connections.")

    def connection_lost(self, exc: Exception | None) -> None:
        self.lost = True
        self.guard.open.discard(self)
        self.guard.leaving.discard(self)
        self._disconnect()
        super().connection_lost(exc)

    # ---- what the parser reports

    def on_headers_complete(self) -> None:
        parser: Any = self.parser
        if parser.get_http_version() not in ("1.1", "1.0"):
            raise ValueError("HTTP/1.0 and HTTP/1.1 are spoken here")  # the parser's error, and 400
        if self.fed > self.guard.max_head and self._head_bytes() > self.guard.max_head:
            self.head_size = self.fed
            raise ValueError("the head is too large")
        before = self.cycle
        _begin(self)
        self.in_body = True
        self.head_size = self.body_size = self.fed = 0
        if before is not None and not before.response_complete:
            while self.earlier and self.earlier[0].response_complete:
                self.earlier.popleft()
            self.earlier.append(before)

    def on_message_complete(self) -> None:
        self.in_body = False
        cycle = self.cycle
        if not cycle.response_complete:
            cycle.more_body = False
            cycle.message_event.set()

    def on_response_complete(self) -> None:
        if self.pipeline:
            _answered(self)
        else:  # without the timer that uvicorn sets for each request: the guard looks for idle ones
            self.server_state.total_requests += 1
            if not self.transport.is_closing():
                self.flow.resume_reading()
        if self.rest and not self._busy():
            self.loop.call_soon(self._go_on)

    def _head_bytes(self) -> int:
        return len(self.url) + sum(len(name) + len(value) + 4 for name, value in self.headers)

    # ---- bytes that come

    def data_received(self, data: bytes) -> None:
        cycle = self.cycle
        if (  # most are one small request, between two others
            len(data) <= _SMALL
            and (cycle is None or cycle.response_complete)
            and not (self.ended or self.rest or self.in_body or self.head_size)
            and data.count(b"\n") <= _MOST_LINES
        ):
            self.head_size = self.fed = len(data)  # until the head is complete
            left = self._feed(data)
            if left:
                self._parse(data, len(data) - left)
            return
        if self.ended:
            self.body_size += len(data)
            if self.body_size > _MOST_DROPPED:
                self.hang_up()
            return
        if self.rest:  # TLS may have decrypted more than was asked for
            self._hold(self.rest[self.rest_from :] + data, 0)
            return
        self._parse(data, 0)

    def _busy(self) -> bool:
        """Whether a request has come as a whole and is not answered yet."""
        cycle = self.cycle
        return cycle is not None and not cycle.response_complete and not self.in_body

    def _parse(self, data: bytes, at: int) -> None:
        """Parse `data` from `at`, until a request is to be answered; hold the rest."""
        guard, size = self.guard, len(data)
        while at < size and not self.ended and not self.transport.is_closing():
            if self._busy():
                self._hold(data, at)
                return
            # One byte more than may come, so that its coming is seen.
            end = min(size, at + guard.max_head + 1 - (0 if self.in_body else self.head_size))
            if end - at > _PIECE and data.count(b"\n", at, end) > _MOST_LINES:
                end = at + _PIECE
            piece = data if end - at == size else data[at:end]
            if self.in_body:
                self.body_size += len(piece)
                self.fed = len(piece)
            else:
                self.head_size += len(piece)
                self.fed += len(piece)
            at = end - self._feed(piece)
            if self.body_size > guard.max_message:
                self.cut_off()
            elif self.head_size > guard.max_head or len(self.headers or ()) > guard.max_headers:
                self.send_400_response("")

    def _feed(self, piece: bytes) -> int:
        """Have bytes parsed; return how many of them are left, after an upgrade that is none."""
        parser: Any = self.parser
        try:
            parser.feed_data(piece)
        except httptools.HttpParserUpgrade as upgrade:
            parsed = upgrade.args[0] if upgrade.args else 0
            if 0 < parsed <= len(piece):
                return len(piece) - int(parsed)
            self.send_400_response("")
        except httptools.HttpParserError:
            self.send_400_response("")
        return 0

    def _hold(self, data: bytes, at: int) -> None:
        """Keep bytes for later, and read no more until then."""
        self.guard.held += len(data) - len(self.rest)
        self.rest, self.rest_from = data, at
        if self.guard.held > self.guard.max_held:
            self.guard.malformed += 1
            self.hang_up()
            return
        self.reading.held = True
        self.flow.pause_reading()

    def _release(self) -> tuple[bytes, int]:
        """Return what was held, which is not held any more."""
        held = (self.rest, self.rest_from)
        self.guard.held -= len(self.rest)
        self.rest, self.rest_from = b"", 0
        self.reading.held = False
        return held

    def _go_on(self) -> None:
        """Parse what was held, after an answer. Other connections had their turn meanwhile."""
        if not self.rest or self._busy() or self.ended or self.transport.is_closing():
            return
        data, at = self._release()
        self._parse(data, at)
        if not self.ended and not self.transport.is_closing():
            self.flow.resume_reading()

    # ---- the end

    @property
    def idle(self) -> bool:
        """Whether no request is being answered."""
        return self.cycle is None or self.cycle.response_complete

    @property
    def ends(self) -> bool:
        """Whether nothing more will be answered."""
        return self.ended or self.transport.is_closing()

    def overdue(self, now: float) -> bool:
        """Note what is waited for; return whether that has taken too long."""
        cycle, guard = self.cycle, self.guard
        unread = self.transport.get_write_buffer_size()
        if not unread or unread < self.unread:
            self.unread_since = now
        self.unread = unread
        if self.ends:
            what = _END
        elif unread:
            what = _READER
        elif cycle is not None and cycle.more_body and not cycle.response_complete:
            what = _BODY
        elif cycle is not None and not cycle.response_complete:
            what = _NOTHING
        else:  # a new connection is to send its first head at once
            what = _HEAD if cycle is None or self.head_size else _REQUEST
        if self.waits_for[0] != what or self.waits_for[1] is not cycle:
            self.waits_for, self.since = (what, cycle), now
        if now - self.unread_since > guard.body_timeout:
            return True  # new requests come, and the answers to the earlier ones are not read
        if what == _NOTHING:
            if self.reading.held and now - self.since > _WAITS_S and self._peer_left():
                self.hang_up()
            return False
        longest = guard.header_timeout if what == _HEAD else guard.body_timeout
        if what == _REQUEST and now - self.since > guard.keep_alive:
            self.transport.close()
        if what == _REQUEST:
            return False
        if what == _END and not unread:
            longest = _LINGER_S
        return now - self.since > longest

    def _peer_left(self) -> bool:
        """Whether the peer has closed, which a connection that is not read does not report.

        Its request waits for its turn, and would take it for nobody.
        """
        sock = self.transport.get_extra_info("socket")
        if sock is None or not hasattr(select, "POLLRDHUP"):
            return False
        poll = select.poll()
        poll.register(sock.fileno(), select.POLLRDHUP)
        return bool(poll.poll(0))

    def cut_off(self) -> None:
        """Hang up: after a sentence, where one can be sent, and at once where nobody reads."""
        if self.ends or self.transport.get_write_buffer_size():
            self.transport.abort()
        elif self.cycle is None or not (self.cycle.response_started and self.cycle.more_body):
            self._end(408, "The request took too long to arrive.")
        else:
            self.transport.close()

    def hang_up(self) -> None:
        """Close at once."""
        self.ended = True
        self._disconnect()
        self.transport.abort()

    def shutdown(self) -> None:
        # Closing TLS waits for the peer's goodbye, which one that is idle does not say.
        if self.idle and self.scheme == "https" and not self.transport.get_write_buffer_size():
            self.transport.abort()
        else:
            super().shutdown()

    def send_400_response(self, msg: str) -> None:
        if self.ended:
            return
        guard = self.guard
        guard.malformed += 1
        if self.head_size > guard.max_head or len(self.headers or ()) > guard.max_headers:
            self._end(431, "The request line and headers are too large.")
        else:
            self._end(400, "This is no request in HTTP/1.1.")

    def _disconnect(self) -> None:
        """Make the requests that are not answered hear that nobody waits for their answer."""
        self._release()
        waiting = [*self.earlier, *(cycle for cycle, _ in self.pipeline), self.cycle]
        self.pipeline.clear()
        for cycle in waiting:
            if cycle is not None and not cycle.response_complete:
                cycle.disconnected = True
                cycle.message_event.set()

    def _end(self, status: int, message: str) -> None:
        """Give an answer that is the last, and stop reading requests."""
        if self.ends:
            return
        if any(not cycle.response_complete for cycle in self.earlier) or self._busy():
            # This answer would be taken for that of an earlier request: those are answered, and
            # the connection is closed after the last of them.
            self.ended = True
            self._release()
            self.cycle.keep_alive = False
            if self.in_body:
                self.hang_up()
            return
        body = b'{"error": "%s"}' % message.encode()
        self.transport.write(
            b"HTTP/1.1 %d %s\r\ncontent-type: application/json\r\ncontent-length: %d\r\n"
            b"connection: close\r\n\r\n%s" % (status, _REASONS[status], len(body), body)
        )
        self.ended, self.body_size = True, 0
        self._disconnect()
        if self.transport.can_write_eof() and len(self.guard.leaving) < _MOST_LINGERING:
            self.transport.write_eof()
            self.flow.resume_reading()
        else:
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

"""A TCP proxy between a client and a server that misbehaves on command.

It reads whole requests and whole replies, knows which reply belongs to which request, and passes
them on, unless a fault was ordered for the next one (of some command):

    with Proxy(server) as proxy:
        client = connect(proxy.url)
        proxy.cut_reply("EVALSHA")  # the server decides, the client never hears of it

A fault happens once (or `times`), then the proxy is honest again. Offsets count bytes within one
request or reply. With a TLS server, and with `opaque` (for servers that do not speak RESP), bytes
pass as they come: each piece read is then a request or a reply, and has no name. All of it runs on
one event loop in a thread of its own; a fault is in force when the method that orders it returns.
"""

from __future__ import annotations

import asyncio
import socket
import struct
import threading
from collections import Counter, deque
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any, TypeVar

from ports import claim_port
from servers import RedisServer
from wire import DEADLINE_S, frame_end, name_of

T = TypeVar("T")

REQUEST, REPLY = "request", "reply"

Queue = asyncio.Queue["tuple[float, bytes] | None"]
"""Messages with the time they came, and None at the end."""


@dataclass(eq=False)
class Fault:
    """What happens to the next `times` requests or replies of a command, or of any."""

    side: str
    command: str | None
    times: int
    deed: Callable[[Link, bytes], Coroutine[Any, Any, None]]


class Link:
    """One client's connection and the one that was made for it to the server."""

    def __init__(self, client: asyncio.StreamWriter, server: asyncio.StreamWriter) -> None:
        self.client, self.server = client, server
        self.tasks: list[asyncio.Future[None]] = []
        self.asked: deque[str] = deque()
        """The commands whose replies have not come yet."""

    def cut(self, *, reset: bool = False) -> None:
        """Ends both connections; `reset` sends the client a RST rather than a FIN. What was
        written before still goes out, and to the server what came with it counts.
        """
        if reset:
            _set_linger(self.client)
        self.client.close()
        self.server.close()


class Proxy:
    """Listens on a port of its own, and passes on what comes to the server's."""

    def __init__(self, server: RedisServer | tuple[str, int], *, opaque: bool = False) -> None:
        self.server = server
        self.host, self.port = "127.0.0.1", 0
        self.opaque = opaque or (isinstance(server, RedisServer) and server.tls is not None)
        self.connections = 0
        """How many came, the refused ones not counted."""
        self.refused = 0
        self.bytes_in = 0
        """How many bytes clients sent; `bytes_out`: how many they were sent."""
        self.bytes_out = 0
        self.reads = 0
        """In how many pieces the clients' bytes came: roughly their writes."""
        self.requests: Counter[str] = Counter()
        """How many requests of each command came from clients, faults or not. Upper case."""
        self._faults: list[Fault] = []
        self._refusals = 0
        self._pause: dict[str, float] = {REQUEST: 0.0, REPLY: 0.0}
        self._pieces: float | None = None
        self._held = False
        self._changed = asyncio.Event()
        """Set, and replaced, when what is kept back may go on."""
        self._links: set[Link] = set()

    # Its life.

    def __enter__(self) -> Proxy:
        self.port, self._claim = claim_port()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        self._run(self._listen())
        return self

    def __exit__(self, *_: object) -> None:
        self._run(self._end())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(DEADLINE_S)
        self._loop.close()
        self._claim.close()

    @property
    def address(self) -> tuple[str, int]:
        return self.host, self.port

    @property
    def url(self) -> str:
        """The server's URL, through the proxy."""
        if isinstance(self.server, RedisServer):
            return self.server.url_for(port=self.port)
        return f"redis://{self.host}:{self.port}/0"

    @property
    def links(self) -> int:
        """How many connections there are now."""
        return self._call(lambda: len(self._links))

    # Faults, once ordered.

    def cut(self, *, reset: bool = False) -> None:
        """Cuts all connections now."""

        def order() -> None:
            for link in self._links:
                link.cut(reset=reset)

        self._call(order)

    def cut_request(
        self,
        command: str | None = None,
        *,
        after: int | None = 0,
        reset: bool = False,
        times: int = 1,
    ) -> None:
        """Cuts when so many bytes of a request have reached the server: 0 is before it, None after
        it as a whole, which the server then executes.
        """

        async def deed(link: Link, data: bytes) -> None:
            link.server.write(data[:after])
            link.cut(reset=reset)

        self._order(REQUEST, command, times, deed)

    def cut_reply(
        self,
        command: str | None = None,
        *,
        after: int | None = 0,
        reset: bool = False,
        times: int = 1,
    ) -> None:
        """Cuts when so many bytes of a reply have reached the client: with 0 it was executed and
        nobody heard, None is after the whole reply.
        """

        async def deed(link: Link, data: bytes) -> None:
            await self._write(link.client, data[:after])
            link.cut(reset=reset)

        self._order(REPLY, command, times, deed)

    def corrupt(
        self, at: int = 0, to: bytes | None = None, command: str | None = None, *, times: int = 1
    ) -> None:
        """Inverts the bits of one byte of a reply, or overwrites it and those after it with `to`.
        Negative offsets count from the end.
        """

        async def deed(link: Link, data: bytes) -> None:
            start = at % len(data)
            new = bytes([data[start] ^ 0xFF]) if to is None else to
            await self._write(link.client, data[:start] + new + data[start + len(new) :])

        self._order(REPLY, command, times, deed)

    def answer(self, reply: bytes, command: str | None = None, *, times: int = 1) -> None:
        """Gives the client this for a reply, `b"-LOADING later\\r\\n"`; the server executed it."""

        async def deed(link: Link, data: bytes) -> None:
            await self._write(link.client, reply)

        self._order(REPLY, command, times, deed)

    def swallow(self, command: str | None = None, *, times: int = 1) -> None:
        """Lets replies disappear; the connection stays."""

        async def deed(link: Link, data: bytes) -> None:
            pass

        self._order(REPLY, command, times, deed)

    def refuse(self, times: int = 1_000) -> None:
        """Resets so many new connections as soon as they came; `refused` counts them."""

        def order() -> None:
            self._refusals = times

        self._call(order)

    # Manners, until changed or `heal`.

    def delay(self, seconds: float, *, of: str | None = None) -> None:
        """Keeps each request and each reply (`of`: one of the two) back for so long."""
        self._call(lambda: self._pause.update({s: seconds for s in self._pause if of in (None, s)}))

    def split(self, pause: float = 0.0005) -> None:
        """Gives the client replies byte by byte, with time between them to be read one by one."""

        def order() -> None:
            self._pieces = pause

        self._call(order)

    def hold(self) -> None:
        """Passes nothing on, either way, and closes nothing: a network that is gone."""

        def order() -> None:
            self._held = True

        self._call(order)

    def heal(self) -> None:
        """Forgets all faults and manners; what was kept back goes on at once."""

        def order() -> None:
            self._faults.clear()
            self._refusals, self._pieces, self._held = 0, None, False
            self._pause.update({REQUEST: 0.0, REPLY: 0.0})
            self._changed.set()
            self._changed = asyncio.Event()

        self._call(order)

    @contextmanager
    def closed_port(self) -> Iterator[None]:
        """Connecting meets ECONNREFUSED meanwhile. Connections that exist stay."""
        self._run(self._stop_listening())
        try:
            yield
        finally:
            self._run(self._listen())

    # Inside, on the event loop.

    async def _listen(self) -> None:
        self._listener = await asyncio.start_server(
            self._serve, self.host, self.port, backlog=2_048, reuse_address=True
        )

    async def _stop_listening(self) -> None:
        self._listener.close()
        # A turn for those that are being taken in; `wait_closed` would wait for connections too.
        await asyncio.sleep(0)

    async def _end(self) -> None:
        await self._stop_listening()
        for link in self._links:
            link.client.transport.abort()
            link.server.transport.abort()
            for task in link.tasks:
                task.cancel()
        if others := asyncio.all_tasks() - {asyncio.current_task()}:
            await asyncio.wait(others, timeout=DEADLINE_S / 2)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self._refusals:
            self._refusals -= 1
            self.refused += 1
            _set_linger(writer)
            writer.transport.abort()
            return
        self.connections += 1
        server = self.server
        try:
            to = server.address if isinstance(server, RedisServer) else server
            replies, sink = await asyncio.open_connection(*to)
        except OSError:
            writer.transport.abort()
            return
        link = Link(writer, sink)
        self._links.add(link)
        asked: Queue = asyncio.Queue()
        answered: Queue = asyncio.Queue()
        passing = [
            asyncio.ensure_future(self._pass_on(link, REQUEST, asked)),
            asyncio.ensure_future(self._pass_on(link, REPLY, answered)),
        ]
        link.tasks = [
            *passing,
            asyncio.ensure_future(self._read(REQUEST, reader, asked)),
            asyncio.ensure_future(self._read(REPLY, replies, answered)),
        ]
        await asyncio.wait(passing, return_when=asyncio.FIRST_COMPLETED)
        for task in link.tasks:
            task.cancel()
        await asyncio.gather(*link.tasks, return_exceptions=True)
        link.cut()
        self._links.discard(link)

    async def _read(self, side: str, reader: asyncio.StreamReader, queue: Queue) -> None:
        """Takes what comes, at once, so that a delay is the same for all, like a long wire's."""
        rest = b""
        with suppress(ConnectionError):
            while data := await reader.read(65_536):
                if side == REQUEST:
                    self.bytes_in += len(data)
                    self.reads += 1
                rest += data
                start, end = 0, self._end_of(rest, 0)
                while end is not None:
                    queue.put_nowait((self._loop.time(), rest[start:end]))
                    start, end = end, self._end_of(rest, end)
                rest = rest[start:]
        if rest:  # half a message, and then the end
            queue.put_nowait((self._loop.time(), rest))
        queue.put_nowait(None)

    def _end_of(self, data: bytes, start: int) -> int | None:
        if start == len(data):
            return None
        return len(data) if self.opaque else frame_end(data, start)

    async def _pass_on(self, link: Link, side: str, queue: Queue) -> None:
        with suppress(ConnectionError):
            while (item := await queue.get()) is not None:
                arrived, data = item
                await self._keep_back(side, arrived)
                await self._pass(link, side, data)
                if link.client.is_closing():
                    return

    async def _pass(self, link: Link, side: str, data: bytes) -> None:
        if side == REQUEST:
            name = "" if self.opaque else name_of(data)
            self.requests[name] += 1
            link.asked.append(name)
        else:  # a message nobody asked for answers nothing
            name = link.asked.popleft() if link.asked and data[:1] != b">" else ""
        for fault in self._faults:
            if fault.side == side and fault.command in (None, name):
                fault.times -= 1
                if fault.times == 0:
                    self._faults.remove(fault)
                return await fault.deed(link, data)
        if side == REPLY:
            return await self._write(link.client, data)
        link.server.write(data)
        await link.server.drain()

    async def _keep_back(self, side: str, arrived: float) -> None:
        end = arrived + self._pause[side]
        while self._held or self._loop.time() < end:
            left = None if self._held else end - self._loop.time()
            changed = self._changed
            with suppress(asyncio.TimeoutError):
                await asyncio.wait_for(changed.wait(), left)
            if changed.is_set():
                return

    async def _write(self, client: asyncio.StreamWriter, data: bytes) -> None:
        step = len(data) if self._pieces is None else 1
        for start in range(0, len(data), max(step, 1)):
            client.write(data[start : start + step])
            self.bytes_out += len(data[start : start + step])
            await client.drain()
            if self._pieces is not None:
                await asyncio.sleep(self._pieces)

    def _order(
        self,
        side: str,
        command: str | None,
        times: int,
        deed: Callable[[Link, bytes], Coroutine[Any, Any, None]],
    ) -> None:
        name = None if command is None else command.upper()
        self._call(lambda: self._faults.append(Fault(side, name, times, deed)))

    # From another thread.

    def _call(self, work: Callable[[], T]) -> T:
        async def on_the_loop() -> T:
            return work()

        return self._run(on_the_loop())

    def _run(self, work: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(DEADLINE_S)


def _set_linger(writer: asyncio.StreamWriter) -> None:
    """Makes closing send a RST."""
    sock = writer.get_extra_info("socket")
    with suppress(OSError):
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))

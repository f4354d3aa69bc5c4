"""A Redis that does harm: between the operation and a real server stands a proxy that cuts, delays,
replaces and repeats replies; or there is no server behind it at all.

What must come of it: a result or an error that the documents name, within the store's deadlines and
bounded memory; and once the server behaves again, so does the store.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import resource
import socket
import struct
import threading
import time
from collections.abc import Callable
from typing import Any

import operations
from operations import MANY, REDIS_PORT, Operation
from session import Session

import headway
import headway.asyncio
from headway.exceptions import BaseThrottledError
from headway.limiters import MaxSleepExceededError

TIMEOUT_S = 0.4
BOUND_S = 8.0
"""How long an operation may take; the machine may be busy, and a store asks more than once."""
BOUND_MIB = 96
RESP = b"\r\n"

REPLIES: dict[str, bytes] = {
    "nothing": b"",
    "an empty line": b"\r\n",
    "an unknown type": b"@5\r\n",
    "a string for numbers": b"+OK\r\n",
    "an error without text": b"-\r\n",
    "an error of NULs": b"-\0\0\0\r\n",
    "an error that is no UTF-8": b"-\xff\xfe\xfd\r\n",
    "a long error": b"-" + b"x" * 100_000 + RESP,
    "MOVED nowhere": b"-MOVED\r\n",
    "MOVED with nonsense": b"-MOVED 99999999999 \xff\xfe:70000\r\n",
    "MOVED to itself": b"-MOVED 1 127.0.0.1:%PORT%\r\n",
    "ASK to itself": b"-ASK 1 127.0.0.1:%PORT%\r\n",
    "ASK nowhere": b"-ASK 1 :0\r\n",
    "NOSCRIPT for ever": b"-NOSCRIPT No matching script\r\n",
    "LOADING": b"-LOADING Redis is loading\r\n",
    "READONLY": b"-READONLY You can't write\r\n",
    "NOAUTH": b"-NOAUTH Authentication required.\r\n",
    "OOM": b"-OOM command not allowed\r\n",
    "TRYAGAIN": b"-TRYAGAIN x\r\n",
    "the least integer": b":-9223372036854775808\r\n",
    "the greatest integer": b":9223372036854775807\r\n",
    "an integer too great": b":92233720368547758070\r\n",
    "an integer without digits": b":\r\n",
    "an array of nothing": b"*0\r\n",
    "the nil array": b"*-1\r\n",
    "an array of length -2": b"*-2\r\n",
    "a nil string": b"$-1\r\n",
    "a string of length -2": b"$-2\r\n",
    "an endless string": b"$536870912\r\nabc",
    "a string longer than 64 bits": b"$99999999999999999999\r\nabc",
    "an array of 2^31-1": b"*2147483647\r\n",
    "an array of 2^32": b"*4294967296\r\n",
    "an array of 2^31-1, in pieces": b"*|2147483647|\r\n",
    "an array of 2^31-1 within one": b"*2\r\n:1\r\n*2147483647\r\n",
    "a map of 2^31-1": b"%2147483647\r\n",
    "a set of 2^31-1": b"~2147483647\r\n",
    "nesting": b"*1\r\n" * 5000 + b":1\r\n",
    "nesting of 7": b"*1\r\n" * 7 + b":1\r\n",
    "extreme numbers": b"*6\r\n" + b":-9223372036854775808\r\n" * 6,
    "other extreme numbers": b"*6\r\n" + b":9223372036854775807\r\n" * 6,
    "60 numbers": b"*60\r\n" + b":9223372036854775807\r\n" * 60,
    "numbers as strings": b"*4\r\n" + b"$19\r\n9223372036854775807\r\n" * 4,
    "strings that are no numbers": b"*4\r\n" + b"$3\r\n\xff\xfex\r\n" * 4,
    "an array of nils": b"*6\r\n" + b"$-1\r\n" * 6,
    "an array of errors": b"*4\r\n" + b"-ERR x\r\n" * 4,
    "a double": b",nan\r\n",
    "infinity": b",inf\r\n",
    "a boolean": b"#t\r\n",
    "a null": b"_\r\n",
    "a big number": b"(3492890328409238509324850943850943825024385\r\n",
    "a push": b">2\r\n+message\r\n+x\r\n",
    "a push, and then the reply": b">2\r\n+message\r\n+x\r\n%REAL%",
    "a thousand pushes": b">2\r\n+message\r\n+x\r\n" * 1000 + b"%REAL%",
    "the reply twice": b"%REAL%%REAL%",
    "the reply five times": b"%REAL%" * 5,
    "one reply too many, first": b":1\r\n%REAL%",
    "a flood": b"%FLOOD%",
    "a flood of one line": b"%FLOODLINE%",
}


class Proxy(threading.Thread):
    """Passes on, and does what `harm(reply, send)` does to the server's bytes."""

    def __init__(self, port: int) -> None:
        super().__init__(daemon=True)
        self.server = port
        self.socket = socket.socket()
        self.socket.bind(("127.0.0.1", 0))
        self.socket.listen(64)
        self.port: int = self.socket.getsockname()[1]
        self.harm: Callable[[bytes, socket.socket], bool] | None = None
        """Sends what is to be sent; whether the connection goes on."""
        self.passed = 0
        self.connections: set[socket.socket] = set()
        self.start()

    def run(self) -> None:
        while True:
            try:
                client, _ = self.socket.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        server = socket.create_connection(("127.0.0.1", self.server))
        self.connections |= {client, server}
        threading.Thread(target=self._requests, args=(client, server), daemon=True).start()
        with contextlib.suppress(OSError):
            while bytes_ := server.recv(65536):
                self.passed += len(bytes_)
                if self.harm is None:
                    client.sendall(bytes_)
                elif not self.harm(bytes_, client):
                    break
        self._end(client, server)

    def _requests(self, client: socket.socket, server: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while bytes_ := client.recv(65536):
                server.sendall(bytes_)
        self._end(client, server)

    def _end(self, *sockets: socket.socket) -> None:
        for one in sockets:
            self.connections.discard(one)
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
            one.close()

    def drop_all(self) -> None:
        self._end(*self.connections.copy())


class Harms:
    """Makes the function that a proxy calls for the server's bytes."""

    @staticmethod
    def cut(at: int, then: str) -> Callable[[bytes, socket.socket], bool]:
        """The stream is cut at byte `at`: then it is closed, reset, silent, or goes on later."""
        sent = [0]

        def harm(bytes_: bytes, client: socket.socket) -> bool:
            if sent[0] >= at:
                sent[0] += len(bytes_)
                if then in ("goes on", "is turned"):
                    client.sendall(bytes_)
                return then != "closes"
            here = at - sent[0]
            sent[0] += len(bytes_)
            if here > len(bytes_):
                client.sendall(bytes_)
                return True
            client.sendall(bytes_[:here])
            match then:
                case "closes":
                    return False
                case "resets":
                    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                    client.close()
                    return False
                case "goes on":
                    time.sleep(0.01)
                    client.sendall(bytes_[here:])
                case "is turned":
                    rest = bytes_[here:]
                    client.sendall(bytes((rest[0] ^ 0x15,)) + rest[1:] if rest else b"")
            return True

        return harm

    @staticmethod
    def replaced(reply: bytes, port: int, greeting: bool) -> Callable[[bytes, socket.socket], bool]:
        """Every reply is another one; without `greeting`, only those of scripts."""

        def harm(real: bytes, client: socket.socket) -> bool:
            if not greeting and re.match(rb"%|\*\d+\r\n\$6\r\nserver|\+OK|-NOSCRIPT|\$40", real):
                client.sendall(real)
                return True
            if reply.startswith(b"%FLOOD"):
                one = b"x" * 65536 if reply == b"%FLOODLINE%" else b":1\r\n" * 16384
                with contextlib.suppress(OSError):
                    client.sendall(b"+" if reply == b"%FLOODLINE%" else b"")
                    end = time.monotonic() + 3
                    for _ in range(4000):
                        client.sendall(one)
                        if time.monotonic() > end:
                            break
                return False
            text = reply.replace(b"%REAL%", real).replace(b"%PORT%", str(port).encode())
            for i, piece in enumerate(text.split(b"|")):
                if i:
                    time.sleep(0.01)
                client.sendall(piece)
            return True

        return harm


def _resident_kib() -> int:
    with open("/proc/self/statm") as statm:
        return int(statm.read().split()[1]) * (resource.getpagesize() // 1024)


class Hostile:
    """One of the moments is one kind of harm."""

    harms_in_c = False
    CUTS = ("closes", "is silent", "goes on", "is turned", "resets")
    ENTRIES = ("limit", "wait", "peek", "semaphore")

    def __init__(self, name: str) -> None:
        self.name = name

    def applies(self, operation: Operation) -> bool:
        return operation.store == "hostile"

    def begin(self, session: Session) -> int:
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        if "asan" not in os.environ.get("LD_PRELOAD", ""):
            resource.setrlimit(resource.RLIMIT_AS, (6 << 30, 6 << 30))
        self.proxy = Proxy(int(os.environ[REDIS_PORT]))
        _, _, loop = session.operation.name.partition("@")
        self.loop = session.loop if loop else None
        self.entry = session.operation.name.partition(".")[2].partition("@")[0]
        self._ask(self._world())
        passed = self.proxy.passed
        self._ask(self._world())
        self.bytes = self.proxy.passed - passed
        if self.name == "hostile-cuts":
            return (self.bytes + 1) * len(self.CUTS)
        return 2 * len(REPLIES)

    def _world(self) -> Any:
        """A store and what is asked of it."""
        url = (
            f"redis://127.0.0.1:{self.proxy.port}/0?timeout={TIMEOUT_S}&connect_timeout={TIMEOUT_S}"
        )
        store = headway.RedisStore(url)
        key = operations.unique("hostile")
        kind = headway.asyncio.Throttled if self.loop else headway.Throttled
        if self.entry == "semaphore":
            from headway.limiters import AsyncSemaphore, SyncSemaphore

            made: Any = AsyncSemaphore if self.loop else SyncSemaphore
            return store, made(key, 2, max_sleep=1, connection=store)
        quota, timeout = ("50/s burst 1", 2.0) if self.entry == "wait" else (MANY, -1.0)
        return store, kind(key, quota=quota, timeout=timeout, store=store)

    def _ask(self, world: Any) -> Any:
        _store, limiter = world
        if self.loop is None:
            return self._sync(limiter)
        return self.loop.run_until_complete(asyncio.wait_for(self._async(limiter), 30))

    def _sync(self, limiter: Any) -> Any:
        match self.entry:
            case "semaphore":
                with limiter:
                    return True
            case "wait":
                return limiter.limit() and limiter.limit()
            case "peek":
                return limiter.peek()
        return limiter.limit()

    async def _async(self, limiter: Any) -> Any:
        match self.entry:
            case "semaphore":
                async with limiter:
                    return True
            case "wait":
                return await limiter.limit() and await limiter.limit()
            case "peek":
                return await limiter.peek()
        return await limiter.limit()

    def moment(self, session: Session, n: int) -> str:
        if self.name == "hostile-cuts":
            at, then = (n - 1) // len(self.CUTS), self.CUTS[(n - 1) % len(self.CUTS)]
            title = f"byte {at} of {self.bytes}, then it {then}"
            self.proxy.harm = Harms.cut(at, then)
        else:
            title, reply = list(REPLIES.items())[(n - 1) // 2]
            greeting = n % 2 == 0
            title += ", to the greeting too" if greeting else ""
            self.proxy.harm = Harms.replaced(reply, self.proxy.port, greeting)
        world = self._world()
        before, begun = _resident_kib(), time.monotonic()
        problem, value = "", None
        try:
            value = self._ask(world)
        except (BaseThrottledError, MaxSleepExceededError):
            pass
        except BaseException as error:
            problem = f"it raised {error!r:.300}"
        took, grew = time.monotonic() - begun, (_resident_kib() - before) // 1024
        if took > BOUND_S:
            problem = problem or f"it took {took:.1f} s with a timeout of {TIMEOUT_S} s"
        if grew > BOUND_MIB:
            problem = problem or f"it grew by {grew} MiB"
        if not problem and title.endswith("goes on") and not value:
            problem = f"pieces of a reply, and it returned {value!r}" if value is not None else ""
        self.proxy.harm = None
        self.proxy.drop_all()
        problem = problem or self._recovers(world)
        with contextlib.suppress(BaseThrottledError):
            world[0].close()
        return f"{title}: {problem}" if problem else ""

    def _recovers(self, world: Any) -> str:
        """The server behaves again: soon the store does too."""
        end, last = time.monotonic() + 10, None
        while time.monotonic() < end:
            try:
                value = self._ask(world)
            except (BaseThrottledError, MaxSleepExceededError) as error:
                last = error
                time.sleep(0.01)
                continue
            except BaseException as error:
                return f"afterwards it raises {error!r:.300}"
            return "" if value is not None else f"afterwards it returns {value!r}"
        return f"10 s after the server behaves again: {last!r:.300}"


TORMENTS = [Hostile("hostile-cuts"), Hostile("hostile-replies")]

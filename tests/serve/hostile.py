"""What hostile clients do to a service, one function for each kind.

Each is given a `Target` and does its kind for a fraction of a second. None expects a certain
answer: what they get is whatever the service makes of them. `python hostile.py HOST PORT SEED
SECONDS [KIND]` does all of them, in an order by chance, and prints how often each was done. A third
of the time is for those that fill what the service keeps, so that what grows after that is a leak.
"""

from __future__ import annotations

import contextlib
import json
import random
import socket
import struct
import sys
import time
from collections.abc import Callable, Iterator

TENANTS = tuple(f"hostile-{number}" for number in range(4))
"""Tenants whose programs mean no good."""
TOKENS = {f"a-token-of-{name}-{number}": name for name in TENANTS for number in range(10)}
BARE = b"GET / HTTP/1.1\r\n\r\n"
STYLE = b"GET /static/style.css HTTP/1.1\r\nHost: localhost\r\n\r\n"
_LONGEST_S = 1.0


class Target:
    """The service, chance, and the requests that were sent."""

    def __init__(self, address: tuple[str, int], seed: int) -> None:
        self.address, self.chance, self.sent = address, random.Random(seed), 0

    @contextlib.contextmanager
    def socket(self, small: bool = False) -> Iterator[socket.socket]:
        """A connection; `small`: one whose other side can send little that is not read."""
        with socket.socket() as sock:
            if small:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2048)
            sock.settimeout(_LONGEST_S)
            sock.connect(self.address)
            yield sock

    def request(
        self, path: str, data: object = None, head: str = "", token: str | None = None
    ) -> bytes:
        """A request of one of the hostile tenants. It counts as sent."""
        self.sent += 1
        body = (
            b"" if data is None else data if isinstance(data, bytes) else json.dumps(data).encode()
        )
        token = token or self.chance.choice(list(TOKENS))
        method = "GET" if data is None else "POST"
        lines = f"{method} {path} HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {token}\r\n"
        return f"{lines}{head}Content-Length: {len(body)}\r\n\r\n".encode() + body

    def ask(self, sock: socket.socket, data: bytes) -> bytes:
        """Send a request and read its answer as a whole."""
        sock.sendall(data)
        said = b""
        while b"\r\n\r\n" not in said:
            part = sock.recv(1 << 20)
            if not part:
                return said
            said += part
        head, _, rest = said.partition(b"\r\n\r\n")
        size = int(head.lower().partition(b"content-length: ")[2].split()[0])
        while len(rest) < size:
            part = sock.recv(1 << 20)
            if not part:
                break
            rest += part
        return rest

    def push(self, sock: socket.socket, data: bytes, seconds: float = 0.3) -> None:
        """Send what is taken within some time."""
        sock.setblocking(False)
        at, end = 0, time.monotonic() + seconds
        while at < len(data) and time.monotonic() < end:
            try:
                at += sock.send(data[at : at + 65_536])
            except BlockingIOError:
                time.sleep(0.01)

    def name(self, length: int = 12) -> str:
        """A name that was not used before."""
        return f"{self.chance.getrandbits(64):x}".ljust(length, "ß")

    def rounds(self, count: int) -> Iterator[int]:
        """So many rounds, or as many as there is time for."""
        end = time.monotonic() + _LONGEST_S
        for number in range(count):
            if time.monotonic() > end:
                return
            yield number


FILLING = (
    *("many_keys", "many_keys_used_up", "many_periods", "many_rules", "many_rates"),
    *("many_questions", "large_bodies_that_may_come_again", "large_answers_that_may_come_again"),
)
KINDS: dict[str, Callable[[Target], None]] = {}


def kind(function: Callable[[Target], None]) -> Callable[[Target], None]:
    KINDS[function.__name__] = function
    return function


@kind
def unread_answers(target: Target) -> None:
    with target.socket(small=True) as sock:
        for _ in target.rounds(400):
            target.sent += 1
            target.push(sock, STYLE, 0.02)
        time.sleep(0.2)


@kind
def unread_lists(target: Target) -> None:
    with target.socket(small=True) as sock:
        target.push(sock, target.request("/v1/keys?limit=1000") * 20)


@kind
def pipelines(target: Target) -> None:
    target.sent += 10_000
    with target.socket(small=True) as sock:
        target.push(sock, BARE * 10_000)


@kind
def pipelines_that_are_read(target: Target) -> None:
    target.sent += 300
    with target.socket() as sock:
        sock.sendall(BARE * 300)
        for _ in target.rounds(1000):
            if not sock.recv(1 << 20):
                return


@kind
def pipelines_behind_a_wait(target: Target) -> None:
    wait = {"key": target.name(), "quota": "1/m", "timeout": 60}
    with target.socket() as sock:
        sock.sendall(target.request("/v1/limit", wait) * 2)
        target.push(sock, BARE * 3_000)


@kind
def slow_heads(target: Target) -> None:
    with contextlib.ExitStack() as stack:
        for start in (b"", b"GET / HT", b"GET / HTTP/1.1\r\n", b"\r\n\r\n") * 4:
            stack.enter_context(target.socket()).sendall(start)
        time.sleep(0.3)


@kind
def slow_bodies(target: Target) -> None:
    whole = target.request("/v1/limit", {"key": target.name(60_000), "quota": "1/s"})
    with contextlib.ExitStack() as stack:
        for _ in range(8):
            stack.enter_context(target.socket()).sendall(whole[: target.chance.randrange(60_000)])
        time.sleep(0.3)


def _batches(target: Target, quota: Callable[[], str], length: int = 12) -> None:
    with target.socket() as sock:
        for _ in target.rounds(20):
            asked = [{"key": target.name(length), "quota": quota()} for _ in range(50)]
            target.ask(sock, target.request("/v1/limit", {"requests": asked}))


@kind
def many_keys(target: Target) -> None:
    _batches(target, lambda: "100/m", 400)


@kind
def many_keys_used_up(target: Target) -> None:
    _batches(target, lambda: "1/3650d")


@kind
def many_periods(target: Target) -> None:
    def quota() -> str:
        one, other = target.chance.sample(range(1, 10**8), 2)
        return f"1/{one}s; 5/{other}s"

    _batches(target, quota)


@kind
def many_rules(target: Target) -> None:
    _batches(
        target, lambda: ";".join(f"{target.chance.randrange(1, 99)}/{n}s" for n in range(1, 30))
    )


@kind
def many_rates(target: Target) -> None:
    with target.socket() as sock:
        for _ in target.rounds(100):
            rate = target.chance.random() * 1000
            query = f"key=k&request_capacity=9&request_refill_rate={rate!r}&token_capacity=5"
            target.ask(
                sock, target.request(f"/choked/acquire?{query}&token_refill_rate={rate / 3!r}")
            )


@kind
def many_tokens(target: Target) -> None:
    with target.socket() as sock:
        for _ in target.rounds(200):
            token = target.name(30).replace("ß", "x")
            target.ask(sock, target.request("/v1/limit", {"key": "k"}, token=token))


@kind
def many_questions(target: Target) -> None:
    """Bodies that are never the same, which no cache holds."""
    with target.socket() as sock:
        for _ in target.rounds(200):
            cost = target.chance.randrange(10**9)
            question = {"key": target.name(), "quota": f"{cost + 1}/m", "cost": cost}
            target.ask(sock, target.request("/v1/limit", question))


@kind
def large_bodies_that_may_come_again(target: Target) -> None:
    body = b'{"key": "k", "quota": "1000000/s"}'.ljust(60_000)
    with target.socket() as sock:
        for _ in target.rounds(100):
            head = f"Idempotency-Key: {target.name().replace('ß', 'x')}\r\n"
            target.ask(sock, target.request("/v1/limit", body, head))


@kind
def large_answers_that_may_come_again(target: Target) -> None:
    asked = [{"key": "k", "quota": "1000000/s"}] * 100
    with target.socket() as sock:
        for _ in target.rounds(50):
            head = f"Idempotency-Key: {target.name().replace('ß', 'x')}\r\n"
            target.ask(sock, target.request("/v1/limit", {"requests": asked}, head))


@kind
def waits_that_are_left(target: Target) -> None:
    wait = {"key": target.name(), "quota": "1/10s", "timeout": 60}
    with contextlib.ExitStack() as stack:
        for _ in range(8):
            head = f"Idempotency-Key: {target.name().replace('ß', 'x')}\r\n"
            stack.enter_context(target.socket()).sendall(target.request("/v1/limit", wait, head))
        time.sleep(0.2)


@kind
def searches(target: Target) -> None:
    with target.socket() as sock:
        for _ in target.rounds(20):
            target.ask(sock, target.request(f"/v1/keys?search={target.chance.randrange(99)}"))


@kind
def lists(target: Target) -> None:
    with target.socket() as sock:
        for _ in target.rounds(10):
            sort = target.chance.choice(("key", "remaining", "recent", "denied"))
            target.ask(sock, target.request(f"/v1/keys?limit=1000&sort={sort}"))


@kind
def metrics(target: Target) -> None:
    with target.socket() as sock:
        for _ in target.rounds(50):
            target.ask(sock, target.request("/metrics"))


@kind
def large_heads(target: Target) -> None:
    for size in (20_000, 33_000, 200_000):
        with target.socket() as sock:
            target.push(sock, target.request("/healthz", None, f"X: {'y' * size}\r\n"))
            sock.settimeout(0.3)
            sock.recv(1000)


@kind
def many_headers(target: Target) -> None:
    for count in (100, 1_000, 10_000):
        with target.socket() as sock:
            target.push(sock, target.request("/healthz", None, "a:b\r\n" * count))
            sock.settimeout(0.3)
            sock.recv(1000)


@kind
def no_http(target: Target) -> None:
    starts = (b"\x16\x03\x01\x02\x00", b"GET /healthz\r\n\r\n", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")
    for start in (*starts, b"HELO x\r\n\r\n", b"CONNECT x:1 HTTP/1.1\r\n\r\n", b"\0" * 1000):
        target.sent += 1
        with target.socket() as sock:
            sock.sendall(start + target.chance.randbytes(100))
            sock.settimeout(0.2)
            sock.recv(1000)


@kind
def wrong_lengths(target: Target) -> None:
    for head in (
        "Transfer-Encoding: chunked\r\n\r\n" + "1\r\nx\r\n" * 2_000,
        "Transfer-Encoding: chunked\r\n\r\nfffffff\r\n" + "x" * 100_000,
        "Content-Length: 999999999\r\n\r\n" + "x" * 2_000_000,
    ):
        target.sent += 1
        token = target.chance.choice(list(TOKENS))
        start = f"POST /v1/limit HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {token}\r\n"
        with target.socket() as sock:
            target.push(sock, (start + head).encode())


@kind
def no_json(target: Target) -> None:
    with target.socket() as sock:
        for body in (
            b"[" * 60_000,
            b"{" * 60_000,
            b'{"key": ' + b"9" * 6_000 + b"}",
            b"\xff" * 60_000,
        ):
            target.ask(sock, target.request("/v1/limit", body))


@kind
def upgrades(target: Target) -> None:
    head = "Connection: upgrade\r\nUpgrade: websocket\r\n"
    with target.socket() as sock:
        for _ in target.rounds(50):
            target.ask(sock, target.request("/healthz", None, head))


@kind
def many_connections(target: Target) -> None:
    with contextlib.ExitStack() as stack:
        for _ in target.rounds(100):
            target.sent += 1
            stack.enter_context(target.socket()).sendall(BARE)


@kind
def resets(target: Target) -> None:
    for _ in target.rounds(100):
        with target.socket() as sock:
            sock.sendall(target.request("/v1/limit", {"key": target.name(), "quota": "1/s"}))
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


@kind
def half_closed(target: Target) -> None:
    for _ in target.rounds(30):
        with target.socket() as sock:
            sock.sendall(target.request("/v1/limit", {"key": "k", "quota": "1/s"}))
            sock.shutdown(socket.SHUT_WR)
            sock.settimeout(0.2)
            sock.recv(1000)


def main(host: str, port: str, seed: str, seconds: str, *only: str) -> None:
    """Do the kinds, or some of them, for some seconds."""
    target = Target((host, int(port)), int(seed))
    done = dict.fromkeys(only or KINDS, 0)
    started = time.monotonic()
    end, filled = started + float(seconds), started + float(seconds) / 3
    while time.monotonic() < end:
        filling = [name for name in FILLING if name in done and time.monotonic() < filled]
        names = filling or list(done)
        target.chance.shuffle(names)
        for name in names:
            if time.monotonic() < end:
                with contextlib.suppress(OSError, ValueError, IndexError):
                    KINDS[name](target)
                done[name] += 1
    print(json.dumps({"sent": target.sent, "done": done}))


if __name__ == "__main__":
    main(*sys.argv[1:])

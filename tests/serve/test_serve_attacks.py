"""Clients that mean no good: slow ones, very many, those that send no HTTP.

Each test ends by asking the same process something ordinary.
"""

from __future__ import annotations

import contextlib
import random
import resource
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from service_help import ALICE, OPS, ServiceProcess, read_all, until

from effort import rounds

TOKENS = [f"alice:{ALICE}", f"ops:{OPS}:admin"]
QUESTION = {"key": "k", "quota": "1000/s"}
HEAD = f"POST /v1/limit HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {ALICE}\r\n".encode()


@pytest.fixture(scope="module")
def hasty() -> Iterator[ServiceProcess]:
    """A service that gives clients a second."""
    options = ["--header-timeout", "1", "--body-timeout", "1", "--keep-alive", "2"]
    with ServiceProcess(*options, tokens=TOKENS) as service:
        yield service


def works(service: ServiceProcess) -> bool:
    return service.post("/v1/limit", QUESTION, ALICE).status == 200


def lasts(sock: socket.socket, drip: bytes, pause: float = 0.2) -> tuple[float, bytes]:
    """How long the other side stands being sent `drip` again and again, and what it says."""
    started = time.monotonic()
    sock.settimeout(pause)
    said = b""
    while time.monotonic() - started < 20:
        try:
            with contextlib.suppress(TimeoutError):
                part = sock.recv(65536)
                said += part
                if not part:
                    return time.monotonic() - started, said
            sock.sendall(drip)
        except OSError:
            return time.monotonic() - started, said
    raise AssertionError("it was never cut off")


class TestSlowOnes:
    @pytest.mark.parametrize(
        ("start", "drip"),
        [
            pytest.param(b"", b"", id="who connects and says nothing"),
            pytest.param(b"", b"\r\n", id="who sends blank lines"),
            pytest.param(b"GET / HT", b"", id="who stops in the request line"),
            pytest.param(b"GET / HTTP/1.1\r\n", b"X: y\r\n", id="who drips headers"),
            pytest.param(b"GET /", b"x", id="who drips a path"),
            pytest.param(HEAD + b"Content-Length: 999\r\n\r\n", b"x", id="who drips a body"),
            pytest.param(
                HEAD + b"Transfer-Encoding: chunked\r\n\r\n", b"1\r\nx\r\n", id="who drips chunks"
            ),
            pytest.param(
                HEAD + b"Transfer-Encoding: chunked\r\n\r\n0\r\n", b"X: y\r\n", id="trailers"
            ),
            pytest.param(
                b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n", b"\r\n", id="who pauses with blanks"
            ),
            pytest.param(
                b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\nGET / HT", b"", id="a second request"
            ),
            pytest.param(
                b"POST /v1/limit HTTP/1.1\r\nHost: x\r\nContent-Length: 999\r\n\r\n",
                b"x",
                id="who has no token and drips a body",
            ),
        ],
    )
    def test_they_are_cut_off(self, hasty: ServiceProcess, start: bytes, drip: bytes) -> None:
        with hasty.socket() as sock:
            sock.sendall(start)
            seconds, _ = lasts(sock, drip)
        assert seconds < 10
        assert works(hasty)

    def test_one_that_is_cut_off_is_told_why(self, hasty: ServiceProcess) -> None:
        with hasty.socket() as sock:
            sock.sendall(b"GET / HT")
            assert read_all(sock).startswith(b"HTTP/1.1 408 ")

    def test_one_that_never_reads_is_cut_off(self) -> None:
        """It asks for long lists of keys and reads none."""
        options = ["--header-timeout", "1", "--body-timeout", "1"]
        with ServiceProcess(*options, tokens=TOKENS) as service:
            many = [{"key": f"{n:0900}", "quota": "1/s"} for n in range(60)]
            for _ in range(4):
                for question in many:
                    question["key"] = str(random.random()) + str(question["key"])[20:]
                assert service.post("/v1/limit", {"requests": many}, ALICE).status == 200
            ask = f"GET /v1/keys?limit=1000 HTTP/1.1\r\nAuthorization: Bearer {ALICE}\r\n\r\n"
            with service.socket() as sock:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)

                def cut_off() -> bool:
                    try:
                        sock.settimeout(0.1)
                        sock.sendall(ask.encode() * 20)
                    except TimeoutError:
                        return False
                    except OSError:
                        return True
                    return False

                until(cut_off, "who reads nothing is cut off")
            assert works(service)

    def test_one_that_is_kept_waiting_is_not_slow(self, hasty: ServiceProcess) -> None:
        """The wait is the service's; meanwhile the connection is silent for three seconds."""
        question = {"key": "waits", "quota": "1/3s"}
        hasty.post("/v1/limit", question, ALICE)
        said = hasty.post("/v1/limit", {**question, "timeout": 10}, ALICE)
        assert said.status == 200
        assert not said.json["limited"]

    def test_one_that_sends_a_request_now_and_then_stays(self, hasty: ServiceProcess) -> None:
        connection = hasty.connect()
        for _ in range(8):
            assert hasty.ask("GET", "/healthz", over=connection).status == 200
            sock = connection.sock
            time.sleep(0.3)  # 2.4 s in all, of the 2 that it may be idle
            assert connection.sock is sock
        connection.close()


class TestManyOfThem:
    @pytest.mark.rounds
    def test_thousands_of_connections_leave_room_for_others(self) -> None:
        """Not more than this process may open; each has sent half a request."""
        _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        wanted = rounds(1_000, 10_000)
        if hard != resource.RLIM_INFINITY:
            wanted = min(wanted, hard - 500)
        if soft != resource.RLIM_INFINITY and soft < wanted + 500:
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted + 500, hard))
        options = ["--header-timeout", "60", "--max-connections", str(wanted + 10)]
        with ServiceProcess(*options, tokens=TOKENS) as service, contextlib.ExitStack() as stack:
            for _ in range(wanted):
                sock = stack.enter_context(service.socket())
                sock.sendall(b"GET / HTTP/1.1\r\nHost:")
            assert works(service)
            started = time.monotonic()
            for _ in range(100):
                assert works(service)
            assert time.monotonic() - started < 60
            metrics = service.get("/metrics", OPS).body.decode()
            (line,) = (
                line
                for line in metrics.splitlines()
                if line.startswith("headway_serve_connections ")
            )
            assert float(line.split()[1]) > wanted

    def test_more_than_are_let_in_are_turned_away_and_the_others_served(self) -> None:
        with ServiceProcess("--max-connections", "5", tokens=TOKENS) as service:
            kept = [service.connect() for _ in range(5)]
            for connection in kept:
                assert service.ask("GET", "/healthz", over=connection).status == 200
            with service.socket() as more:
                assert read_all(more).startswith(b"HTTP/1.1 503 ")
            for connection in kept:
                assert service.ask("GET", "/healthz", over=connection).status == 200
                connection.close()
            until(lambda: works(service), "there is room again")

    @pytest.mark.skipif(shutil.which("wrk") is None, reason="wrk is not installed")
    def test_a_load_generator_sees_no_errors(self, hasty: ServiceProcess, tmp_path: Path) -> None:
        script = tmp_path / "ask.lua"
        script.write_text(
            'wrk.method = "POST"\n'
            'wrk.body = \'{"key": "load", "quota": "50/h"}\'\n'
            f'wrk.headers["Authorization"] = "Bearer {ALICE}"\n'
        )
        done = subprocess.run(
            ["wrk", "-t1", "-c100", "-d1", "-s", str(script), f"{hasty.url}/v1/limit"],
            capture_output=True,
            text=True,
            timeout=60,
            check=True,
        )
        assert "Non-2xx" not in done.stdout
        assert "Socket errors" not in done.stdout
        (row,) = hasty.get("/v1/keys", ALICE, search="load").json["keys"]
        assert row["admitted"] == 50
        assert row["denied"] > 0  # there are a hundred connections


class TestNoHttp:
    @pytest.mark.parametrize(
        "request_bytes",
        [
            b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
            b"HELO x\r\n\r\n",
            b"GET\r\n\r\n",
            b"GET / HTTP/9.9\r\n\r\n",
            b"GET / HTTP/1.1\r\nHost x\r\n\r\n",
            b"GET / HTTP/1.1\r\nX\0Y: z\r\n\r\n",
            b"GET /\xff\xfe HTTP/1.1\r\nHost: x\r\n\r\n",
            b"GET http://[::1 HTTP/1.1\r\nHost: x\r\n\r\n",
            b"POST /v1/limit HTTP/1.1\r\nContent-Length: -1\r\n\r\n",
            b"POST /v1/limit HTTP/1.1\r\nContent-Length: 99999999999999999999999\r\n\r\n",
            b"POST /v1/limit HTTP/1.1\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nxx",
            b"POST / HTTP/1.1\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
            b"POST /v1/limit HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
            b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        ],
    )
    def test_it_is_answered_by_400_and_the_end(
        self, hasty: ServiceProcess, request_bytes: bytes
    ) -> None:
        with hasty.socket() as sock:
            sock.sendall(request_bytes)
            said = read_all(sock)
        assert said == b"" or said.split(b" ", 2)[1][:1] == b"4", said
        assert works(hasty)

    def test_a_head_without_end_is_cut_off(self, hasty: ServiceProcess) -> None:
        for start in (b"GET / HTTP/1.1\r\n", b"GET /"):
            with hasty.socket() as sock:
                sock.sendall(start)
                sent = 0
                with contextlib.suppress(OSError):
                    while sent < 100_000_000:
                        sent += sock.send((b"X: " + b"y" * 990 + b"\r\n") * 50)
                assert sent < 20_000_000
        assert works(hasty)

    def test_an_upgrade_is_not_followed(self, hasty: ServiceProcess) -> None:
        with hasty.socket() as sock:
            sock.sendall(
                b"GET /healthz HTTP/1.1\r\nHost: x\r\nConnection: upgrade\r\n"
                b"Upgrade: websocket\r\nSec-WebSocket-Key: x\r\n\r\n"
            )
            assert b" 101 " not in sock.recv(1000)
        assert works(hasty)

    def test_requests_in_one_piece_are_answered_in_order(self, hasty: ServiceProcess) -> None:
        body = b'{"key": "pipelined", "quota": "100/h"}'
        one = HEAD + b"Content-Length: %d\r\n\r\n" % len(body) + body
        with hasty.socket() as sock:
            sock.sendall(one * 20 + b"GET /healthz HTTP/1.1\r\nConnection: close\r\n\r\n")
            said = read_all(sock)
        assert said.count(b"HTTP/1.1 200 OK") == 21
        remaining = [int(part.split(b",")[0]) for part in said.split(b'"remaining": ')[1:]]
        assert remaining == list(range(99, 79, -1))

    def test_who_leaves_before_the_first_of_them_is_answered_is_gone(self) -> None:
        body = b'{"key": "k", "quota": "1/m", "timeout": 60}'
        head = b"POST /v1/limit HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n"
        with ServiceProcess() as service:

            def waiting() -> bool:
                return b"\nheadway_serve_waiting 1.0\n" in service.get("/metrics").body

            sock = service.socket()
            sock.sendall((head % len(body) + body) * 3)
            until(waiting, "the second is kept waiting")
            sock.close()
            until(lambda: not waiting(), "it has left the line")
            assert service.stop() == 0
        assert "Traceback" not in service.log

    def test_bytes_at_random_do_no_harm(self, hasty: ServiceProcess) -> None:
        """Requests with a few bytes changed, cut, doubled or moved."""
        chance = random.Random(7)
        body = b'{"key": "fuzz", "quota": "10/s", "cost": 1, "using": "gcra"}'
        good = [
            HEAD + b"Content-Length: %d\r\n\r\n" % len(body) + body,
            HEAD + b"Transfer-Encoding: chunked\r\n\r\n3d\r\n" + body + b"\r\n0\r\n\r\n",
            f"GET /choked/acquire?key=k&request_capacity=5&request_refill_rate=1.5 HTTP/1.1\r\n"
            f"Host: x\r\nAuthorization: Bearer {ALICE}\r\nIdempotency-Key: 7\r\n\r\n".encode(),
            b"GET /v1/keys?search=%ff&sort=key HTTP/1.1\r\nHost: x\r\n\r\n",
        ]
        statuses = set()
        for _ in range(400):
            data = bytearray(chance.choice(good))
            for _ in range(chance.randint(1, 6)):
                at = chance.randrange(len(data))
                match chance.randrange(4):
                    case 0:
                        data[at] = chance.randrange(256)
                    case 1:
                        del data[at : at + chance.randint(1, 10)]
                    case 2:
                        data[at:at] = data[: chance.randint(1, 30)]
                    case _:
                        data[at:at] = chance.randbytes(3)
                if not data:
                    data = bytearray(b"\0")
            with hasty.socket() as sock:
                sock.sendall(data)
                sock.shutdown(socket.SHUT_WR)
                said = read_all(sock)
            for part in said.split(b"HTTP/1.1 ")[1:]:
                statuses.add(int(part[:3]))
        assert 500 not in statuses
        assert {200, 400, 401} <= statuses
        assert hasty.process.poll() is None
        assert "Traceback" not in hasty.log
        assert works(hasty)

"""What a connection may cost: pipelined requests, answers that are not read, too many of them."""

from __future__ import annotations

import contextlib
import socket
import time
from pathlib import Path

import pytest
from service_help import ALICE, ServiceProcess, read_all, until

TOKENS = [f"alice:{ALICE}"]
BARE = b"GET / HTTP/1.1\r\n\r\n"
LAST = b"GET /healthz HTTP/1.1\r\nConnection: close\r\n\r\n"
QUESTION = {"key": "k", "quota": "1000/s"}
STYLE = b"GET /static/style.css HTTP/1.1\r\nHost: localhost\r\n\r\n"


def memory_mib(service: ServiceProcess) -> float:
    status = Path(f"/proc/{service.process.pid}/status")
    if not status.exists():
        pytest.skip("memory of a process is read from /proc")
    (line,) = (line for line in status.read_text().splitlines() if line.startswith("VmRSS"))
    return int(line.split()[1]) / 1024


def works(service: ServiceProcess) -> bool:
    return service.post("/v1/limit", QUESTION, ALICE).status == 200


def push(sock: socket.socket, data: bytes, seconds: float = 0.5) -> int:
    """Send what the other side takes within some time; return how much that was."""
    sock.setblocking(False)
    sent, end = 0, time.monotonic() + seconds
    while sent < len(data) and time.monotonic() < end:
        try:
            sent += sock.send(data[sent : sent + 262_144])
        except BlockingIOError:
            time.sleep(0.01)
        except OSError:
            break
    return sent


def silent(service: ServiceProcess, data: bytes) -> socket.socket:
    """A client that sends `data` and reads nothing."""
    sock = socket.socket()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2048)
    sock.connect(service.address)
    push(sock, data)
    return sock


def fill(sock: socket.socket, service: ServiceProcess) -> None:
    """Ask, and read nothing, until the kernel takes no more of the answers.

    The service is then left with the end of the last of them: less than it takes to call a
    connection congested.
    """
    last, same = -1, 0
    while same < 4:
        push(sock, STYLE, 1)
        time.sleep(0.02)
        queued = queue_of(service.address[1], sock.getsockname()[1])
        same = same + 1 if queued == last else 0
        last = queued


def queue_of(port: int, to: int) -> int:
    """Bytes in the kernel's queue from one port of this machine to another."""
    table = Path("/proc/net/tcp")
    if not table.exists():
        pytest.skip("the kernel's queues are read from /proc")
    for line in table.read_text().splitlines()[1:]:
        fields = line.split()
        if [int(fields[n].split(":")[1], 16) for n in (1, 2)] == [port, to]:
            return int(fields[4].split(":")[0], 16)
    return -2


class TestPipelinedRequests:
    def test_very_many_without_a_token_take_no_memory(self) -> None:
        with ServiceProcess(tokens=TOKENS) as service, contextlib.ExitStack() as stack:
            assert works(service)
            before = memory_mib(service)
            most = before
            for _ in range(8):
                stack.enter_context(silent(service, BARE * 30_000))
                most = max(most, memory_mib(service))
            assert works(service)
            assert max(most, memory_mib(service)) - before < 40

    def test_those_behind_one_that_waits_take_no_memory(self) -> None:
        with ServiceProcess() as service, contextlib.ExitStack() as stack:
            question = {"key": "k", "quota": "1/m"}
            service.post("/v1/limit", question)
            before = memory_mib(service)
            body = b'{"key": "k", "quota": "1/m", "timeout": 60}'
            head = b"POST /v1/limit HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n"
            for _ in range(8):
                sock = stack.enter_context(service.socket())
                sock.sendall(head % len(body) + body)
                time.sleep(0.05)
                push(sock, BARE * 30_000)
            assert service.get("/healthz").status == 200
            assert memory_mib(service) - before < 40

    def test_a_client_that_leaves_many_behind_one_that_waits_loses_its_place(self) -> None:
        """The connection is not read meanwhile."""
        body = b'{"key": "k", "quota": "1/m", "timeout": 60}'
        head = b"POST /v1/limit HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n"
        with ServiceProcess() as service:

            def waiting() -> bool:
                return b"\nheadway_serve_waiting 1.0\n" in service.get("/metrics").body

            sock = service.socket()
            sock.sendall((head % len(body) + body) * 2 + BARE * 2_000)
            until(waiting, "the second is kept waiting")
            sock.close()
            until(lambda: not waiting(), "it has left the line")

    def test_all_are_answered_to_a_client_that_reads(self) -> None:
        count = 5_000
        with ServiceProcess(tokens=TOKENS) as service, service.socket() as sock:
            sock.settimeout(60)
            data, said = BARE * count + LAST, bytearray()
            sock.setblocking(False)
            sent, end = 0, time.monotonic() + 60
            while time.monotonic() < end:
                with contextlib.suppress(BlockingIOError):
                    sent += sock.send(data[sent : sent + 65_536]) if sent < len(data) else 0
                with contextlib.suppress(BlockingIOError):
                    part = sock.recv(1 << 20)
                    if not part:
                        break
                    said += part
            assert said.count(b"HTTP/1.1 200 OK") == count + 1

    def test_bodies_among_them_arrive_whole(self) -> None:
        """Some of a few bytes, some of thousands; in pieces of all sizes."""
        sizes = [2, 300, 40_000, 2, 2, 60_000, 0, 9_000]
        data = b""
        for size in sizes:
            body = b'{"key": "k", "quota": "1000/h"' + b" " * size + b"}"
            body += b"\n" * size
            head = (
                b"POST /v1/limit HTTP/1.1\r\nAuthorization: Bearer %s\r\nContent-Length: %d\r\n\r\n"
            )
            data += head % (ALICE.encode(), len(body)) + body
        with ServiceProcess("--max-body", "200000", tokens=TOKENS) as service:
            for step in (len(data), 50_000, 4_001):
                with service.socket() as sock:
                    for at in range(0, len(data), step):
                        sock.sendall(data[at : at + step])
                    sock.sendall(LAST)
                    said = read_all(sock)
                assert said.count(b"HTTP/1.1 200 OK") == len(sizes) + 1, said[-300:]

    def test_what_follows_an_upgrade_is_answered(self) -> None:
        upgrade = (
            b"GET /healthz HTTP/1.1\r\nConnection: upgrade\r\nUpgrade: websocket\r\n"
            b"Sec-WebSocket-Key: x\r\n\r\n"
        )
        with ServiceProcess(tokens=TOKENS) as service:
            with service.socket() as sock:
                sock.sendall(upgrade * 3 + LAST)
                assert read_all(sock).count(b"HTTP/1.1 200 OK") == 4
            assert service.stop() == 0
        assert service.log == ""  # else any client could fill the log

    def test_an_error_is_not_given_as_the_answer_to_an_earlier_request(self) -> None:
        body = b'{"key": "w", "quota": "1/2s", "timeout": 10}'
        head = b"POST /v1/limit HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n"
        with ServiceProcess() as service:
            service.post("/v1/limit", {"key": "w", "quota": "1/2s"})
            with service.socket() as sock:
                sock.sendall(head % len(body) + body + b"NO HTTP AT ALL\r\n\r\n")
                said = read_all(sock)
        assert said.startswith(b"HTTP/1.1 200 OK")
        assert said.count(b"HTTP/1.1") == 1 or b"HTTP/1.1 400" in said.partition(b"retry_after")[2]


class TestHeads:
    @pytest.mark.parametrize("size", [40_000, 120_000])
    def test_one_that_is_too_large_is_refused_in_one_piece(self, size: int) -> None:
        with ServiceProcess(tokens=TOKENS) as service, service.socket() as sock:
            sock.sendall(b"GET /healthz HTTP/1.1\r\nX: " + b"y" * size + b"\r\n\r\n")
            assert read_all(sock).startswith(b"HTTP/1.1 431 ")

    def test_one_that_is_too_large_is_refused_in_many_pieces(self) -> None:
        with ServiceProcess(tokens=TOKENS) as service, service.socket() as sock:
            sock.sendall(b"GET /healthz HTTP/1.1\r\nX: ")
            with contextlib.suppress(OSError):
                for _ in range(5):
                    sock.sendall(b"y" * 8192)
                    time.sleep(0.05)
                sock.sendall(b"\r\n\r\n")
            assert read_all(sock).startswith(b"HTTP/1.1 431 ")

    def test_one_after_a_body_that_was_not_read_is_measured_too(self) -> None:
        body = b"x" * 20_000
        with ServiceProcess(tokens=TOKENS) as service, service.socket() as sock:
            sock.sendall(b"POST /v1/limit HTTP/1.1\r\nContent-Length: %d\r\n\r\n" % len(body))
            assert sock.recv(65_536).startswith(b"HTTP/1.1 401 ")
            sock.sendall(body + b"GET /healthz HTTP/1.1\r\nX: " + b"y" * 40_000 + b"\r\n\r\n")
            assert read_all(sock).startswith(b"HTTP/1.1 431 ")

    def test_one_of_very_many_headers_is_refused(self) -> None:
        with ServiceProcess(tokens=TOKENS) as service, service.socket() as sock:
            sock.sendall(b"GET /healthz HTTP/1.1\r\n" + b"a:b\r\n" * 5_000 + b"\r\n")
            assert read_all(sock).startswith(b"HTTP/1.1 431 ")

    def test_one_of_thirty_kilobytes_is_served(self) -> None:
        with ServiceProcess(tokens=TOKENS) as service, service.socket() as sock:
            head = b"GET /healthz HTTP/1.1\r\nConnection: close\r\n"
            sock.sendall(head + (b"X: " + b"y" * 400 + b"\r\n") * 70 + b"\r\n")
            assert read_all(sock).startswith(b"HTTP/1.1 200 ")

    def test_a_request_without_headers_as_in_the_first_http_is_refused(self) -> None:
        with ServiceProcess(tokens=TOKENS) as service, service.socket() as sock:
            sock.sendall(b"GET /healthz\r\n\r\n")
            assert b'"ok"' not in read_all(sock)
            assert works(service)


class TestAnswersThatAreNotRead:
    OPTIONS = ("--header-timeout", "1", "--body-timeout", "1", "--keep-alive", "1")

    def test_they_hold_no_place(self) -> None:
        """The kernel holds megabytes of answers; the last kilobytes are in the service."""
        with (
            ServiceProcess(*self.OPTIONS, "--max-connections", "3", tokens=TOKENS) as service,
            contextlib.ExitStack() as stack,
        ):
            for _ in range(3):
                fill(stack.enter_context(silent(service, b"")), service)
            until(lambda: service.get("/healthz").status == 200, "there is room for another")
            assert service.stop() == 0
        assert "ERROR" not in service.log

    def test_sending_more_requests_does_not_keep_the_place(self) -> None:
        with ServiceProcess(*self.OPTIONS, tokens=TOKENS) as service:
            sock = silent(service, b"")
            for _ in range(400):
                push(sock, STYLE, 0.05)

            def cut_off() -> bool:
                try:
                    sock.send(STYLE)
                except BlockingIOError:
                    return False
                except OSError:
                    return True
                time.sleep(0.2)
                return False

            until(cut_off, "a client that reads nothing is cut off", 30)
            sock.close()


class TestTooManyConnections:
    def test_the_answer_that_says_so_arrives(self) -> None:
        """A connection that is closed with bytes unread is reset, and its answer lost."""
        with ServiceProcess("--max-connections", "1", tokens=TOKENS) as service:
            kept = service.connect()
            assert service.ask("GET", "/healthz", over=kept).status == 200
            for _ in range(20):
                with service.socket() as sock:
                    sock.sendall(STYLE)
                    time.sleep(0.01)
                    sock.sendall(STYLE)
                    assert read_all(sock).startswith(b"HTTP/1.1 503 ")
            kept.close()

    def test_idle_ones_of_one_address_make_room_for_another(self) -> None:
        with (
            ServiceProcess("--max-connections", "8", tokens=TOKENS) as service,
            contextlib.ExitStack() as stack,
        ):
            for _ in range(8):
                sock = socket.socket()
                stack.enter_context(sock)
                try:
                    sock.bind(("127.0.0.2", 0))
                except OSError:
                    pytest.skip("this system has one loopback address")
                sock.connect(service.address)
                sock.sendall(STYLE)
                assert sock.recv(1000).startswith(b"HTTP/1.1 200 ")
            connections = [service.connect() for _ in range(4)]
            for connection in connections:
                assert service.ask("GET", "/healthz", over=connection).status == 200
            # Both have four now: from here on newcomers are turned away.
            statuses = [service.get("/healthz").status for _ in range(3)]
            assert statuses == [503, 503, 503]
            for connection in connections:
                connection.close()

    def test_one_that_is_answered_makes_no_room(self) -> None:
        body = b'{"key": "k", "quota": "1/2s", "timeout": 20}'
        head = b"POST /v1/limit HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n"
        with ServiceProcess("--max-connections", "2") as service:
            service.post("/v1/limit", {"key": "k", "quota": "1/2s"})
            with contextlib.ExitStack() as stack:
                waiting = []
                for _ in range(2):
                    sock = stack.enter_context(socket.socket())
                    try:
                        sock.bind(("127.0.0.2", 0))
                    except OSError:
                        pytest.skip("this system has one loopback address")
                    sock.connect(service.address)
                    sock.sendall(head % len(body) + body)
                    waiting.append(sock)
                time.sleep(0.1)
                assert service.get("/healthz").status == 503
                for sock in waiting:
                    sock.settimeout(20)
                    assert sock.recv(1000).startswith(b"HTTP/1.1 200 ")

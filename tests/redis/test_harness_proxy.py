"""The proxy of these tests does what it says, and wire.py reads what it should."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable, Iterator
from functools import partial

import pytest
from certificates import Certificates
from proxy import Proxy
from servers import RedisServer
from wire import RedisError, Wire, encode, frame_end, name_of


@pytest.fixture
def wire(proxy: Proxy) -> Iterator[Wire]:
    with Wire(proxy.address) as wire:
        yield wire


def read_to_end(sock: socket.socket) -> bytes:
    """All that comes before the connection ends; a reset counts as an end."""
    data = b""
    try:
        while piece := sock.recv(4096):
            data += piece
    except ConnectionResetError:
        pass
    return data


def test_an_honest_proxy_passes_all_on_and_counts_it(proxy: Proxy, wire: Wire) -> None:
    assert wire.command("SET", "key", "x" * 200_000) == "OK"
    assert wire.command("get", "key") == "x" * 200_000
    with Wire(proxy.address) as other:
        assert other.command("PING") == "PONG"
        assert proxy.links == 2
    assert proxy.requests == {"SET": 1, "GET": 1, "PING": 1}
    assert proxy.connections == 2
    assert proxy.bytes_in > 200_000
    assert proxy.bytes_out == len(b"+OK\r\n+PONG\r\n$200000\r\n\r\n") + 200_000


def test_requests_written_together_are_one_read_and_keep_their_order(
    proxy: Proxy, wire: Wire
) -> None:
    wire.socket.sendall(b"".join(encode("ECHO", n) for n in range(100)))
    assert [wire.read() for _ in range(100)] == [str(n) for n in range(100)]
    assert proxy.requests["ECHO"] == 100
    assert proxy.reads < 10


def test_the_proxy_s_url_has_the_server_s_credentials(acl_server: RedisServer) -> None:
    with Proxy(acl_server) as proxy:
        assert proxy.url == f"redis://:s3cret%2F%3A%40%25@127.0.0.1:{proxy.port}/0"


def test_a_cut_ends_all_connections_and_new_ones_are_taken(proxy: Proxy) -> None:
    with Wire(proxy.address) as one, Wire(proxy.address) as two:
        assert one.command("PING") == two.command("PING") == "PONG"
        proxy.cut()
        assert read_to_end(one.socket) == read_to_end(two.socket) == b""
    with Wire(proxy.address) as wire:
        assert wire.command("PING") == "PONG"


def test_a_cut_may_be_a_reset(proxy: Proxy, wire: Wire) -> None:
    wire.command("PING")
    proxy.cut(reset=True)
    with pytest.raises(ConnectionResetError):
        wire.socket.recv(100)


@pytest.mark.parametrize(("after", "executed"), [(0, 0), (1, 0), (20, 0), (-1, 0), (None, 1)])
def test_a_cut_request_is_executed_only_if_all_of_it_passed(
    proxy: Proxy,
    wire: Wire,
    server: RedisServer,
    eventually: Callable[..., None],
    after: int | None,
    executed: int,
) -> None:
    proxy.cut_request("incr", after=after)
    assert wire.command("SET", "other", 1) == "OK", "a fault met another command"
    before = server.info("clients")["connected_clients"]
    wire.send("INCR", "counter")
    assert read_to_end(wire.socket) == b""
    gone = str(int(before) - 1)
    eventually(lambda: server.info("clients")["connected_clients"] == gone, "the server's notice")
    assert int(server.command("GET", "counter") or 0) == executed
    assert proxy.requests["INCR"] == 1


@pytest.mark.parametrize("after", [0, 1, 5, None])
@pytest.mark.parametrize("reset", [False, True])
def test_a_cut_reply_was_executed_and_so_many_bytes_of_it_arrive(
    proxy: Proxy, wire: Wire, server: RedisServer, after: int | None, reset: bool
) -> None:
    server.command("SET", "key", "value")
    proxy.cut_reply("GETDEL", after=after, reset=reset)
    wire.send("GETDEL", "key")
    assert read_to_end(wire.socket) == b"$5\r\nvalue\r\n"[:after]
    assert server.command("GET", "key") is None


def test_a_fault_comes_as_often_as_ordered(proxy: Proxy) -> None:
    proxy.cut_reply(times=2)
    for _ in range(2):
        with Wire(proxy.address) as wire, pytest.raises(ConnectionError):
            wire.command("PING")
    with Wire(proxy.address) as wire:
        assert wire.command("PING") == "PONG"


def test_requests_behind_one_that_is_cut_never_reach_the_server(
    proxy: Proxy, wire: Wire, server: RedisServer
) -> None:
    proxy.cut_request("ECHO")
    wire.socket.sendall(encode("INCR", "a") + encode("ECHO", "x") + encode("INCR", "b"))
    assert read_to_end(wire.socket) in (b"", b":1\r\n")
    assert server.command("MGET", "a", "b") in (["1", None], [None, None])
    assert proxy.requests["INCR"] == 1


def test_replies_are_corrupted_where_ordered(proxy: Proxy, wire: Wire) -> None:
    for at, to, seen in ((0, None, b"\xd4PONG\r\n"), (-3, b"?", b"+PON?\r\n"), (1, b"x", b"+xONG")):
        proxy.corrupt(at, to)
        wire.send("PING")
        assert wire.socket.recv(7).startswith(seen)
    assert wire.command("PING") == "PONG"


def test_a_reply_can_be_replaced(proxy: Proxy, wire: Wire) -> None:
    proxy.answer(b"-LOADING not yet\r\n", "GET", times=2)
    assert wire.command("PING") == "PONG"
    for _ in range(2):
        with pytest.raises(RedisError, match="LOADING not yet"):
            wire.command("GET", "key")
    assert wire.command("GET", "key") is None


def test_a_swallowed_reply_never_comes_and_the_connection_stays(proxy: Proxy, wire: Wire) -> None:
    proxy.swallow("INCR")
    wire.send("INCR", "key")
    assert wire.command("INCR", "key") == 2


def test_replies_come_byte_by_byte(proxy: Proxy, wire: Wire) -> None:
    proxy.split(pause=0.02)
    wire.send("PING")
    pieces = [wire.socket.recv(100)]
    while b"\n" not in pieces[-1]:
        pieces.append(wire.socket.recv(100))
    assert b"".join(pieces) == b"+PONG\r\n"
    assert len(pieces) > 2
    proxy.heal()
    assert wire.command("ECHO", "x" * 9_000) == "x" * 9_000


@pytest.mark.parametrize(("of", "least"), [("request", 0.1), ("reply", 0.1), (None, 0.2)])
def test_a_delay_keeps_messages_back(
    proxy: Proxy, wire: Wire, of: str | None, least: float
) -> None:
    proxy.delay(0.1, of=of)
    began = time.monotonic()
    assert wire.command("PING") == "PONG"
    assert time.monotonic() - began >= least


def test_a_delay_is_one_wire_s_not_a_queue_s(proxy: Proxy, wire: Wire) -> None:
    proxy.delay(0.5, of="reply")
    began = time.monotonic()
    for n in range(100):
        wire.send("ECHO", n)
    assert [wire.read() for _ in range(100)] == [str(n) for n in range(100)]
    assert time.monotonic() - began < 25.0


def test_healing_lets_go_what_a_delay_or_a_hold_kept_back(
    proxy: Proxy, wire: Wire, server: RedisServer
) -> None:
    keeps: list[Callable[[], None]] = [partial(proxy.delay, 3_600.0), proxy.hold]
    for keep in keeps:
        wire.socket.settimeout(0.1)
        keep()
        wire.send("INCR", "key")
        with pytest.raises(TimeoutError):
            wire.socket.recv(100)
        assert server.command("EXISTS", "key") == 0
        wire.socket.settimeout(30.0)
        proxy.heal()
        assert wire.socket.recv(100) == b":1\r\n"
        server.command("DEL", "key")


def test_a_thousand_connections_are_refused_and_then_one_is_taken(proxy: Proxy) -> None:
    proxy.refuse(1_000)
    for _ in range(1_000):
        with pytest.raises(ConnectionError), Wire(proxy.address) as wire:
            wire.command("PING")
    with Wire(proxy.address) as wire:
        assert wire.command("PING") == "PONG"
    assert (proxy.refused, proxy.connections) == (1_000, 1)


def test_a_closed_port_refuses_to_connect_and_spares_who_is_connected(
    proxy: Proxy, wire: Wire
) -> None:
    assert wire.command("PING") == "PONG"
    with proxy.closed_port():
        with pytest.raises(ConnectionRefusedError):
            Wire(proxy.address)
        assert wire.command("PING") == "PONG"
    with Wire(proxy.address) as other:
        assert other.command("PING") == "PONG"


def test_a_server_that_is_down_ends_the_client_s_connection(
    start_server: Callable[..., RedisServer],
) -> None:
    server = start_server()
    with Proxy(server) as proxy:
        with Wire(proxy.address) as wire:
            assert wire.command("PING") == "PONG"
            server.kill()
            assert read_to_end(wire.socket) == b""
        with Wire(proxy.address) as wire:
            assert read_to_end(wire.socket) == b""
        server.start()
        with Wire(proxy.address) as wire:
            assert wire.command("PING") == "PONG"


def test_tls_passes_unread_and_can_be_cut(
    tls_server: RedisServer, certificates: Certificates
) -> None:
    with Proxy(tls_server) as proxy:
        assert proxy.url == f"rediss://127.0.0.1:{proxy.port}/0"
        with Wire(proxy.address, tls=certificates.client_context()) as wire:
            assert wire.command("PING") == "PONG"
            proxy.cut_reply(after=10)
            with pytest.raises(OSError, match=r"(?i)eof|closed|reset"):
                wire.command("PING")


FRAMES = [
    b"+OK\r\n",
    b"-ERR no\r\n",
    b":12\r\n",
    b"$-1\r\n",
    b"$0\r\n\r\n",
    b"$5\r\na\r\nbc\r\n",
    b"*-1\r\n",
    b"*0\r\n",
    b"*2\r\n$1\r\na\r\n*1\r\n:1\r\n",
    b"%2\r\n+a\r\n:1\r\n+b\r\n*1\r\n_\r\n",
    b"~1\r\n#t\r\n",
    b">2\r\n+message\r\n$1\r\nx\r\n",
    b"=5\r\ntxt:a\r\n",
    b"|1\r\n+ttl\r\n:5\r\n+OK\r\n",
    b",1.5\r\n",
    b"PING\r\n",
    b"*x\r\n",
]


@pytest.mark.parametrize("frame", FRAMES)
def test_a_message_ends_where_it_ends_and_not_before(frame: bytes) -> None:
    assert frame_end(b"+\r\n" + frame + b"$", 3) == 3 + len(frame)
    assert [frame_end(frame[:n]) for n in range(len(frame))] == [None] * len(frame)


def test_the_name_of_a_request_is_its_command() -> None:
    assert name_of(encode("evalsha", "a", 1)) == "EVALSHA"
    assert name_of(b"ping\r\n") == name_of(b"ping me\r\n") == "PING"


def test_the_client_reads_both_protocols(server: RedisServer) -> None:
    with Wire(server.address) as wire:
        assert wire.command("LRANGE", "none", 0, -1) == []
        assert wire.command("GET", "none") is None
        hello = wire.command("HELLO", 3)
        assert hello[hello.index("proto") + 1] == 3
        assert wire.command("GET", "none") is None
        wire.command("HSET", "hash", "field", "value")
        assert wire.command("HGETALL", "hash") == ["field", "value"]
        script = "redis.setresp(3); return {{double=1.5}, true, redis.error_reply('ERR no')}"
        number, truth, error = wire.command("EVAL", script, 0)
        assert (number, truth) == ("1.5", True)
        assert isinstance(error, RedisError)

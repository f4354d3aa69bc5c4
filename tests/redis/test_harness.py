"""The servers of these tests do what they say: they start, die, come back and fail over.

The client here is the harness' own (wire.py).
"""

from __future__ import annotations

import os
import socket
import ssl
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ports
import pytest
import servers
from certificates import PASSPHRASE, Certificates
from ports import ServerFailed, claim_port
from servers import RedisServer
from topologies import SLOTS, Cluster, Sentinels
from wire import RedisError, Wire

HERE = str(Path(__file__).parent)

Start = Callable[..., RedisServer]


def test_a_server_answers_on_its_port_and_on_its_unix_socket(server: RedisServer) -> None:
    with Wire(server.address) as tcp, Wire(server.unix_socket) as unix:
        assert tcp.command("SET", "key", "välue") == "OK"
        assert unix.command("GET", "key") == "välue"
    assert server.url == f"redis://127.0.0.1:{server.port}/0"


@pytest.mark.parametrize("test", [1, 2])
def test_each_test_finds_the_shared_server_empty(server: RedisServer, test: int) -> None:
    assert server.command("DBSIZE") == 0
    server.command("SET", "key", test)


@pytest.mark.parametrize("harm", [RedisServer.kill, RedisServer.pause])
def test_a_shared_server_that_a_test_broke_is_mended(
    shared_server: RedisServer,
    request: pytest.FixtureRequest,
    harm: Callable[[RedisServer], None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    harm(shared_server)
    connect = shared_server.connect
    monkeypatch.setattr(shared_server, "connect", lambda timeout=0.2: connect(timeout=0.2))
    assert request.getfixturevalue("server").command("PING") == "PONG"


def test_a_port_that_is_taken_is_exchanged_for_another(
    start_server: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        claims = [(taken.getsockname()[1], socket.socket(type=socket.SOCK_DGRAM)), claim_port()]
        port = claims[1][0]
        monkeypatch.setattr(servers, "claim_port", lambda: claims.pop(0))
        assert start_server().port == port


def test_the_port_of_a_server_that_is_down_is_given_to_nobody(
    start_server: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = start_server()
    server.kill()
    monkeypatch.setattr(ports, "PORTS", range(server.port, server.port + 1))
    with pytest.raises(ServerFailed, match="no free port"):
        claim_port()
    server.close()
    claim_port()[1].close()


def test_a_server_that_cannot_start_shows_its_log(start_server: Start) -> None:
    with pytest.raises(ServerFailed, match=r"(?s)ended by itself.*not-a-directive"):
        start_server(options={"not-a-directive": 1})


def test_options_reach_the_server(start_server: Start) -> None:
    server = start_server(options={"maxmemory": "3mb", "maxmemory-policy": "volatile-ttl"})
    assert server.command("CONFIG", "GET", "maxmemory") == ["maxmemory", str(3 << 20)]


def test_a_killed_server_comes_back_on_its_port_without_its_data(start_server: Start) -> None:
    server = start_server()
    port = server.port
    server.command("SET", "key", 1)
    server.kill()
    with pytest.raises(ConnectionRefusedError):
        Wire(server.address)
    server.start()
    assert server.port == port
    assert server.command("GET", "key") is None


@pytest.mark.parametrize("end", [RedisServer.kill, RedisServer.stop])
def test_a_persistent_server_comes_back_with_its_data_unless_told_not_to(
    start_server: Start, end: Callable[[RedisServer], None]
) -> None:
    server = start_server(persistent=True)
    server.command("SET", "key", 1)
    end(server)
    server.start()
    assert server.command("GET", "key") == "1"
    end(server)
    server.start(fresh=True)
    assert server.command("GET", "key") is None


def test_a_paused_server_takes_connections_and_answers_when_resumed(start_server: Start) -> None:
    server = start_server()
    server.pause()
    with Wire(server.address, timeout=0.1) as wire:
        wire.send("PING")
        with pytest.raises(TimeoutError):
            wire.socket.recv(100)
        server.resume()
        wire.socket.settimeout(30.0)
        assert wire.socket.recv(100) == b"+PONG\r\n"
    server.pause()
    server.stop()
    assert not server.alive


def test_passwords_and_users_are_asked_for(acl_server: RedisServer) -> None:
    assert acl_server.url.startswith("redis://:s3cret%2F%3A%40%25@127.0.0.1:")
    assert acl_server.url_for("limited", db=2).startswith("redis://limited:pa%20ss@127.0.0.1:")
    with Wire(acl_server.address) as wire:
        with pytest.raises(RedisError, match="NOAUTH"):
            wire.command("PING")
        assert wire.command("AUTH", "s3cret/:@%") == "OK"
        assert wire.command("AUTH", "limited", "pa ss") == "OK"
        assert wire.command("SET", "hw:key", 1) == "OK"
        with pytest.raises(RedisError, match="NOPERM"):
            wire.command("SET", "other", 1)
    assert acl_server.command("GET", "hw:key") == "1"


def test_a_tls_server_lets_in_who_shows_its_certificate(
    tls_server: RedisServer, certificates: Certificates
) -> None:
    assert tls_server.url.startswith("rediss://")
    with Wire(tls_server.address, tls=certificates.client_context()) as wire:
        assert wire.command("SET", "key", 1) == "OK"
    assert tls_server.command("GET", "key") == "1"
    context = ssl.create_default_context(cafile=str(certificates.ca))
    context.load_cert_chain(
        certificates.client.certificate, certificates.encrypted_key, password=PASSPHRASE
    )
    with Wire(tls_server.address, tls=context) as wire:
        assert wire.command("PING") == "PONG"


def test_a_tls_server_turns_away_who_shows_none_or_a_stranger_s(
    tls_server: RedisServer, certificates: Certificates
) -> None:
    nobody = ssl.create_default_context(cafile=str(certificates.ca))
    for context in (nobody, certificates.client_context(certificates.stranger)):
        with pytest.raises((ssl.SSLError, ConnectionError)):
            with Wire(tls_server.address, tls=context) as wire:
                wire.command("PING")


def test_certificates_that_do_not_fit_are_noticed_by_the_client(
    tls_server: RedisServer, certificates: Certificates, start_server: Start
) -> None:
    context = ssl.create_default_context(cafile=str(certificates.stranger_ca))
    with pytest.raises(ssl.SSLCertVerificationError):
        Wire(tls_server.address, tls=context)
    elsewhere = start_server(
        tls=certificates,
        options={
            "tls-cert-file": str(certificates.elsewhere.certificate),
            "tls-key-file": str(certificates.elsewhere.key),
        },
    )
    with pytest.raises(ssl.SSLCertVerificationError, match=r"127\.0\.0\.1"):
        Wire(elsewhere.address, tls=certificates.client_context())


@pytest.mark.parametrize(
    "end", ["", "os.kill(os.getpid(), 9)", "server.pause(); os._exit(3)", "sys.exit(1)"]
)
def test_a_server_never_outlives_the_program_that_started_it(
    redis_binary: str, run_python: Callable[..., str], eventually: Callable[..., None], end: str
) -> None:
    program = f"""
import os, subprocess, sys
if sys.argv[1:]:
    sys.path.insert(0, {HERE!r})
    from servers import RedisServer
    server = RedisServer({redis_binary!r}).start()
    print(server.pid, server.directory, flush=True)
    {end}
else:
    subprocess.run([sys.executable, "-c", sys.orig_argv[2], "start"])
"""
    pid, directory = run_python(program).split()
    eventually(lambda: not Path(f"/proc/{pid}").exists() or _is_zombie(pid), "the server's end")
    eventually(lambda: not Path(directory).exists(), "its files removed")


def _is_zombie(pid: str) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] in "ZX"
    except OSError:
        return True


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_forked_child_that_ends_leaves_its_parent_s_server_alone(
    redis_binary: str, run_python: Callable[..., str]
) -> None:
    out = run_python(f"""
import os, sys
sys.path.insert(0, {HERE!r})
from servers import RedisServer
with RedisServer({redis_binary!r}) as server:
    child = os.fork()
    if child == 0:
        with RedisServer({redis_binary!r}) as own:
            assert own.command("PING") == "PONG"
        sys.exit(0)
    assert os.waitpid(child, 0)[1] == 0
    print(server.command("PING"))
""")
    assert out.split() == ["PONG"]


# Sentinels.


@pytest.mark.slow
def test_sentinels_put_a_replica_in_charge_when_told_to(sentinels: Sentinels) -> None:
    old = sentinels.primary()
    with old.connect() as wire:  # WAIT is for what was written on the same connection
        wire.command("SET", "key", 1)
        assert wire.command("WAIT", 2, 10_000) == 2
    new = sentinels.failover()
    assert new is not old
    assert sentinels.primary_port() == new.port
    assert new.command("GET", "key") == "1"
    with pytest.raises(RedisError, match="READONLY"):
        old.command("SET", "key", 2)


@pytest.mark.slow
def test_sentinels_notice_a_dead_primary_and_take_it_back_as_a_replica(
    sentinels: Sentinels,
) -> None:
    old = sentinels.primary()
    new = sentinels.kill_primary()
    assert new is not old
    old.start()
    sentinels.settle()
    assert sentinels.primary() is new
    assert set(sentinels.replicas()) == {s for s in sentinels.servers if s is not new}


@pytest.mark.slow
def test_sentinels_and_their_servers_can_ask_for_passwords(redis_binary: str) -> None:
    with Sentinels(redis_binary, password="da ta", sentinel_password="watch") as sentinels:
        with Wire(sentinels.addresses[0]) as wire:
            with pytest.raises(RedisError, match="NOAUTH"):
                wire.command("SENTINEL", "MASTERS")
        assert sentinels.failover().command("PING") == "PONG"


# A cluster.


@pytest.mark.slow
def test_a_cluster_serves_every_slot_and_knows_its_replicas(cluster: Cluster) -> None:
    for node in cluster.nodes:
        slots = node.command("CLUSTER", "SLOTS")
        assert sum(last - first + 1 for first, last, *_ in slots) == SLOTS
        assert [len(served) for _, _, *served in slots] == [2, 2, 2]
    slot = cluster.slot_of("key")
    owner = cluster.owner(slot)
    other = next(cluster.primary(n) for n in range(3) if cluster.primary(n) is not owner)
    with pytest.raises(RedisError, match=rf"MOVED {slot} 127\.0\.0\.1:{owner.port}"):
        other.command("GET", "key")


@pytest.mark.slow
def test_a_cluster_fails_over_without_loss(cluster: Cluster) -> None:
    old = cluster.primary(1)
    keys = [f"key {n}" for n in range(30)]
    for key in keys:
        cluster.command(key, "SET", key, 1)
    new = cluster.failover(1)
    assert new is not old
    assert cluster.primary(1) is new
    assert [cluster.command(key, "GET", key) for key in keys] == ["1"] * 30


@pytest.mark.slow
def test_a_cluster_survives_the_death_of_a_primary_and_takes_it_back(cluster: Cluster) -> None:
    old = cluster.kill_primary(0)
    new = cluster.primary(0)
    assert new is not old
    assert cluster.owner(0) is new
    old.start()
    cluster.settle()
    assert cluster.replicas(0) == [old]


@pytest.mark.slow
def test_a_slot_moves_with_its_keys_while_clients_write(
    cluster: Cluster, start: Callable[..., Any]
) -> None:
    slot = cluster.slot_of("{tag}")
    source = cluster.owner(slot)
    shard = next(n for n in range(3) if cluster.primary(n) is not source)
    stop = threading.Event()
    written: list[str] = []

    def write() -> None:
        while not stop.is_set():
            key = f"{{tag}}{len(written)}"
            if _follow(source, "SET", key, 1) == "OK":
                written.append(key)

    writer = start(write)
    try:
        cluster.begin_move(slot, shard)
        while cluster.move_keys(slot, shard, 10) or len(written) < 50:
            pass
        cluster.finish_move(slot, shard)
    finally:
        stop.set()
        writer.result()
    assert cluster.owner(slot) is cluster.primary(shard)
    assert source.command("CLUSTER", "COUNTKEYSINSLOT", slot) == 0
    assert all(cluster.command(key, "GET", key) == "1" for key in written)


def _follow(first: RedisServer, *args: str | int) -> Any:
    """What a client that knows one node is answered in the end."""
    with Wire(first.address) as wire:
        try:
            return wire.command(*args)
        except RedisError as error:
            kind, _, address = str(error).split()[:3]
    host, port = address.split(":")
    with Wire((host, int(port))) as wire:
        if kind == "ASK":
            wire.command("ASKING")
        return wire.command(*args)


@pytest.mark.slow
def test_a_slot_that_is_being_moved_answers_ask_for_keys_that_are_gone(cluster: Cluster) -> None:
    slot = cluster.slot_of("{tag}")
    source = cluster.owner(slot)
    shard = next(n for n in range(3) if cluster.primary(n) is not source)
    source.command("SET", "{tag}here", 1)
    cluster.begin_move(slot, shard)
    assert source.command("GET", "{tag}here") == "1"
    with pytest.raises(RedisError, match=f"ASK {slot}"):
        source.command("GET", "{tag}gone")
    with pytest.raises(RedisError, match="TRYAGAIN"):
        source.command("MGET", "{tag}here", "{tag}gone")
    cluster.finish_move(slot, shard)
    with pytest.raises(RedisError, match="MOVED"):
        source.command("GET", "{tag}here")


@pytest.mark.slow
def test_a_cluster_can_ask_for_a_password(redis_binary: str) -> None:
    with Cluster(redis_binary, password="pass word") as cluster:
        cluster.command("key", "SET", "key", 1)
        slot = cluster.slot_of("key")
        shard = next(n for n in range(3) if cluster.primary(n) is not cluster.owner(slot))
        cluster.move_slot(slot, shard)
        assert cluster.command("key", "GET", "key") == "1"

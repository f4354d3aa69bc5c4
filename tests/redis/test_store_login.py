"""Who may come in, where to, and what a server that cannot be used is told apart by: each fault of
a start is a `StoreUnavailableError` with a `fault` and a sentence of its own, within the deadline.
"""

from __future__ import annotations

import contextlib
import logging
import socket
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from proxy import Proxy
from servers import RedisServer
from store_help import ask, repr_of, unavailable

from headway import Throttled
from headway.store import RedisStore

__all__ = ["ask"]

SECRET = "Xyzzy77"


@contextlib.contextmanager
def something(answer: bytes | None) -> Iterator[int]:
    """A port where each caller is told this and hung up on; None: where nothing is said."""
    over = threading.Event()
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve(client: socket.socket) -> None:
            with client, contextlib.suppress(OSError):
                client.recv(4096)
                if answer is None:
                    over.wait(30)
                else:
                    client.sendall(answer)
                    client.shutdown(socket.SHUT_WR)
                    client.settimeout(5)
                    while client.recv(4096):
                        pass

        def listen() -> None:
            with contextlib.suppress(OSError):
                while True:
                    threading.Thread(target=serve, args=[listener.accept()[0]], daemon=True).start()

        threading.Thread(target=listen, daemon=True).start()
        yield listener.getsockname()[1]
        over.set()
        listener.shutdown(socket.SHUT_RDWR)


def test_users_of_an_acl_come_in(acl_server: RedisServer, ask: Callable[..., Any]) -> None:
    assert ask(RedisStore(acl_server.url))
    assert ask(RedisStore(acl_server.url_for("limited")), key_prefix="hw")
    assert acl_server.command("DBSIZE") == 2


def test_user_and_password_as_options_count_as_those_of_the_url(
    acl_server: RedisServer, ask: Callable[..., Any]
) -> None:
    bare = f"redis://127.0.0.1:{acl_server.port}"
    assert ask(RedisStore(bare, {"PASSWORD": acl_server.password}))
    login = {"username": "limited", "password": acl_server.users["limited"][0]}
    assert ask(RedisStore(bare, {"CONNECTION_POOL_KWARGS": login}), key_prefix="hw")


@pytest.mark.parametrize("user", ["limited", "reader"])
def test_what_a_user_may_not_do_is_said(
    user: str, acl_server: RedisServer, ask: Callable[..., Any]
) -> None:
    error = unavailable(ask, acl_server.url_for(user))
    assert "NOPERM" in str(error) or "permission" in str(error)
    assert acl_server.users[user][0] not in repr_of(error)


@pytest.mark.parametrize(
    ("login", "says"),
    [
        (f":{SECRET}@", "WRONGPASS"),
        (f"limited:{SECRET}@", "WRONGPASS"),
        (f"nobody:{SECRET}@", "WRONGPASS"),
        ("", "NOAUTH"),
    ],
    ids=["default's", "user's", "no such user", "none at all"],
)
def test_a_wrong_password_is_a_fault_of_login(
    login: str, says: str, acl_server: RedisServer, ask: Callable[..., Any]
) -> None:
    error = unavailable(ask, f"redis://{login}127.0.0.1:{acl_server.port}/0")
    assert error.fault == "login"
    assert says in str(error)
    assert "password" in str(error)
    assert SECRET not in repr_of(error)


def test_a_password_for_a_server_without_one_is_a_fault_of_login(
    server: RedisServer, ask: Callable[..., Any]
) -> None:
    assert unavailable(ask, f"redis://u:{SECRET}@127.0.0.1:{server.port}").fault == "login"


def test_a_database_is_selected(server: RedisServer, ask: Callable[..., Any]) -> None:
    assert ask(RedisStore(server.url_for(db=3)))
    assert ask(RedisStore(server.url, {"CONNECTION_POOL_KWARGS": {"db": 4}}))
    keyspace = server.info("keyspace")
    assert set(keyspace) == {"db3", "db4"}
    for database in (3, 4):
        with server.connect() as wire:
            wire.command("SELECT", database)
            wire.command("FLUSHDB")


def test_a_database_that_does_not_exist_is_a_fault_of_its_own(
    server: RedisServer, ask: Callable[..., Any]
) -> None:
    error = unavailable(ask, server.url_for(db=99))
    assert error.fault == "database"
    assert "/99" in str(error)


def test_a_client_has_the_name_it_was_given(server: RedisServer) -> None:
    store = RedisStore(server.url + "?client_name=till-7")
    Throttled("key", quota="5/s", store=store).limit()
    assert "name=till-7 " in server.command("CLIENT", "LIST")


def test_a_unix_socket_will_do(server: RedisServer, ask: Callable[..., Any]) -> None:
    store = RedisStore(server.unix_url)
    assert [bool(ask(store, quota="2/h")) for _ in range(3)] == [True, True, False]


def test_a_unix_socket_with_a_password_will_do(
    acl_server: RedisServer, ask: Callable[..., Any]
) -> None:
    assert ask(RedisStore(acl_server.unix_url))


@pytest.mark.parametrize(
    ("url", "fault"),
    [
        ("redis://:{}@127.0.0.1:1/0", "connect"),
        ("redis://:{}@no-such-host.invalid/0", "address"),
        ("unix://:{}@/nowhere/redis.sock", "connect"),
        ("unix://:{}@/" + "x" * 200, "address"),
        ("redis+sentinel://:{}@127.0.0.1:1/mymaster?timeout=0.3", "connect"),
        ("redis+cluster://:{}@127.0.0.1:1?timeout=0.3", "connect"),
    ],
    ids=["refused", "unresolvable", "no socket", "a path too long", "no sentinel", "no cluster"],
)
def test_a_server_that_is_not_there_is_told_apart(
    url: str, fault: str, ask: Callable[..., Any]
) -> None:
    error = unavailable(ask, url.format(SECRET))
    assert error.fault == fault
    assert url.partition("@")[2].partition("?")[0] in str(error)
    assert SECRET not in repr_of(error)
    assert not error.may_have_counted


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n",
        b"SSH-2.0-OpenSSH_9.6\r\n",
        b"220 mail.test ESMTP\r\n",
        bytes(range(256)),
        b"\x15\x03\x01\x00\x02\x02\x50",
        b"+OK\r\n" * 3 + b"+unasked\r\n",
        b"$-7\r\n",
    ],
    ids=["HTTP", "SSH", "SMTP", "garbage", "TLS", "too much", "a bad length"],
)
def test_what_is_not_redis_is_a_fault_of_protocol(answer: bytes, ask: Callable[..., Any]) -> None:
    with something(answer) as port:
        error = unavailable(ask, f"redis://:{SECRET}@127.0.0.1:{port}?connect_timeout=2", within=2)
    assert error.fault == "protocol"
    assert SECRET not in repr_of(error)


def test_who_hangs_up_at_once_is_a_fault_of_its_own(ask: Callable[..., Any]) -> None:
    with something(b"") as port:
        assert unavailable(ask, f"redis://127.0.0.1:{port}").fault == "closed"


def test_silence_ends_with_the_connect_deadline(ask: Callable[..., Any]) -> None:
    with something(None) as port:
        url = f"redis://127.0.0.1:{port}?connect_timeout=0.3&timeout=10"
        error = unavailable(ask, url, within=0.3)
    assert error.fault == "timeout"
    assert not error.may_have_counted


def test_a_full_backlog_ends_with_the_connect_deadline(ask: Callable[..., Any]) -> None:
    with (
        socket.create_server(("127.0.0.1", 0), backlog=0) as listener,
        contextlib.ExitStack() as st,
    ):
        for _ in range(3):
            client = st.enter_context(socket.socket())
            client.setblocking(False)
            client.connect_ex(listener.getsockname())
        port = listener.getsockname()[1]
        options = {"SOCKET_CONNECT_TIMEOUT": 0.3, "SOCKET_TIMEOUT": 10}
        error = unavailable(ask, f"redis://127.0.0.1:{port}", options, within=0.3)
    assert error.fault == "timeout"


def test_a_silent_server_ends_a_decision_with_the_deadline(
    proxy: Proxy, ask: Callable[..., Any]
) -> None:
    store = RedisStore(proxy.url + "?timeout=0.3")
    ask(store)
    proxy.swallow("EVALSHA")
    error = unavailable_now(ask, store)
    assert error.fault == "timeout"
    assert error.may_have_counted
    assert ask(store)


def unavailable_now(ask: Callable[..., Any], store: RedisStore) -> Any:
    from headway import StoreUnavailableError

    with pytest.raises(StoreUnavailableError) as caught:
        ask(store)
    return caught.value


@pytest.mark.parametrize("policy", ["allow", "deny"])
def test_a_policy_is_logged_without_the_password_and_counted(
    policy: str, ask: Callable[..., Any], caplog: pytest.LogCaptureFixture
) -> None:
    store = RedisStore(f"redis://:{SECRET}@127.0.0.1:1/0?on_error={policy}")
    with caplog.at_level(logging.INFO):
        results = [bool(ask(store)) for _ in range(3)]
    assert results == [policy == "allow"] * 3
    assert store.failures == 3
    assert len(caplog.records) == 1
    assert caplog.records[0].levelno >= logging.WARNING
    assert SECRET not in caplog.text
    assert "redis://:***@127.0.0.1:1/0" in caplog.text

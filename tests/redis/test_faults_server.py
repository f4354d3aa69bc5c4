"""A server that dies, sleeps, forgets and fills up.

Where it kept its state, no more than the quota is admitted; each time it lost it, one more burst.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

import pytest
from faults_ask import QUOTA, SLACK_S, Ask, Told, admitted, ask, store_of, uncertain
from servers import RedisServer

from headway import StoreUnavailableError, Throttled, rate_limiter

__all__ = ["ask"]

Start = Callable[..., RedisServer]
RESTS_S = 20.0


def use_up(ask: Ask, limiter: object, times: int = QUOTA + 2) -> list[Told]:
    return [ask.told(limiter) for _ in range(times)]


@pytest.mark.parametrize("persistent", [True, False], ids=["keeps", "forgets"])
def test_killed_and_started_again(ask: Ask, start_server: Start, persistent: bool) -> None:
    server = start_server(persistent=persistent)
    limiter = ask.limiter(store_of(server.url))
    told = use_up(ask, limiter, 3)
    server.kill()
    failed = use_up(ask, limiter, 20)
    assert all(isinstance(one, StoreUnavailableError) for one in failed)
    assert uncertain(failed) <= 1, "only one can have been under way"
    server.start()
    ask.until_answered(limiter, RESTS_S, "other")
    told += use_up(ask, limiter)
    if persistent:
        assert QUOTA - uncertain(failed) <= admitted(told) <= QUOTA
    else:
        assert admitted(told) == 3 + QUOTA


def test_killed_while_many_ask_and_started_again(start_server: Start) -> None:
    server = start_server(persistent=True)
    limit = 2_000
    limiter = Throttled(
        using="gcra",
        quota=rate_limiter.per_day(limit),
        store=store_of(server.url, timeout=2.0),
    )
    told: list[Told] = []
    stop = threading.Event()

    def work() -> None:
        while not stop.is_set():
            try:
                told.append(limiter.limit("key"))
            except StoreUnavailableError as error:
                told.append(error)
                time.sleep(0.002)

    threads = [threading.Thread(target=work) for _ in range(6)]
    for thread in threads:
        thread.start()
    for _ in range(2):
        time.sleep(0.1)
        server.kill()
        server.start()
    time.sleep(0.3)
    stop.set()
    for thread in threads:
        thread.join(10.0)
        assert not thread.is_alive()
    Ask(as_task=False).until_answered(limiter, RESTS_S, "other")
    remaining = limiter.peek("key").remaining
    assert admitted(told) <= limit - remaining <= admitted(told) + uncertain(told)


def test_paused_for_longer_than_the_deadline(ask: Ask, start_server: Start) -> None:
    server = start_server()
    limiter = ask.limiter(store_of(server.url, timeout=0.2))
    told = use_up(ask, limiter, 2)
    server.pause()
    for _ in range(4):
        start = time.monotonic()
        told.append(ask.error(limiter))
        assert time.monotonic() - start < 0.4 + SLACK_S
    assert uncertain(told) == 1
    server.resume()
    ask.until_answered(limiter, RESTS_S, "other")
    told += use_up(ask, limiter)
    assert QUOTA - 1 <= admitted(told) <= QUOTA


def test_forgotten_scripts_are_sent_again_without_a_word(ask: Ask, server: RedisServer) -> None:
    limiter = ask.limiter(store_of(server.url))
    told = use_up(ask, limiter, 2)
    server.command("SCRIPT", "FLUSH")
    told += use_up(ask, limiter)
    assert admitted(told) == QUOTA
    assert uncertain(told) == 0


def test_scripts_forgotten_while_many_ask_cost_nobody_a_decision(
    ask: Ask, server: RedisServer
) -> None:
    limiter = ask.limiter(store_of(server.url, timeout=5.0), limit=100)
    told: list[Told] = []
    for _ in range(8):
        server.command("SCRIPT", "FLUSH")
        told += ask.many(limiter, 20)
    assert admitted(told) == 100
    assert not any(isinstance(one, StoreUnavailableError) for one in told)


@pytest.mark.parametrize("using", ["gcra", "fixed_window", "sliding_window"])
def test_forgotten_keys_are_one_more_burst(ask: Ask, server: RedisServer, using: str) -> None:
    limiter = ask.limiter(store_of(server.url), using)
    told = use_up(ask, limiter)
    assert admitted(told) == QUOTA
    server.command("FLUSHALL")
    told += use_up(ask, limiter)
    assert admitted(told) == 2 * QUOTA


def test_a_key_of_another_kind_is_a_typed_error(ask: Ask, server: RedisServer) -> None:
    limiter = ask.limiter(store_of(server.url))
    ask.limit(limiter)
    (name,) = server.command("KEYS", "*")
    for spoil, says in ((("SET", name, "junk"), "BADSTATE"), (("LPUSH", name, "x"), "WRONGTYPE")):
        server.command("DEL", name)
        server.command(*spoil)
        assert says in str(ask.error(limiter))
    server.command("DEL", name)
    assert admitted(use_up(ask, limiter)) == QUOTA


def test_a_full_server_is_a_typed_error_until_there_is_room(ask: Ask, start_server: Start) -> None:
    server = start_server(options={"maxmemory-policy": "noeviction"})
    limiter = ask.limiter(store_of(server.url))
    told = use_up(ask, limiter, 2)
    server.command("CONFIG", "SET", "maxmemory", "1")
    for _ in range(3):
        error = ask.error(limiter)
        assert "OOM" in str(error)
        assert not error.may_have_counted
    server.command("CONFIG", "SET", "maxmemory", "0")
    told += use_up(ask, limiter)
    assert admitted(told) == QUOTA


def test_a_replica_is_a_typed_error_until_it_is_a_primary(ask: Ask, start_server: Start) -> None:
    server = start_server()
    limiter = ask.limiter(store_of(server.url))
    told = use_up(ask, limiter, 2)
    server.command("REPLICAOF", "127.0.0.1", "1")
    error = ask.error(limiter)
    assert "READONLY" in str(error) or "MASTERDOWN" in str(error)
    server.command("REPLICAOF", "NO", "ONE")
    told += use_up(ask, limiter)
    assert admitted(told) == QUOTA


def test_a_server_with_no_room_for_clients_was_not_asked(ask: Ask, start_server: Start) -> None:
    server = start_server()
    limiter = ask.limiter(store_of(server.url))
    with server.connect():
        server.command("CONFIG", "SET", "maxclients", "1")
        error = ask.error(limiter)
        assert not error.may_have_counted
    server.command("CONFIG", "SET", "maxclients", "1000")
    ask.until_answered(limiter, RESTS_S)


def test_a_killed_client_connects_again(ask: Ask, server: RedisServer) -> None:
    limiter = ask.limiter(store_of(server.url))
    ask.limit(limiter, "other")
    server.command("CLIENT", "KILL", "TYPE", "normal")
    ask.turn(0.05)
    ask.until_answered(limiter, RESTS_S, "other")
    assert admitted(use_up(ask, limiter)) == QUOTA


def test_a_password_that_changes_is_a_login_s_error_and_then_not(
    ask: Ask, start_server: Start
) -> None:
    server = start_server(password="one")
    limiter = ask.limiter(store_of(server.url))
    ask.limit(limiter)
    with server.connect() as wire:
        wire.command("CONFIG", "SET", "requirepass", "other")
        wire.command("CLIENT", "KILL", "TYPE", "normal")
        ask.turn(0.05)
        ask.told(limiter)
        error = ask.error(limiter)
        assert error.fault == "login"
        assert "one" not in str(error).split("@")[0].replace("wrong", "")
        wire.command("CONFIG", "SET", "requirepass", "one")
        ask.until_answered(limiter, RESTS_S)

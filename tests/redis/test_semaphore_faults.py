"""Semaphores while servers die, forget, stop, move and come back: whoever waits goes on waiting,
whoever holds goes on holding, and nothing has to be restarted.
"""

# ruff: noqa: F811 (fixtures come from semaphore_help)

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pytest
from semaphore_help import held, in_line, until, way  # noqa: F401
from servers import RedisServer

from headway import StoreUnavailableError
from headway.limiters import MaxSleepExceededError, SyncSemaphore
from headway.limiters._keeper import keeper_of
from headway.limiters._permits import Answer, Permits, Step
from headway.store import RedisStore

StartServer = Callable[..., RedisServer]
Start = Callable[..., Any]


class Stay:
    """Work that stays in the block until it may go."""

    def __init__(self) -> None:
        self.entered, self.go = threading.Event(), threading.Event()

    def __call__(self) -> str:
        self.entered.set()
        assert self.go.wait(60)
        return "done"


@pytest.fixture
def stay() -> Iterator[Stay]:
    work = Stay()
    yield work
    work.go.set()


def test_a_waiter_gets_his_permit_though_the_server_was_killed_meanwhile(
    way: Any, start_server: StartServer, start: Start
) -> None:
    server = start_server()
    semaphore = way.kind("name", 1, max_sleep=60, connection=server.url)
    holder = SyncSemaphore("name", 1, expiry=0.5, connection=server.url)
    with holder:
        worker = start(lambda: way.run(semaphore, lambda: "in"))
        until(lambda: in_line(server) == 1, "one in line")
        server.kill()
        server.start()
        # Who holds says so again, and who waits too: in some order, so one more may be let in.
        until(lambda: held(server) >= 1, "the holder's lease again")
    assert worker.result() == "in"
    until(lambda: held(server) == 0, "all permits back")


def test_a_holder_says_so_again_after_the_server_forgot_it(
    way: Any, server: RedisServer, start: Start, stay: Stay
) -> None:
    semaphore = way.kind("name", 1, expiry=0.6, connection=server.url)
    worker = start(lambda: way.run(semaphore, stay))
    assert stay.entered.wait(30)
    server.command("FLUSHALL")
    until(lambda: held(server) == 1, "the lease again")
    with pytest.raises(MaxSleepExceededError):
        SyncSemaphore("name", 1, max_sleep=0.3, connection=server.url).__enter__()
    stay.go.set()
    assert worker.result() == "done"
    assert held(server) == 0


def test_after_flushall_there_is_at_most_one_capacity_more(
    server: RedisServer, start: Start
) -> None:
    inside, most, over = [0], [0], threading.Event()
    lock = threading.Lock()

    def work() -> None:
        semaphore = SyncSemaphore("name", 2, expiry=0.3, connection=server.url)
        while not over.is_set():
            with semaphore:
                with lock:
                    inside[0] += 1
                    most[0] = max(most[0], inside[0])
                time.sleep(0.005)
                with lock:
                    inside[0] -= 1

    workers = [start(work) for _ in range(8)]
    until(lambda: most[0] == 2, "both permits held")
    time.sleep(0.2)  # time in which more might come in
    assert most[0] == 2
    server.command("FLUSHALL")
    time.sleep(0.5)
    assert most[0] <= 4
    with lock:
        most[0] = 0
    time.sleep(0.2)
    assert most[0] <= 2
    over.set()
    for worker in workers:
        worker.result()
    until(lambda: held(server) == 0, "all permits back")


def test_a_line_that_the_server_forgot_forms_again_in_its_order(
    server: RedisServer, start: Start
) -> None:
    order: list[int] = []

    def enter(number: int) -> None:
        with SyncSemaphore("name", 1, connection=server.url):
            order.append(number)

    with SyncSemaphore("name", 1, expiry=0.3, connection=server.url):
        workers = []
        for number in range(4):
            workers.append(start(lambda number=number: enter(number)))
            until(lambda number=number: in_line(server) == number + 1, "another one in line")
        server.command(
            "DEL", *(f"limiters:v1:semaphore:{{name}}:{part}" for part in ("line", "listeners"))
        )
        until(lambda: in_line(server) == 4, "all in line again")
        assert held(server) == 1
    for worker in workers:
        worker.result()
    assert order == [0, 1, 2, 3]


def test_scripts_that_the_server_forgot_are_sent_again(way: Any, server: RedisServer) -> None:
    semaphore = way.kind("name", 1, connection=server.url)
    way.run(semaphore, lambda: server.command("SCRIPT", "FLUSH"))
    way.run(semaphore)
    assert held(server) == 0


def test_a_release_that_does_not_reach_the_server_is_made_up_for(
    way: Any, start_server: StartServer
) -> None:
    server = start_server(persistent=True)
    semaphore = way.kind("name", 1, expiry=60, connection=f"{server.url}?connect_timeout=1")
    way.run(semaphore, server.kill)  # leaving raises nothing
    server.start()
    until(lambda: held(server) == 0, "the permit back")


def test_a_server_that_was_stopped_for_a_while_costs_nobody_his_permit(
    start_server: StartServer, way: Any, start: Start, stay: Stay
) -> None:
    server = start_server()
    semaphore = way.kind("name", 1, expiry=3, connection=f"{server.url}?timeout=0.3")
    worker = start(lambda: way.run(semaphore, stay))
    assert stay.entered.wait(30)
    server.pause()
    with pytest.raises(StoreUnavailableError):
        SyncSemaphore("name", 1, connection=f"{server.url}?timeout=0.2").__enter__()
    time.sleep(1.0)  # some renewals fail
    server.resume()
    with pytest.raises(MaxSleepExceededError):
        SyncSemaphore("name", 1, max_sleep=2.5, connection=server.url).__enter__()
    stay.go.set()
    worker.result()


NOBODY = "redis://127.0.0.1:1/0?connect_timeout=0.5"


def test_a_server_that_is_not_there_is_said_so(way: Any) -> None:
    with pytest.raises(StoreUnavailableError) as caught:
        way.run(way.kind("name", 1, connection=NOBODY))
    assert caught.value.fault == "connect"


def test_on_error_allow_lets_everybody_in_and_says_so_once(
    way: Any, caplog: pytest.LogCaptureFixture
) -> None:
    store = RedisStore(NOBODY, on_error="allow")
    semaphore = way.kind("name", 1, connection=store)
    other = way.kind("name", 1, connection=store)
    way.run(semaphore, lambda: way.run(other))
    assert store.failures == 2
    assert caplog.text.count("Every request is allowed") == 1


def test_on_error_deny_lets_nobody_in(way: Any) -> None:
    semaphore = way.kind("name", 1, connection=RedisStore(NOBODY, on_error="deny"))
    with pytest.raises(MaxSleepExceededError, match="on_error='deny'"):
        way.run(semaphore)


@pytest.mark.slow
def test_a_waiter_gives_up_on_a_server_that_stays_away(
    way: Any, start_server: StartServer, start: Start
) -> None:
    server = start_server()
    semaphore = way.kind("name", 1, max_sleep=60, connection=server.url)
    SyncSemaphore("name", 1, connection=server.url).__enter__()
    worker = start(lambda: way.run(semaphore))
    until(lambda: in_line(server) == 1, "one in line")
    server.kill()
    with pytest.raises(StoreUnavailableError):
        worker.result()


def test_a_permit_that_is_left_while_it_is_renewed_is_free(
    server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    renewing, left = threading.Event(), threading.Event()
    ask = Permits.ask

    def slowly(self: Permits, listener: str = "", steps: Sequence[Step] = ()) -> Answer:
        if any(step[0] == "renew" for step in steps):
            renewing.set()
            assert left.wait(30)
        return ask(self, listener, steps)

    monkeypatch.setattr(Permits, "ask", slowly)
    semaphore = SyncSemaphore("name", 1, expiry=60, connection=RedisStore(server.url))
    with semaphore:
        permits: Permits = semaphore._pool.permits  # type: ignore[union-attr]
        for lease in permits.leases.values():
            lease.due = 0.0
        keeper_of(permits).watch(permits, 0.0)
        assert renewing.wait(30)
    left.set()
    until(lambda: held(server) == 0, "the permit is free")

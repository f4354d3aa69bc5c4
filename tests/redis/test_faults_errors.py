"""Errors that a server answers with: which are waited out, which are followed, which are raised.

Those that pass by themselves (LOADING, TRYAGAIN, CLUSTERDOWN) are asked again until the deadline.
None of them ends the connection: the server speaks, only not to the point.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from itertools import count

import pytest
from faults_ask import SLACK_S, Ask, ask, store_of
from faults_server import Answer, FakeServer, decided
from wire import name_of

__all__ = ["ask"]

PASSING = [
    "LOADING Redis is loading the dataset in memory",
    "TRYAGAIN Multiple keys request during rehashing of slot",
    "CLUSTERDOWN The cluster is down",
]
LASTING = [
    "READONLY You can't write against a read only replica.",
    "MASTERDOWN Link with MASTER is down and replica-serve-stale-data is set to 'no'.",
    "OOM command not allowed when used memory > 'maxmemory'.",
    "NOPERM User limited has no permissions to access one of the keys",
    "NOAUTH Authentication required.",
    "WRONGTYPE Operation against a key holding the wrong kind of value",
    "BADSTATE headway:v1:gcra:{key} holds no state of a bucket",
    "BUSY Redis is busy running a script.",
    "MISCONF Redis is configured to save RDB snapshots",
    "NOREPLICAS Not enough good replicas to write.",
    "EXECABORT Transaction discarded because of previous errors.",
    "CROSSSLOT Keys in request don't hash to the same slot",
    "ERR unknown command 'EVALSHA'",
    "MOVED",
    "MOVED x y",
    "MOVED 99999 127.0.0.1:1",
    "ASK 5",
    "loading",
    "",
    "%s %n %d",
    "x" * 50_000,
]

NOWHERE = {"connect", "store"}
"""The last word is the redirect, or that nobody is there."""


def in_turn(*answers: bytes) -> Iterator[bytes]:
    yield from answers
    for _ in count():
        yield answers[-1]


@pytest.mark.parametrize("text", LASTING, ids=lambda text: text[:12] or "nothing")
def test_an_error_that_stays_is_raised_at_once_and_the_connection_stays(
    ask: Ask, text: str
) -> None:
    with FakeServer(lambda request: b"-" + text.encode() + b"\r\n") as server:
        limiter = ask.limiter(store_of(server.url, timeout=5.0))
        start = time.monotonic()
        error = ask.error(limiter)
        assert time.monotonic() - start < SLACK_S
        assert not error.may_have_counted
        assert text[:40] in str(error)
        server.answer = lambda request: decided()
        assert not ask.limit(limiter).limited
        assert server.connections == 1


def test_an_error_that_is_no_text_is_an_error_nevertheless(ask: Ask) -> None:
    with FakeServer(lambda request: b"-OOPS \xff\xfe \x00 \x1b[31m\r\n") as server:
        assert "OOPS" in str(ask.error(ask.limiter(store_of(server.url))))


@pytest.mark.parametrize("text", PASSING, ids=lambda text: text.split()[0])
def test_an_error_that_passes_is_waited_out(ask: Ask, text: str) -> None:
    error = b"-" + text.encode() + b"\r\n"
    answers = in_turn(error, error, error, decided())
    with FakeServer(lambda request: next(answers)) as server:
        limiter = ask.limiter(store_of(server.url, timeout=5.0))
        assert not ask.limit(limiter).limited
        assert server.requests["EVALSHA"] == 4
        assert server.connections == 1


@pytest.mark.parametrize("text", PASSING, ids=lambda text: text.split()[0])
def test_an_error_that_does_not_pass_is_raised_at_the_deadline(ask: Ask, text: str) -> None:
    with FakeServer(lambda request: b"-" + text.encode() + b"\r\n") as server:
        limiter = ask.limiter(store_of(server.url, timeout=0.2))
        start = time.monotonic()
        error = ask.error(limiter)
        assert time.monotonic() - start < 0.4 + SLACK_S
        assert text.split()[0] in str(error)
        assert not error.may_have_counted
        assert server.requests["EVALSHA"] < 100, "it is not given a rest"


def test_a_server_that_never_has_the_script_is_asked_twice(ask: Ask) -> None:
    with FakeServer(lambda request: b"-NOSCRIPT No matching script.\r\n") as server:
        error = ask.error(ask.limiter(store_of(server.url)))
        assert "NOSCRIPT" in str(error)
        assert server.requests["EVALSHA"] == 1
        assert server.requests["EVAL"] == 1


def test_moved_is_followed_and_remembered(ask: Ask) -> None:
    with FakeServer() as there, FakeServer() as here:
        slot = 12539  # of {key}
        here.answer = lambda request: b"-MOVED %d 127.0.0.1:%d\r\n" % (slot, there.port)
        limiter = ask.limiter(store_of(here.url))
        for _ in range(3):
            assert not ask.limit(limiter).limited
        assert here.requests["EVALSHA"] == 1
        assert there.requests["EVALSHA"] == 3


def test_ask_is_followed_this_once(ask: Ask) -> None:
    with FakeServer() as there, FakeServer() as here:
        there.answer = lambda request: b"+OK\r\n" if name_of(request) == "ASKING" else decided()
        here.answer = lambda request: b"-ASK 12539 127.0.0.1:%d\r\n" % there.port
        limiter = ask.limiter(store_of(here.url))
        for n in range(1, 4):
            assert not ask.limit(limiter).limited
            assert here.requests["EVALSHA"] == there.requests["ASKING"] == n
            assert there.requests["EVALSHA"] == n


@pytest.mark.parametrize("word", [b"MOVED", b"ASK"])
def test_a_redirect_to_nowhere_is_a_typed_error(ask: Ask, word: bytes) -> None:
    with FakeServer() as gone:
        port = gone.port
    with FakeServer(lambda request: b"-%s 12539 127.0.0.1:%d\r\n" % (word, port)) as server:
        limiter = ask.limiter(store_of(server.url, timeout=0.3))
        start = time.monotonic()
        error = ask.error(limiter)
        assert time.monotonic() - start < 0.6 + SLACK_S
        assert error.fault in NOWHERE
        assert not error.may_have_counted
        assert server.requests["EVALSHA"] <= 32


def test_a_server_that_sent_us_nowhere_is_asked_again_once_it_serves_itself(ask: Ask) -> None:
    with FakeServer() as gone:
        port = gone.port
    with FakeServer(lambda request: b"-MOVED 12539 127.0.0.1:%d\r\n" % port) as server:
        limiter = ask.limiter(store_of(server.url, timeout=0.3))
        ask.error(limiter)
        server.answer = lambda request: decided()
        ask.until_answered(limiter, 8.0)


@pytest.mark.parametrize("word", [b"MOVED", b"ASK"])
def test_redirects_in_a_circle_end_with_a_typed_error(ask: Ask, word: bytes) -> None:
    def to(server: FakeServer) -> Answer:
        return b"-%s 12539 127.0.0.1:%d\r\n" % (word, server.port)

    with FakeServer() as one, FakeServer() as other:
        for server, next_ in ((one, other), (other, one)):
            server.answer = lambda request, next_=next_: (  # type: ignore[misc]
                b"+OK\r\n" if name_of(request) == "ASKING" else to(next_)
            )
        start = time.monotonic()
        error = ask.error(ask.limiter(store_of(one.url, timeout=0.3)))
        assert time.monotonic() - start < 0.6 + SLACK_S
        assert word.decode() in str(error)
        assert one.requests["EVALSHA"] + other.requests["EVALSHA"] <= 64


def test_redirects_to_ever_new_ports_end_with_a_typed_error(ask: Ask) -> None:
    ports = count(1)
    with FakeServer(lambda request: b"-ASK 12539 127.0.0.1:%d\r\n" % next(ports)) as server:
        limiter = ask.limiter(store_of(server.url, timeout=0.2))
        for _ in range(5):
            assert ask.error(limiter).fault in NOWHERE

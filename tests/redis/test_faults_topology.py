"""Sentinels and cluster nodes that talk nonsense: a typed error in time, and no grudge afterwards.

All servers are fake ones; one of them plays both the sentinel, or the cluster, and the primary.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest
from faults_ask import SLACK_S, Ask, ask, store_of
from faults_server import HANG_UP, SILENCE, Answer, FakeServer, array, decided
from wire import name_of

__all__ = ["ask"]

TIMEOUT_S = 0.3

NONSENSE: dict[str, Answer] = {
    "a status": b"+OK\r\n",
    "a number": b":1\r\n",
    "a text": b"$2\r\nOK\r\n",
    "nil": b"*-1\r\n",
    "nothing": b"*0\r\n",
    "numbers": b"*2\r\n:1\r\n:2\r\n",
    "texts": array("a", "b", "c", "d"),
    "one": array("a"),
    "nils": b"*2\r\n$-1\r\n$-1\r\n",
    "no port": array("127.0.0.1", "x"),
    "a port beyond": array("127.0.0.1", "99999999999"),
    "a host of bytes": array(b"\xff\xfe", "1"),
    "a host with a zero": array(b"a\x00b", "1"),
    "an empty host": array("", "1"),
    "lists": b"*1\r\n*0\r\n",
    "ranges of texts": b"*1\r\n*3\r\n$1\r\na\r\n$1\r\nb\r\n$1\r\nc\r\n",
    "ranges beyond": b"*1\r\n*3\r\n:-5\r\n:999999999999\r\n*2\r\n$9\r\n127.0.0.1\r\n:1\r\n",
    "a range without a node": b"*1\r\n*3\r\n:0\r\n:16383\r\n*0\r\n",
    "a node without a host": b"*1\r\n*3\r\n:0\r\n:16383\r\n*2\r\n$-1\r\n$-1\r\n",
    "an error": b"-ERR unknown command\r\n",
    "an error that is no text": b"-\xff\xfe\r\n",
    "garbage": b"HTTP/1.1 400 Bad Request\r\n\r\n",
    "half": b"*1\r\n*3\r\n:0\r\n",
    "the end": HANG_UP,
    "silence": SILENCE,
}


def serve(kind: str, server: FakeServer, nonsense: Answer) -> Callable[[bytes], Answer]:
    """Answers as a sentinel or a cluster's node, with nonsense when it is asked who serves."""

    def answer(request: bytes) -> Answer:
        name = name_of(request)
        if name in ("SENTINEL", "CLUSTER"):
            return nonsense
        if name == "ROLE":
            return b"*3\r\n$6\r\nmaster\r\n:0\r\n*0\r\n"
        return b"-READONLY not here\r\n" if kind == "cluster" else decided()

    return answer


def sense(kind: str, server: FakeServer) -> Answer:
    if kind == "sentinel":
        return array("127.0.0.1", str(server.port))
    node = b"*2\r\n$9\r\n127.0.0.1\r\n:%d\r\n" % server.port
    return b"*1\r\n*3\r\n:0\r\n:16383\r\n" + node


def url_of(kind: str, server: FakeServer) -> str:
    path = "/mymaster" if kind == "sentinel" else ""
    return f"redis+{kind}://127.0.0.1:{server.port}{path}"


@pytest.mark.parametrize("kind", ["sentinel", "cluster"])
@pytest.mark.parametrize("nonsense", NONSENSE.values(), ids=NONSENSE)
def test_nonsense_about_who_serves_is_a_typed_error_in_time(
    ask: Ask, kind: str, nonsense: Answer
) -> None:
    with FakeServer() as server:
        server.answer = serve(kind, server, nonsense)
        limiter = ask.limiter(store_of(url_of(kind, server), timeout=TIMEOUT_S))
        start = time.monotonic()
        ask.error(limiter)
        assert time.monotonic() - start < 4 * TIMEOUT_S + SLACK_S
        right = sense(kind, server)
        server.answer = lambda request: (
            decided() if name_of(request) == "EVALSHA" else serve(kind, server, right)(request)
        )
        ask.until_answered(limiter, 8.0)


@pytest.mark.parametrize("nonsense", NONSENSE.values(), ids=NONSENSE)
def test_a_primary_that_says_nonsense_of_its_role_is_not_believed(
    ask: Ask, nonsense: Answer
) -> None:
    with FakeServer() as server:
        right = sense("sentinel", server)
        server.answer = lambda request: (
            nonsense if name_of(request) == "ROLE" else serve("sentinel", server, right)(request)
        )
        limiter = ask.limiter(store_of(url_of("sentinel", server), timeout=TIMEOUT_S))
        start = time.monotonic()
        ask.error(limiter)
        assert time.monotonic() - start < 4 * TIMEOUT_S + SLACK_S
        assert server.requests["EVALSHA"] == 0
        server.answer = serve("sentinel", server, right)
        ask.until_answered(limiter, 8.0)


@pytest.mark.parametrize("kind", ["sentinel", "cluster"])
@pytest.mark.parametrize("policy", ["allow", "deny"])
def test_nonsense_about_who_serves_follows_the_policy(ask: Ask, kind: str, policy: str) -> None:
    with FakeServer() as server:
        server.answer = serve(kind, server, b"+OK\r\n")
        store = store_of(url_of(kind, server), timeout=TIMEOUT_S, on_error=policy)
        assert ask.limit(ask.limiter(store)).limited is (policy == "deny")
        assert store.failures == 1

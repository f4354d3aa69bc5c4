"""Whatever answers a decision: a result that can be true, or one typed error, in time.

The server is a fake one. After each bad reply the next decision is answered as if nothing had been.
"""

from __future__ import annotations

import time

import pytest
from faults_ask import SLACK_S, Ask, ask, store_of
from faults_server import HANG_UP, SILENCE, Answer, FakeServer, array, decided

from headway import RateLimitResult, StoreUnavailableError

__all__ = ["ask"]

NOW = str(int(time.time() * 1e6))
FAULTS = {"protocol", "closed", "timeout", "store"}

WRONG: dict[str, Answer] = {
    "a status": b"+OK\r\n",
    "a number": b":1\r\n",
    "a text": b"$2\r\nOK\r\n",
    "nil": b"$-1\r\n",
    "a nil array": b"*-1\r\n",
    "nothing in an array": b"*0\r\n",
    "too few": array(1, NOW, NOW),
    "too many": array(1, NOW, NOW, "0", "0"),
    "far too many": array(*range(5000)),
    "nested": b"*4\r\n:1\r\n*1\r\n:1\r\n:0\r\n:0\r\n",
    "nils": b"*4\r\n$-1\r\n$-1\r\n$-1\r\n$-1\r\n",
    "an error inside": b"*4\r\n:1\r\n-ERR no\r\n:0\r\n:0\r\n",
    "words": array(1, "now", NOW, "0"),
    "empty words": array(1, "", "", ""),
    "a sign": array(1, "-5", NOW, "0"),
    "a negative number": array(1, -5, NOW, "0"),
    "a fraction": array(1, "1.5", NOW, "0"),
    "an exponent": array(1, "1e15", NOW, "0"),
    "a blank": array(1, " 15", NOW, "0"),
    "a zero byte": array(1, b"15\x00", NOW, "0"),
    "the end of time": array(1, 2**63 - 1, NOW, "0"),
    "nineteen digits": array(1, "9" * 19, NOW, "0"),
    "a thousand digits": array(1, "9" * 1000, NOW, "0"),
    "more than 64 bits": b"*4\r\n:99999999999999999999999\r\n:0\r\n:0\r\n:0\r\n",
    "no RESP": b"HTTP/1.1 400 Bad Request\r\n\r\n",
    "binary": bytes(range(256)) * 8,
    "zeros": b"\x00" * 4096,
    "an unknown type": b"@4\r\n",
    "no number of elements": b"*x\r\n",
    "a negative number of elements": b"*-2\r\n",
    "two thousand million elements": b"*2147483647\r\n",
    "beyond counting": b"*9223372036854775807\r\n",
    "a huge bulk": b"*4\r\n:1\r\n$2000000000\r\nabc",
    "a bulk beyond counting": b"$9223372036854775807\r\n",
    "a bulk of negative length": b"*4\r\n:1\r\n$-2\r\n",
    "a bulk that does not end": b"*4\r\n:1\r\n$2\r\n12345\r\n:0\r\n:0\r\n",
    "seven deep": b"*1\r\n" * 7 + b":1\r\n",
    "deeper than anybody goes": b"*1\r\n" * 200_000,
    "RESP3 map": b"%2\r\n+a\r\n:1\r\n+b\r\n:2\r\n",
    "RESP3 set": b"~2\r\n:1\r\n:2\r\n",
    "RESP3 null": b"_\r\n",
    "RESP3 true": b"#t\r\n",
    "RESP3 double": b",1.5\r\n",
    "RESP3 infinity": b",inf\r\n",
    "RESP3 big number": b"(" + b"9" * 60 + b"\r\n",
    "RESP3 verbatim": b"=6\r\ntxt:OK\r\n",
    "RESP3 error": b"!5\r\nERR x\r\n",
    "RESP3 doubles": b"*4\r\n,1\r\n,1\r\n,1\r\n,1\r\n",
    "RESP3 streamed array": b"*?\r\n:1\r\n.\r\n",
    "RESP3 attribute": b"|1\r\n+a\r\n:1\r\n+OK\r\n",
    "half a header": b"*4",
    "half a reply": decided()[:-5],
    "half a reply, and the end": [decided()[:-5], HANG_UP],
    "the end": HANG_UP,
    "silence": SILENCE,
}


@pytest.mark.parametrize("wrong", WRONG.values(), ids=WRONG)
def test_a_wrong_reply_is_one_typed_error_and_the_next_decision_is_well(
    ask: Ask, wrong: Answer
) -> None:
    with FakeServer(lambda request: wrong) as server:
        limiter = ask.limiter(store_of(server.url, timeout=0.3))
        start = time.monotonic()
        error = ask.error(limiter)
        assert time.monotonic() - start < 0.3 + SLACK_S
        assert error.fault in FAULTS
        assert error.may_have_counted
        assert server.requests["EVALSHA"] == 1, "it was sent again"
        server.answer = lambda request: decided()
        assert not ask.limit(limiter).limited


NUMBERS = ["0", "1", "2", str(2**31), str(2**52), str(2**53), str(10**17), "9" * 18, NOW]


@pytest.mark.parametrize("using", ["gcra", "fixed_window", "sliding_window"])
def test_numbers_that_cannot_be_do_not_make_results_that_cannot_be(ask: Ask, using: str) -> None:
    words = 3 if using == "sliding_window" else 2
    answers = [
        array(first, NOW, *(number if place == at else NOW for at in range(words)))
        for first in (0, 1, 7)
        for place in range(words)
        for number in NUMBERS
    ]
    answers += [array(1, number, *["0"] * words) for number in NUMBERS]
    with FakeServer() as server:
        limiter = ask.limiter(store_of(server.url), using)
        for answer in answers:
            server.answer = lambda request, answer=answer: answer  # type: ignore[misc]
            told = ask.told(limiter)
            if isinstance(told, StoreUnavailableError):
                continue
            assert 0 <= told.state.remaining <= told.state.limit, answer
            assert told.state.reset_after >= 0, answer
            assert told.state.retry_after >= 0 or told.state.retry_after == -1, answer


def test_a_reservation_beyond_the_timeout_is_not_waited_for(ask: Ask) -> None:
    far = decided(ahead_us=10**6 * 86400 * 30)
    with FakeServer(lambda request: far) as server:
        limiter = ask.limiter(store_of(server.url))
        start = time.monotonic()
        told = ask.told(limiter, timeout=0.2)
        assert time.monotonic() - start < 0.6 + SLACK_S
        assert isinstance(told, StoreUnavailableError)


@pytest.mark.parametrize("size", [1, 2, 7])
def test_a_reply_in_pieces_is_a_reply(ask: Ask, size: int) -> None:
    def answer(request: bytes) -> Answer:
        reply = decided()
        return [reply[at : at + size] for at in range(0, len(reply), size)]

    with FakeServer(answer) as server:
        limiter = ask.limiter(store_of(server.url, timeout=5.0))
        assert all(isinstance(one, RateLimitResult) for one in ask.many(limiter, 8))
        assert server.requests["EVALSHA"] == 8


def test_a_reply_that_nobody_asked_for_ends_the_connection_and_nothing_else(ask: Ask) -> None:
    with FakeServer(lambda request: decided() + decided(0)) as server:
        limiter = ask.limiter(store_of(server.url))
        for n in range(1, 4):
            assert not ask.limit(limiter).limited
            assert server.connections == n


def test_what_is_said_while_nobody_asks_is_not_the_next_decisions_reply(ask: Ask) -> None:
    with FakeServer() as server:
        limiter = ask.limiter(store_of(server.url))
        ask.limit(limiter)
        server.say(decided(0, ahead_us=10**9))
        ask.turn(0.05)
        assert not isinstance(told := ask.told(limiter), RateLimitResult) or not told.limited


def test_an_old_reply_is_not_taken_for_a_new_one_after_a_deadline(ask: Ask) -> None:
    with FakeServer(lambda request: SILENCE) as server:
        limiter = ask.limiter(store_of(server.url, timeout=0.1))
        for n in range(1, 4):
            assert ask.error(limiter).fault == "timeout"
            assert server.connections == n


REFUSED = {"closed", "connect"}
GREETINGS: dict[str, tuple[Answer, set[str]]] = {
    "silence": (SILENCE, {"timeout"}),
    "the end": (HANG_UP, {"closed"}),
    "a web server": (b"HTTP/1.1 400 Bad Request\r\n\r\n", {"protocol"}),
    "a mail server": (b"220 mail.example.org ESMTP\r\n", {"protocol"}),
    "a number": (b":1\r\n", {"protocol"}),
    "binary": (bytes(range(256)), {"protocol"}),
    "a login": (b"-NOAUTH Authentication required.\r\n", {"login"}),
    "too many clients": ([b"-ERR max number of clients reached\r\n", HANG_UP], REFUSED),
    "half": (b"+O", {"timeout"}),
    "protected mode": ([b"-DENIED Redis is running in protected mode\r\n", HANG_UP], {"protocol"}),
    "deep": (b"*1\r\n" * 200_000, {"protocol", "timeout"}),
}


@pytest.mark.parametrize(("said", "faults"), GREETINGS.values(), ids=GREETINGS)
def test_a_wrong_greeting_is_a_typed_error_of_a_decision_that_was_never_sent(
    ask: Ask, said: Answer, faults: set[str]
) -> None:
    with FakeServer(greeting=lambda request: said) as server:
        limiter = ask.limiter(store_of(server.url, timeout=0.3))
        start = time.monotonic()
        error = ask.error(limiter)
        assert time.monotonic() - start < 0.6 + SLACK_S
        assert error.fault in faults
        assert not error.may_have_counted
        assert server.requests["EVALSHA"] == 0

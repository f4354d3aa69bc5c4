"""What a server says takes bounded time and memory, however long it says that it will be and in
whatever pieces it comes; what it says of other hosts, or of leases, gets no further than it may.
"""

from __future__ import annotations

import threading
import time
from binascii import crc_hqx
from collections.abc import Callable

import pytest
from faults_ask import DEADLINE_S, SLACK_S, Ask, ask, store_of
from faults_server import Answer, FakeServer, array, decided
from ports import until

from headway import StoreUnavailableError, Throttled
from headway._core import Link
from headway.store import RedisStore

__all__ = ["ask"]

MUCH_KIB = 400 * 1024
"""More than any reply within the bounds makes a process grow, address space included."""

ABSURD: dict[str, Answer] = {
    "at once": b"*2147483647\r\n",
    "cut after the first byte": [b"*", b"2147483647\r\n"],
    "cut within the number": [b"*21", b"47483647\r\n"],
    "after a part": b"*2\r\n:1\r\n*2147483647\r\n",
    "after a part, cut": [b"*2\r\n:1\r\n", b"*2147483647\r\n"],
    "several within one": b"*4\r\n" + b"*500000\r\n" + b":1\r\n" * 500_000 + b"*600000\r\n",
    "a text": b"*2\r\n:1\r\n$2000000000\r\n",
    "a text, cut": [b"*2\r\n:1\r\n$2", b"000000000\r\n"],
    "a line without an end": b"+" + b"x" * 200_000,
    "a number without an end": b":" + b"1" * 200_000,
    "deep": b"*1\r\n" * 400_000,
    "deep and cut": [b"*1\r\n" * 3, b"*1\r\n" * 400_000],
}


def peak_kib() -> int:
    """The most that this process has had of address space."""
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) for line in status if line.startswith("VmPeak:"))


def slowly(answer: Answer) -> Callable[[bytes], Answer]:
    """The pieces of an answer as pieces, and not as what one read takes together."""

    def pieces(request: bytes) -> Answer:
        time.sleep(0.01)
        return answer

    return pieces


@pytest.mark.parametrize("absurd", ABSURD.values(), ids=ABSURD)
def test_a_reply_of_absurd_length_is_refused_before_it_takes_memory(
    ask: Ask, absurd: Answer
) -> None:
    with FakeServer(slowly(absurd)) as server:
        limiter = ask.limiter(store_of(server.url, timeout=2.0))
        before, start = peak_kib(), time.monotonic()
        error = ask.error(limiter)
        assert error.fault == "protocol"
        assert time.monotonic() - start < 2.0 + SLACK_S
        assert peak_kib() - before < MUCH_KIB
        server.answer = lambda request: decided()
        assert not ask.limit(limiter).limited


@pytest.mark.parametrize("absurd", ABSURD.values(), ids=ABSURD)
def test_so_is_a_greeting(ask: Ask, absurd: Answer) -> None:
    with FakeServer(greeting=lambda request: absurd) as server:
        limiter = ask.limiter(store_of(server.url, timeout=2.0))
        before = peak_kib()
        assert ask.error(limiter).fault in ("protocol", "closed")
        assert peak_kib() - before < MUCH_KIB
        assert server.requests["EVALSHA"] == 0


def test_a_server_that_does_not_stop_talking_is_given_up_in_time(ask: Ask) -> None:
    flood = b">2\r\n+news\r\n+news\r\n" * 4096

    def answer(request: bytes) -> Answer:
        return [flood] * 5_000

    with FakeServer(answer) as server:
        limiter = ask.limiter(store_of(server.url, timeout=0.5))
        start = time.monotonic()
        ask.error(limiter)
        assert time.monotonic() - start < 0.5 + SLACK_S


# ---- replies that cannot be ----


def test_a_reply_that_no_script_makes_ends_the_connection_that_it_came_by(ask: Ask) -> None:
    with FakeServer(lambda request: b":5\r\n") as server:
        limiter = ask.limiter(store_of(server.url, timeout=2.0))
        for n in range(1, 6):
            assert ask.error(limiter).fault == "protocol"
            assert server.connections == n


def test_replies_that_are_out_of_step_stay_so_for_nobody(ask: Ask) -> None:
    """One reply too few, and then each caller would get the one before its own."""
    first = threading.Event()

    def answer(request: bytes) -> Answer:
        if not first.is_set():
            first.set()
            return b":5\r\n" + decided()
        return decided()

    with FakeServer(answer) as server:
        limiter = ask.limiter(store_of(server.url, timeout=2.0))
        told = ask.many(limiter, 16)
        assert any(isinstance(one, StoreUnavailableError) for one in told)
        assert server.connections <= 3
        assert not ask.limit(limiter, "fresh").limited


# ---- other hosts ----

HOSTS = [b"\xff\xfe", b"\xc3\x28", b"a\x01b", b"a b", b".hidden", b"a\xcc\x88", b"h\x00st"]


@pytest.mark.parametrize("host", HOSTS)
@pytest.mark.parametrize("word", [b"MOVED", b"ASK"])
@pytest.mark.parametrize("on_error", ["raise", "allow"])
def test_a_redirect_to_what_is_no_host_is_a_refusal(
    ask: Ask, word: bytes, host: bytes, on_error: str
) -> None:
    reply = b"-" + word + b" 1 " + host + b":6379\r\n"
    with FakeServer(lambda request: reply) as server:
        limiter = ask.limiter(store_of(server.url, on_error=on_error))
        told = ask.told(limiter)
        assert isinstance(told, StoreUnavailableError) == (on_error == "raise")
        server.answer = lambda request: decided()
        assert not ask.limit(limiter).limited


def test_threads_that_learn_of_a_node_together_share_one_link_to_it() -> None:
    """Making a link runs Python code, so another thread may make the same; the first stays."""
    with FakeServer() as node:

        def answer(request: bytes) -> Answer:
            key = request.split(b"\r\n")[8]
            slot = crc_hqx(key[key.index(b"{") + 1 : key.index(b"}")], 0) % 16384
            return b"-MOVED %d 127.0.0.1:%d\r\n" % (slot, node.port)

        class Slow(RedisStore):
            def _link_to(self, host: str, port: int) -> Link:
                link = super()._link_to(host, port)
                if port == node.port:
                    meet.wait(DEADLINE_S)
                return link

        with FakeServer(answer) as seed:
            meet = threading.Barrier(8)
            store = Slow(seed.url)
            limiter = Throttled(quota="1000/s", store=store)
            keys = [f"key{n}" for n in range(8)]
            threads = [threading.Thread(target=limiter.limit, args=(key,)) for key in keys]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join(DEADLINE_S)
            junk = [bytearray(4096) for _ in range(200)]
            assert not any(limiter.limit(key).limited for key in keys)
            del junk
            assert len(store._links()) == 2
            until(lambda: node.links == 1, "links that were not kept are closed")
            assert node.connections == 1
            store.close()


# ---- leases ----


@pytest.mark.parametrize(
    "numbers",
    [
        (1, "0", 2**63 - 1),
        (1, "0", 9 * 10**17),
        (1, 9 * 10**17, "0"),
        (1, 2**63 - 1, "0"),
    ],
    ids=["the last mark", "a late mark", "a late arrival", "the last arrival"],
)
def test_a_lease_until_the_end_of_time_is_no_lease(
    ask: Ask, numbers: tuple[int | str, ...]
) -> None:
    def answer(request: bytes) -> Answer:
        number, *words = numbers
        now = int(time.time() * 1e6)
        state = [now if word == "0" else word for word in words]
        return array(1, now, number, state[0], 0, state[1])

    with FakeServer(answer) as server:
        limiter = ask.limiter(store_of(server.url, lease={"tokens": 10}), "gcra", 100)
        assert ask.error(limiter).fault == "protocol"

"""Hypothesis speaks for the server: whatever it says, in whatever pieces, there is a result that
can be true or one typed error, and afterwards an honest server is believed again.
"""

from __future__ import annotations

import time
from typing import Any

import pytest
from faults_ask import QUOTA, Ask, store_of
from faults_server import HANG_UP, Answer, FakeServer, array, decided
from hypothesis import given
from hypothesis import strategies as st

from headway import StoreUnavailableError

TIMEOUT_S = 0.05

numbers = st.one_of(
    st.integers(-5, 5),
    st.sampled_from([2**n + d for n in (31, 32, 52, 53, 62, 63, 64) for d in (-1, 0, 1)]),
    st.integers(0, 2**64),
)
lengths = st.one_of(st.integers(-3, 10), st.sampled_from([255, 65_536, 2**20]))
line = st.binary(max_size=12)


@st.composite
def frames(draw: st.DrawFn, depth: int = 3) -> bytes:
    """Something like RESP: mostly well formed."""
    kind = draw(st.sampled_from(b"+-:$$**%~>_#,(=!|" if depth else b"+-:$_#,("))
    sign = bytes([kind])
    if kind in b"*~>%|":
        inner = draw(st.lists(frames(depth - 1), max_size=6))
        told = len(inner) if draw(st.booleans()) else draw(lengths)
        return sign + b"%d\r\n" % told + b"".join(inner)
    if kind in b"$=!":
        text = draw(st.one_of(line, numbers.map(lambda n: b"%d" % n)))
        told = len(text) if draw(st.booleans()) else draw(lengths)
        return sign + b"%d\r\n%s\r\n" % (told, text)
    if kind in b":(":
        return sign + b"%d\r\n" % draw(numbers)
    return sign + draw(line).replace(b"\r", b"").replace(b"\n", b"") + b"\r\n"


@st.composite
def records(draw: st.DrawFn) -> bytes:
    """An array such as a script answers with: instants near now, and far from it."""
    now = int(time.time() * 1e6)
    near = st.integers(-(10**7), 10**14).map(lambda away: max(now + away, 0))
    word = st.one_of(near.map(str), near.map(str), numbers, numbers.map(str), st.binary(max_size=9))
    return array(draw(st.integers(0, 2)), *draw(st.lists(word, min_size=2, max_size=5)))


@st.composite
def spoiled(draw: st.DrawFn) -> bytes:
    """A right reply with a few bytes changed, left out or put in."""
    data = bytearray(decided(draw(st.integers(0, 1))))
    for _ in range(draw(st.integers(1, 3))):
        at = draw(st.integers(0, len(data) - 1))
        deed = draw(st.sampled_from(["change", "cut", "insert"]))
        if deed == "change":
            data[at] = draw(st.integers(0, 255))
        elif deed == "cut":
            del data[at : at + draw(st.integers(1, 8))]
        else:
            data[at:at] = draw(line)
        data = data or bytearray(b"*")
    return bytes(data)


said = st.one_of(frames(), records(), spoiled(), st.binary(max_size=200))


@st.composite
def pieces(draw: st.DrawFn) -> list[Any]:
    data = draw(said)
    cuts = sorted(draw(st.lists(st.integers(0, len(data)), max_size=3)))
    parts: list[Any] = [data[a:b] for a, b in zip([0, *cuts], [*cuts, len(data)], strict=True)]
    # Most end with the connection, so that what is waited for is not the deadline.
    return [*parts, HANG_UP] if draw(st.integers(0, 9)) else parts


@pytest.mark.parametrize("as_task", [False, True], ids=["threads", "tasks"])
@pytest.mark.parametrize("using", ["gcra", "fixed_window", "sliding_window"])
def test_whatever_a_server_says_is_a_result_or_a_typed_error(as_task: bool, using: str) -> None:
    ask = Ask(as_task)
    with FakeServer() as server:

        @given(answer=pieces(), timeout=st.sampled_from([-1, -1, 0.01]))
        def one(answer: Answer, timeout: float) -> None:
            limiter = ask.limiter(store_of(server.url, timeout=TIMEOUT_S), using)
            server.answer = lambda request: answer
            told = ask.told(limiter, timeout=timeout)
            if isinstance(told, StoreUnavailableError):
                assert told.fault
                return
            assert 0 <= told.state.remaining <= told.state.limit == QUOTA
            assert told.state.reset_after >= 0
            assert told.state.retry_after >= -1

        one()
        server.answer = lambda request: decided()
        assert not ask.limit(ask.limiter(store_of(server.url))).limited
    ask.close()


@pytest.mark.parametrize("as_task", [False, True], ids=["threads", "tasks"])
def test_whatever_a_server_greets_with_is_no_decision_or_a_typed_error(as_task: bool) -> None:
    ask = Ask(as_task)
    with FakeServer() as server:

        @given(answer=pieces())
        def one(answer: Answer) -> None:
            server.greeting = lambda request: answer
            told = ask.told(ask.limiter(store_of(server.url, timeout=TIMEOUT_S)))
            assert not isinstance(told, StoreUnavailableError) or told.fault

        one()
    ask.close()

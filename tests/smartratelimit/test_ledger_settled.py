"""A limit that was set by hand has counted a request when it lets it go: there is no more to say.

So a file is written once for such a request and not twice, and a process that is killed before the
response leaves nothing behind that could be wrong.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from fake_exchange import Exchange
from hypothesis import given
from hypothesis import strategies as st

from headway._core import Ledger, Observation, now_ns, parse_headers
from headway.exceptions import DataError
from headway.smartratelimit import RateLimiter, RateLimitExceeded, RetryConfig
from headway.smartratelimit.storage import SQLiteStorage

S = 10**9
HOUR = 3600 * S
NOW = 1_800_000_000 * S
HOST = "https://api.example.com"
URL = HOST + "/data"
TOLD = {"X-RateLimit-Limit": "100", "X-RateLimit-Remaining": "90", "X-RateLimit-Reset": "30"}


def ticket_of(ledger: Ledger, costs: dict[str, int] | None = None) -> bytes:
    ticket = ledger.reserve(costs, NOW, 0)
    assert isinstance(ticket, bytes)
    return ticket


@pytest.mark.parametrize(
    ("source", "costs", "settled"),
    [
        ("configured", None, True),
        ("configured", {"requests": 3}, True),
        ("configured", {"requests": 0}, True),
        ("configured", {"requests": 1, "tokens": 5}, False),  # of tokens a header may tell
        ("default", None, False),  # yields to the first header, which has to know what is under way
        ("registry", None, False),
    ],
)
def test_what_was_set_by_hand_is_settled(
    source: str, costs: dict[str, int] | None, settled: bool
) -> None:
    ledger = Ledger()
    ledger.configure("requests", 10, HOUR, source)
    assert Ledger.is_settled(ticket_of(ledger, costs)) is settled


def test_where_nothing_is_known_a_ticket_is_not_settled() -> None:
    assert not Ledger.is_settled(ticket_of(Ledger()))


def test_a_learned_limit_next_to_one_that_was_set_leaves_it_open() -> None:
    ledger = Ledger()
    ledger.configure("tokens", 10, HOUR)
    told = parse_headers(TOLD, 200)
    ledger.observe(ticket_of(ledger), told, NOW, NOW)
    assert not Ledger.is_settled(ticket_of(ledger, {"requests": 1, "tokens": 1}))


def test_what_is_no_ticket_is_refused() -> None:
    with pytest.raises(ValueError, match="a ticket must be what reserve"):
        Ledger.is_settled(b"no ticket")


AMOUNT = st.integers(0, 4)
COSTS = st.none() | st.fixed_dictionaries({"requests": AMOUNT, "tokens": AMOUNT})


@given(
    st.lists(st.sampled_from(["requests", "tokens"]), unique=True, min_size=1),
    st.lists(
        st.tuples(COSTS, st.integers(0, 30 * S), st.booleans(), st.sampled_from([{}, TOLD])),
        max_size=40,
    ),
)
def test_leaving_out_what_is_settled_changes_no_answer(
    dimensions: list[str], requests: list[tuple[Any, int, bool, Any]]
) -> None:
    told, silent = Ledger(), Ledger()
    for ledger in (told, silent):
        for name in dimensions:
            ledger.configure(name, 5, HOUR // 60)
    now = NOW
    for costs, later, lost, headers in requests:
        answers = [ledger.reserve(costs, now, 10**18) for ledger in (told, silent)]
        sent, now = now, now + later
        if not isinstance(answers[0], bytes):
            assert answers[0] == answers[1]
            continue
        assert isinstance(answers[1], bytes)
        if lost:
            told.fail(answers[0], False, now)
            silent.fail(answers[1], False, now)
        else:
            heard = parse_headers(headers, 200)
            told.observe(answers[0], heard, sent, now)
            if heard or not Ledger.is_settled(answers[1]):
                silent.observe(answers[1], heard, sent, now)
        assert told.status(now) == silent.status(now)


# ---- through a limiter, on a file ----


class Counting(SQLiteStorage):
    changes = 0

    def update(self, key: str, step: Any) -> Any:
        self.changes += 1
        return super().update(key, step)


@pytest.fixture
def storage(tmp_path: Path) -> Counting:
    return Counting(str(tmp_path / "limits.db"))


@pytest.mark.parametrize(
    ("by_hand", "headers", "changes"),
    [(True, {}, 10), (True, TOLD, 20), (False, {}, 20), (False, TOLD, 20)],
)
def test_a_file_is_written_once_for_a_request_where_no_response_can_teach(
    storage: Counting, by_hand: bool, headers: dict[str, str], changes: int
) -> None:
    limiter = RateLimiter(storage)
    if by_hand:
        limiter.set_limit(HOST, 100, "1h")
    exchange = Exchange(limiter, lambda _: (200, headers))
    storage.changes = 0
    assert [exchange.get(URL) for _ in range(10)] == [200] * 10
    assert storage.changes == changes


def test_retry_after_is_heard_all_the_same(storage: Counting) -> None:
    limiter = RateLimiter(storage, raise_on_limit=True, retry=RetryConfig(max_retries=0))
    limiter.set_limit(HOST, 100, "1h")
    exchange = Exchange(limiter, lambda _: (429, {"Retry-After": "30"}))
    assert exchange.get(URL) == 429
    with pytest.raises(RateLimitExceeded) as raised:
        exchange.get(URL)
    assert 25 < raised.value.retry_after <= 30
    assert exchange.sent == 1


def test_a_request_that_was_never_sent_gives_its_cost_back(storage: Counting) -> None:
    limiter = RateLimiter(storage)
    limiter.set_limit(HOST, 100, "1h")

    def refuse(_: object) -> Any:
        raise ConnectionRefusedError

    exchange = Exchange(limiter, refuse)
    with pytest.raises(ConnectionRefusedError):
        exchange.get(URL)
    status = limiter.get_status(HOST)
    assert status is not None
    assert status.remaining == 100


_SENDER = """
import os, sys
from fake_exchange import Exchange
from headway.smartratelimit import RateLimiter, RateLimitExceeded
limiter = RateLimiter(sys.argv[1], raise_on_limit=True)
log = os.open(sys.argv[2], os.O_WRONLY | os.O_APPEND)
def answer(request):
    os.write(log, b".")
    return 200, {}
exchange = Exchange(limiter, answer)
print("ready", flush=True)
sys.stdin.readline()
try:
    while True:
        exchange.get("https://api.example.com/data")
except RateLimitExceeded:
    print("full", flush=True)
"""


@pytest.mark.slow
def test_processes_that_are_killed_at_any_moment_never_send_more_than_the_limit(
    tmp_path: Path,
) -> None:
    limit, kills = 3000, 0
    url, log = f"sqlite:///{tmp_path / 'limits.db'}", tmp_path / "sent"
    log.touch()
    limiter = RateLimiter(url)
    limiter.set_limit(HOST, limit, "3000d")

    def start() -> subprocess.Popen[bytes]:
        environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parent)}
        command = [sys.executable, "-c", _SENDER, url, str(log)]
        pipe = subprocess.PIPE
        return subprocess.Popen(command, stdin=pipe, stdout=pipe, env=environment)

    children = [start() for _ in range(4)]
    deadline = time.monotonic() + 60
    try:
        for child in children:
            assert child.stdout is not None
            assert child.stdout.readline() == b"ready\n"
        for child in children:
            assert child.stdin is not None
            child.stdin.write(b"go\n")
            child.stdin.flush()
        for number, child in enumerate(children[:3]):  # the fourth goes on to the end
            while log.stat().st_size < limit * (number + 1) // 5:
                assert time.monotonic() < deadline
                os.sched_yield()
            child.send_signal(signal.SIGKILL)
            kills += child.wait() == -signal.SIGKILL
        out, _ = children[3].communicate(timeout=60)
        assert out == b"full\n"
    finally:
        for child in children:
            child.kill()
            child.communicate()
    sent = log.stat().st_size
    assert kills == 3
    assert limit - kills <= sent <= limit  # one that was killed may have taken and not sent
    assert isinstance(limiter._storage.change(HOST, "reserve", None, time.time_ns(), 0), tuple)


# ---- learn: parse_headers and observe in one ----

HEADERS = st.sampled_from(
    [
        {},
        TOLD,
        {**TOLD, "X-RateLimit-Remaining": "many"},
        {**TOLD, "X-RateLimit-Resource": "core"},
        {"Retry-After": "7"},
        {"RateLimit-Policy": '"burst";q=10;w=1', "RateLimit": '"burst";r=4;t=1'},
    ]
)


@given(st.lists(st.tuples(HEADERS, st.sampled_from([200, 403, 429, 503])), max_size=10))
def test_learning_is_parsing_and_observing(responses: list[tuple[dict[str, str], int]]) -> None:
    at_once, apart = Ledger(), Ledger()
    for headers, status in responses:
        now = now_ns()
        tickets = [one.reserve({"requests": 0}, now, 0) for one in (at_once, apart)]
        if not isinstance(tickets[0], bytes) or not isinstance(tickets[1], bytes):
            assert isinstance(tickets[0], tuple) is isinstance(tickets[1], tuple)
            return
        unusual = at_once.learn(tickets[0], headers, status, None, now, "")
        told = parse_headers(headers, status)
        apart.observe(tickets[1], told, now, now_ns())
        is_unusual = told.ignored > 0 or any(one.resource for one in told.dimensions)
        assert (unusual is not None) is is_unusual
        if unusual is not None:
            assert isinstance(unusual, Observation)
            assert unusual.dimensions == told.dimensions
        found, expected = (one.status(now_ns())[0] for one in (at_once, apart))
        assert [one[:4] for one in found] == [one[:4] for one in expected]


@pytest.mark.parametrize("wrong", [5, None, "text", {"a": 1}])
def test_headers_that_are_none_teach_nothing(wrong: Any) -> None:
    ledger = Ledger()
    ticket = ticket_of(ledger)
    before = ledger.state()
    with pytest.raises(DataError, match="Invalid headers"):
        ledger.learn(ticket, wrong, 200, None, NOW, "")
    assert ledger.state() == before

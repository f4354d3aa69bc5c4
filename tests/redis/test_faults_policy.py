"""What a decision is while nobody can make it: `on_error` raises, allows or denies.

Each switch is logged once, whoever asks and however often; each decision made without the server is
counted; the server takes over again by itself.
"""

from __future__ import annotations

import contextlib
import logging
import signal
import time

import pytest
from faults_ask import QUOTA, Ask, admitted, ask, store_of
from faults_server import FakeServer, decided
from proxy import Proxy

from headway import LimitedError, StoreUnavailableError, Throttled, rate_limiter

__all__ = ["ask"]

RESTS_S = 20.0


def lines(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [r.getMessage() for r in caplog.records if r.name == "headway.store"]


@pytest.fixture(autouse=True)
def everything_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, "headway")


def recover(ask: Ask, limiter: object, proxy: Proxy) -> None:
    """Asks until the proxy has seen a decision."""
    end, before = time.monotonic() + RESTS_S, proxy.requests["EVALSHA"]
    while proxy.requests["EVALSHA"] == before:
        assert time.monotonic() < end, "the server is not asked any more"
        ask.limit(limiter, "other")
        ask.turn(0.005)


@pytest.mark.parametrize("policy", ["allow", "deny"])
def test_the_policy_decides_while_the_server_is_away_and_says_so_once_each_way(
    ask: Ask, proxy: Proxy, caplog: pytest.LogCaptureFixture, policy: str
) -> None:
    store = store_of(proxy.url, on_error=policy)
    limiter = ask.limiter(store)
    told = [ask.limit(limiter) for _ in range(2)]
    assert store.failures == 0
    for times in (1, 2):
        proxy.refuse(100_000)
        proxy.cut()
        ask.turn(0.05)
        before = store.failures
        without = [ask.limit(limiter) for _ in range(100)] + list(ask.many(limiter, 20))  # type: ignore[list-item]
        assert all(one.limited is (policy == "deny") for one in without)
        assert store.failures == before + 120
        assert len(lines(caplog)) == 2 * times - 1
        assert ("allowed" if policy == "allow" else "denied") in lines(caplog)[-1]
        proxy.heal()
        recover(ask, limiter, proxy)
        assert len(lines(caplog)) == 2 * times
        assert "answers again" in lines(caplog)[-1]
        assert str(store.failures) in lines(caplog)[-1]
    counted = store.failures
    told += [ask.limit(limiter) for _ in range(QUOTA)]
    assert admitted(told) == QUOTA, "the server had kept its state"  # type: ignore[arg-type]
    assert store.failures == counted
    assert len(lines(caplog)) == 4


def test_raising_is_counted_and_said_once_each_way_too(
    ask: Ask, proxy: Proxy, caplog: pytest.LogCaptureFixture
) -> None:
    store = store_of(proxy.url)
    limiter = ask.limiter(store)
    proxy.refuse()
    for _ in range(20):
        assert ask.error(limiter).fault in ("closed", "connect")
    assert store.failures == 20
    assert len(lines(caplog)) == 1
    assert "raises" in lines(caplog)[0]
    proxy.heal()
    end = time.monotonic() + RESTS_S
    while len(lines(caplog)) == 1:
        assert time.monotonic() < end, "the server is not asked any more"
        with contextlib.suppress(StoreUnavailableError):
            ask.limit(limiter, "other")
        ask.turn(0.005)
    assert "answers again" in lines(caplog)[1]
    assert str(store.failures) in lines(caplog)[1]


@pytest.mark.parametrize("policy", ["allow", "deny"])
@pytest.mark.parametrize(
    "reply",
    [b"-OOM no\r\n", b"-NOPERM no\r\n", b"-READONLY no\r\n", b"+junk\r\n", b"junk\r\n", None],
    ids=["oom", "noperm", "readonly", "wrong", "garbage", "the end"],
)
def test_the_policy_is_for_every_way_of_not_answering(
    ask: Ask, policy: str, reply: bytes | None
) -> None:
    with FakeServer(lambda request: reply) as server:
        store = store_of(server.url, on_error=policy)
        limiter = ask.limiter(store)
        for n in range(1, 4):
            assert ask.limit(limiter).limited is (policy == "deny")
            assert store.failures == n
        server.answer = lambda request: decided(int(policy == "deny"), ahead_us=86400 * 10**6)
        assert ask.limit(limiter).limited is (policy == "allow"), "the server decides again"


@pytest.mark.parametrize("timeout", [-1, 0.3])
def test_denied_by_policy_is_not_waited_for_beyond_the_timeout(
    ask: Ask, proxy: Proxy, timeout: float
) -> None:
    limiter = ask.limiter(store_of(proxy.url, on_error="deny"))
    proxy.refuse()
    start = time.monotonic()
    told = ask.limit(limiter, timeout=timeout)
    assert time.monotonic() - start < 15
    assert told.limited
    assert told.state.remaining >= 0
    assert told.state.retry_after > 0


def test_denied_by_policy_raises_where_a_denial_does(proxy: Proxy) -> None:
    limiter = Throttled(
        key="key",
        using="gcra",
        quota=rate_limiter.per_day(5),
        store=store_of(proxy.url, on_error="deny"),
    )
    proxy.refuse()

    @limiter
    def work() -> None:
        raise AssertionError("it ran")

    with pytest.raises(LimitedError):
        work()


def test_allowed_by_policy_runs_at_once(proxy: Proxy) -> None:
    limiter = Throttled(
        key="key",
        using="gcra",
        quota=rate_limiter.per_day(5),
        store=store_of(proxy.url, on_error="allow"),
        timeout=20,
    )
    proxy.refuse()
    start = time.monotonic()
    with limiter:
        assert time.monotonic() - start < 15  # of the twenty that it may wait


def test_a_log_handler_that_fails_changes_no_decision(
    ask: Ask, proxy: Proxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(record: logging.LogRecord) -> bool:
        raise ZeroDivisionError

    limiter = ask.limiter(store_of(proxy.url, on_error="allow"))
    proxy.refuse()
    log = logging.getLogger("headway.store")
    log.addFilter(fail)
    try:
        assert not ask.limit(limiter).limited
    finally:
        log.removeFilter(fail)


def test_policies_are_for_servers_that_cannot_answer_and_not_for_bad_arguments(
    ask: Ask, proxy: Proxy
) -> None:
    limiter = ask.limiter(store_of(proxy.url, on_error="allow"))
    with pytest.raises(Exception, match="cost") as caught:
        ask.limit(limiter, cost=-1)
    assert not isinstance(caught.value, StoreUnavailableError)


def test_an_interrupt_while_the_log_is_written_is_not_lost() -> None:
    class Interrupted(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            signal.raise_signal(signal.SIGINT)

    logger, handler = logging.getLogger("headway.store"), Interrupted()
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    logger.addHandler(handler)
    limiter = Throttled("key", quota="1/s", store="redis://127.0.0.1:1?on_error=allow")
    heard = False
    try:
        limiter.limit()
        time.sleep(1)  # it is heard before this is over
    except KeyboardInterrupt:
        heard = True
    finally:
        logger.removeHandler(handler)
        signal.signal(signal.SIGINT, before)
    assert heard

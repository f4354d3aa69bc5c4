"""A network that cuts, delays, splits, corrupts, swallows and refuses; its server is well.

The server keeps its state, so never more is admitted than the quota. A request whose reply is lost
may have been counted and is not sent again; one that was never sent is.
"""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable

import pytest
from faults_ask import QUOTA, SLACK_S, Ask, Told, admitted, ask, store_of, uncertain
from proxy import Proxy
from servers import RedisServer

from headway import RateLimitResult, StoreUnavailableError

__all__ = ["ask"]

RESTS_S = 20.0
"""A link that could not connect tries again within 5 s."""


def ready(ask: Ask, proxy: Proxy, *, timeout: float = 0.4, limit: int = QUOTA) -> object:
    """A limiter whose connection is made and whose script is loaded."""
    limiter = ask.limiter(store_of(proxy.url, timeout=timeout), limit=limit)
    ask.limit(limiter, "warm")
    proxy.requests.clear()
    return limiter


def asked(proxy: Proxy) -> int:
    """How many decisions reached the proxy."""
    return proxy.requests["EVALSHA"] + proxy.requests["EVAL"]


def check_quota(ask: Ask, limiter: object, told: list[object], limit: int = QUOTA) -> None:
    """Uses the key up: what was admitted is the quota, but for what may have been counted."""
    for _ in range(limit + 1):
        told.append(ask.limit(limiter))
    assert admitted(told) <= limit  # type: ignore[arg-type]
    assert admitted(told) + uncertain(told) >= limit  # type: ignore[arg-type]


CUTS: dict[str, Callable[[Proxy], None]] = {
    "before the request": lambda p: p.cut_request("EVALSHA", after=0),
    "before the request, reset": lambda p: p.cut_request("EVALSHA", after=0, reset=True),
    "in the request": lambda p: p.cut_request("EVALSHA", after=60),
    "after the request": lambda p: p.cut_request("EVALSHA", after=None),
    "before the reply": lambda p: p.cut_reply("EVALSHA", after=0),
    "before the reply, reset": lambda p: p.cut_reply("EVALSHA", after=0, reset=True),
    "in the reply's header": lambda p: p.cut_reply("EVALSHA", after=3),
    "in the reply": lambda p: p.cut_reply("EVALSHA", after=20),
    "before the reply's last byte": lambda p: p.cut_reply("EVALSHA", after=-1),
    "no reply": lambda p: p.swallow("EVALSHA"),
    "another's first byte": lambda p: p.corrupt(0, command="EVALSHA"),
    "another's header": lambda p: p.corrupt(1, b"x", "EVALSHA"),
    "a bulk that is longer": lambda p: p.corrupt(9, b"9999", "EVALSHA"),
    "letters for digits": lambda p: p.corrupt(20, b"x", "EVALSHA"),
}


@pytest.mark.parametrize("fault", CUTS.values(), ids=CUTS)
def test_a_lost_reply_is_a_typed_error_and_its_request_is_not_sent_again(
    ask: Ask, proxy: Proxy, fault: Callable[[Proxy], None]
) -> None:
    limiter = ready(ask, proxy)
    fault(proxy)
    start = time.monotonic()
    error = ask.error(limiter)
    assert time.monotonic() - start < 0.4 + SLACK_S
    assert error.may_have_counted
    assert error.fault in ("closed", "timeout", "protocol")
    assert asked(proxy) == 1
    check_quota(ask, limiter, [error])


def test_a_connection_cut_after_a_whole_reply_harms_nobody(ask: Ask, proxy: Proxy) -> None:
    limiter = ready(ask, proxy)
    proxy.cut_reply("EVALSHA", after=None)
    assert not ask.limit(limiter).limited
    assert asked(proxy) == 1


def test_many_whose_replies_are_lost_are_told_so_each(ask: Ask, proxy: Proxy) -> None:
    limiter = ready(ask, proxy, timeout=5.0, limit=50)
    proxy.cut_reply("EVALSHA", after=10)
    told = ask.many(limiter, 40)
    lost = [one for one in told if isinstance(one, StoreUnavailableError)]
    assert lost
    assert asked(proxy) <= 40, "some were sent again"
    check_quota(ask, limiter, [*told], limit=50)


def test_requests_that_were_never_sent_go_out_over_the_next_connection(
    ask: Ask, proxy: Proxy
) -> None:
    limiter = ask.limiter(store_of(proxy.url, timeout=5.0), limit=100)
    proxy.cut_request("CLIENT", after=None)  # while it logs in
    told = [*ask.many(limiter, 20)]
    while any(isinstance(one, StoreUnavailableError) for one in told):
        lost = [one for one in told if isinstance(one, StoreUnavailableError)]
        assert not any(one.may_have_counted for one in lost)
        told = [one for one in told if one not in lost]
        ask.turn(0.05)
        told += ask.many(limiter, len(lost))
    assert admitted(told) == 20
    remaining = ask.limit(limiter).state.remaining
    assert remaining == 100 - 21, "some were counted twice"


def test_a_connection_that_was_reset_while_nobody_used_it_is_replaced_unseen(
    ask: Ask, proxy: Proxy
) -> None:
    limiter = ready(ask, proxy)
    proxy.cut(reset=True)
    ask.turn(0.05)
    assert not ask.limit(limiter).limited  # nothing of it was ever written: it is sent again
    assert asked(proxy) == 1


def test_a_connection_that_was_closed_while_it_rested_is_replaced_unseen(
    ask: Ask, proxy: Proxy
) -> None:
    limiter = ready(ask, proxy)
    proxy.cut()
    ask.turn(1.2)
    assert not ask.limit(limiter).limited
    assert asked(proxy) == 1


def test_replies_in_single_bytes_are_replies(ask: Ask, proxy: Proxy) -> None:
    limiter = ready(ask, proxy, timeout=20.0, limit=8)
    proxy.split(0.0)
    told = ask.many(limiter, 12)
    assert admitted(told) == 8
    assert all(isinstance(one, RateLimitResult) for one in told)


def test_a_slow_network_is_waited_for_and_shared(ask: Ask, proxy: Proxy) -> None:
    limiter = ready(ask, proxy, timeout=5.0, limit=30)
    proxy.delay(0.05)
    start = time.monotonic()
    told = ask.many(limiter, 40)
    assert time.monotonic() - start < 1.5 + SLACK_S, "one after the other"
    assert admitted(told) == 30


def test_a_network_slower_than_the_deadline_is_an_error_each_time_and_counts_once(
    ask: Ask, proxy: Proxy
) -> None:
    limiter = ready(ask, proxy, timeout=0.2)
    proxy.delay(0.3, of="reply")
    told: list[object] = []
    for _ in range(3):
        start = time.monotonic()
        told.append(ask.error(limiter))
        assert time.monotonic() - start < 0.4 + SLACK_S
    proxy.heal()
    ask.until_answered(limiter, RESTS_S, "warm")
    check_quota(ask, limiter, told)


def test_a_network_that_is_gone_costs_no_more_than_the_deadline_and_comes_back(
    ask: Ask, proxy: Proxy
) -> None:
    limiter = ready(ask, proxy, timeout=0.3, limit=20)
    proxy.hold()
    start = time.monotonic()
    told = ask.many(limiter, 20)
    assert time.monotonic() - start < 0.6 + SLACK_S
    assert all(isinstance(one, StoreUnavailableError) for one in told)
    assert {one.fault for one in told} == {"timeout"}  # type: ignore[union-attr]
    proxy.heal()
    ask.until_answered(limiter, RESTS_S, "warm")
    check_quota(ask, limiter, [*told], limit=20)


def test_a_thousand_refusals_are_fast_and_over_within_seconds(ask: Ask, proxy: Proxy) -> None:
    limiter = ready(ask, proxy)
    with proxy.closed_port():
        proxy.cut()
        ask.turn(0.05)
        ask.told(limiter)
        start = time.monotonic()
        for _ in range(1_000):
            error = ask.error(limiter)
            assert error.fault == "connect"
            assert not error.may_have_counted
        assert time.monotonic() - start < 0.5 + SLACK_S
        assert asked(proxy) == 0
    ask.until_answered(limiter, RESTS_S, "warm")
    for _ in range(QUOTA):
        assert not ask.limit(limiter).limited
    assert ask.limit(limiter).limited


def test_connections_that_are_reset_as_soon_as_they_come_are_few(ask: Ask, proxy: Proxy) -> None:
    limiter = ask.limiter(store_of(proxy.url))
    proxy.refuse(1_000)
    start = time.monotonic()
    while time.monotonic() < start + 1.0 or proxy.refused < 2:
        assert time.monotonic() < start + SLACK_S, "no further attempt"
        error = ask.error(limiter)
        assert error.fault in ("closed", "connect")
        assert not error.may_have_counted
    assert proxy.refused <= 20 * (time.monotonic() - start), "rests grow between attempts"
    proxy.heal()
    ask.until_answered(limiter, RESTS_S)


def test_many_at_once_share_one_attempt_to_connect(ask: Ask, proxy: Proxy) -> None:
    limiter = ask.limiter(store_of(proxy.url))
    proxy.refuse(1_000)
    told = ask.many(limiter, 50)
    assert all(isinstance(one, StoreUnavailableError) for one in told)
    assert proxy.refused <= 15


def test_a_reply_that_came_too_late_is_nobody_s(ask: Ask, server: RedisServer) -> None:
    with Proxy(server) as proxy:
        limiter = ready(ask, proxy, timeout=0.2)
        proxy.hold()
        assert ask.error(limiter, "one").may_have_counted
        proxy.heal()
        ask.until_answered(limiter, RESTS_S, "warm")
        for n in range(QUOTA):
            assert ask.limit(limiter, "two").state.remaining == QUOTA - 1 - n


def test_a_wait_whose_admission_is_lost_is_over_at_once(ask: Ask, proxy: Proxy) -> None:
    limiter = ready(ask, proxy)
    proxy.cut_reply("EVALSHA")
    start = time.monotonic()
    assert ask.error(limiter, timeout=20.0).may_have_counted
    assert time.monotonic() - start < 0.4 + SLACK_S
    assert asked(proxy) == 1


def test_peek_and_reset_are_typed_errors_too_and_may_be_repeated(proxy: Proxy) -> None:
    ask = Ask(as_task=False)
    limiter = ask.limiter(store_of(proxy.url))
    ask.limit(limiter)
    for work in (limiter.peek, limiter.reset):
        proxy.cut_reply()
        with pytest.raises(StoreUnavailableError):
            work("key")
        work("key")
    assert limiter.peek("key").remaining == QUOTA


def test_a_signal_ends_the_wait_for_a_silent_server_and_leaves_the_store_usable(
    proxy: Proxy,
) -> None:
    if threading.current_thread() is not threading.main_thread():
        pytest.skip("signals come to the main thread")

    class Alarm(Exception):
        pass

    def alarm(*_: object) -> None:
        raise Alarm

    ask = Ask(as_task=False)
    limiter = ready(ask, proxy, timeout=20.0)
    before = signal.signal(signal.SIGALRM, alarm)
    try:
        for _ in range(3):
            proxy.swallow("EVALSHA")
            signal.setitimer(signal.ITIMER_REAL, 0.05)
            with pytest.raises(Alarm):
                ask.limit(limiter, "silent")
            proxy.cut()
            proxy.heal()
            ask.until_answered(limiter, RESTS_S, "warm")
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    for n in range(QUOTA):
        assert ask.limit(limiter).state.remaining == QUOTA - 1 - n


def test_a_signal_does_not_take_the_answers_of_others_along(proxy: Proxy) -> None:
    """The thread that drives is the one that is interrupted; another one takes over."""
    if threading.current_thread() is not threading.main_thread():
        pytest.skip("signals come to the main thread")

    class Alarm(Exception):
        pass

    def alarm(*_: object) -> None:
        raise Alarm

    ask = Ask(as_task=False)
    limiter = ready(ask, proxy, timeout=20.0, limit=50)
    told: list[Told] = []
    others = [
        threading.Thread(target=lambda: told.append(ask.told(limiter)), daemon=True)
        for _ in range(8)
    ]
    before = signal.signal(signal.SIGALRM, alarm)
    try:
        proxy.delay(0.3, of="reply")
        threading.Timer(0.02, lambda: [other.start() for other in others]).start()
        signal.setitimer(signal.ITIMER_REAL, 0.1)
        with pytest.raises(Alarm):
            ask.limit(limiter)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    for other in others:
        other.join(10.0)
    assert admitted(told) == 8

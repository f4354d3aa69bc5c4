"""Faults of all kinds one after the other, while many ask: what the server counted is what was
admitted, plus at most what may have been counted.
"""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable

import pytest
from faults_ask import SLACK_S, Ask, Told, admitted, ask, store_of, uncertain
from faults_server import SILENCE, FakeServer
from proxy import Proxy

from headway import StoreUnavailableError

__all__ = ["ask"]

LIMIT = 1_000
"""A day's: one is given back every 86 s, which is longer than the test."""


def fault(proxy: Proxy, dice: random.Random) -> None:
    """One of them. None makes the server execute a request and say that it did not."""
    at = dice.choice([0, 1, 30, 200, None])
    deeds: list[Callable[[], None]] = [
        lambda: proxy.cut(),
        lambda: proxy.cut(reset=True),
        lambda: proxy.cut_request(after=at),
        lambda: proxy.cut_request("EVALSHA", after=at, reset=True),
        lambda: proxy.cut_reply(after=at),
        lambda: proxy.cut_reply("EVALSHA", after=at, reset=True),
        lambda: proxy.corrupt(0),
        lambda: proxy.swallow("EVALSHA"),
        lambda: proxy.refuse(2),
        lambda: proxy.delay(0.01),
        lambda: proxy.split(0.0),
    ]
    dice.choice(deeds)()


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_a_storm_of_faults_admits_no_more_than_the_server_counted(
    ask: Ask, proxy: Proxy, seed: int
) -> None:
    dice = random.Random(seed)
    limiter = ask.limiter(store_of(proxy.url, timeout=0.15), limit=LIMIT)
    told: list[Told] = []
    stop = threading.Event()

    def blow() -> None:
        while not stop.wait(0.03):
            fault(proxy, dice)
            if dice.random() < 0.3:
                proxy.heal()

    blowing = threading.Thread(target=blow)
    blowing.start()
    try:
        start = time.monotonic()
        while len(told) < LIMIT - 50:
            seconds = time.monotonic() - start
            if seconds > 1.5 and (admitted(told) or seconds > 20):
                break
            told += ask.many(limiter, 20)
            ask.turn(0.005)
    finally:
        stop.set()
        blowing.join()
    proxy.heal()
    ask.until_answered(limiter, 20.0, "other")
    used = LIMIT - 1 - ask.limit(limiter).state.remaining
    assert admitted(told) <= used <= admitted(told) + uncertain(told)
    assert admitted(told) > 0


def test_many_nodes_that_are_silent_cost_one_deadline_and_not_one_each(ask: Ask) -> None:
    """A cluster of six whose network is gone."""
    servers = [FakeServer(greeting=lambda request: SILENCE) for _ in range(6)]
    for server in servers:
        server.__enter__()
    try:
        nodes = ",".join(f"127.0.0.1:{server.port}" for server in servers)
        limiter = ask.limiter(store_of(f"redis+cluster://{nodes}", timeout=0.6, connect=0.5))
        start = time.monotonic()
        told = ask.many(limiter, 4)
        assert all(isinstance(one, StoreUnavailableError) for one in told)
        assert time.monotonic() - start < 2 * 0.6 + SLACK_S / 2
    finally:
        for server in servers:
            server.__exit__()

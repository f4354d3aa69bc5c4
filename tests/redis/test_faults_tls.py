"""The same network before a server that speaks TLS: what cuts or changes bytes is noticed by TLS.

The proxy sees only pieces, so a fault here is for any piece after the connection was made.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator

import pytest
from certificates import Certificates
from faults_ask import QUOTA, SLACK_S, Ask, Told, admitted, ask, store_of, uncertain
from proxy import Proxy
from servers import RedisServer

from headway import RateLimitResult

__all__ = ["ask"]


@pytest.fixture
def tls_proxy(tls_server: RedisServer) -> Iterator[Proxy]:
    with Proxy(tls_server) as proxy:
        yield proxy


def url_of(proxy: Proxy, certificates: Certificates) -> str:
    client = certificates.client
    return (
        f"{proxy.url}?ssl_ca_certs={certificates.ca}"
        f"&ssl_certfile={client.certificate}&ssl_keyfile={client.key}"
    )


FAULTS: dict[str, Callable[[Proxy], None]] = {
    "cut before a request": lambda p: p.cut_request(after=0),
    "cut in a request": lambda p: p.cut_request(after=20),
    "cut after a request": lambda p: p.cut_request(after=None, reset=True),
    "cut before a reply": lambda p: p.cut_reply(after=0),
    "cut in a reply": lambda p: p.cut_reply(after=20),
    "a changed type": lambda p: p.corrupt(0),
    "a changed length": lambda p: p.corrupt(3),
    "a changed byte": lambda p: p.corrupt(-1),
    "plain text": lambda p: p.answer(b"+OK\r\n"),
    "silence": lambda p: p.swallow(),
}


@pytest.mark.parametrize("fault", FAULTS.values(), ids=FAULTS)
def test_a_fault_under_tls_is_a_typed_error_and_counts_at_most_once(
    ask: Ask, tls_proxy: Proxy, certificates: Certificates, fault: Callable[[Proxy], None]
) -> None:
    limiter = ask.limiter(store_of(url_of(tls_proxy, certificates), timeout=0.5))
    ask.limit(limiter, "warm")
    fault(tls_proxy)
    start = time.monotonic()
    error = ask.error(limiter)
    assert time.monotonic() - start < 0.5 + SLACK_S
    assert error.may_have_counted
    assert error.fault in ("closed", "timeout", "tls", "protocol")
    tls_proxy.heal()
    ask.until_answered(limiter, 6.0, "warm")
    told: list[Told] = [error, *(ask.limit(limiter) for _ in range(QUOTA + 1))]
    assert QUOTA - uncertain(told) <= admitted(told) <= QUOTA


def test_tls_in_single_bytes_is_tls(ask: Ask, tls_proxy: Proxy, certificates: Certificates) -> None:
    tls_proxy.split(0.0)
    limiter = ask.limiter(store_of(url_of(tls_proxy, certificates), timeout=20.0))
    told = ask.many(limiter, 10)
    assert all(isinstance(one, RateLimitResult) for one in told)
    assert admitted(told) == QUOTA

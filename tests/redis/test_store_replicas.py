"""`wait_replicas=N`: a decision holds once N replicas have it, so that a failover loses none."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import redis
from servers import RedisServer
from store_help import SLACK_S, USINGS, ask
from topologies import Sentinels

from headway import SetUpError, StoreUnavailableError, Throttled
from headway.store import RedisStore

__all__ = ["ask"]

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def replicated(redis_binary: str) -> Iterator[Sentinels]:
    """A primary with two replicas, which stays as it is."""
    with Sentinels(redis_binary) as topology:
        yield topology


@pytest.mark.parametrize("using", USINGS)
def test_what_is_admitted_is_on_a_replica(
    replicated: Sentinels, ask: Callable[..., Any], using: str
) -> None:
    store = RedisStore(f"{replicated.url}?wait_replicas=2")
    key = f"{using} {ask.__name__}"
    results = [ask(store, key=key, using=using, quota="3/h; 9/d") for _ in range(5)]
    assert [bool(result) for result in results] == [True, True, True, False, False]
    for replica in replicated.replicas():
        assert [name for name in replica.command("KEYS", "*") if key in name]
    assert ask(store, "peek", key=key, using=using, quota="3/h; 9/d").remaining == 0
    ask(store, "reset", key=key, using=using, quota="3/h; 9/d")


def test_more_replicas_than_there_are_is_a_failure(
    replicated: Sentinels, ask: Callable[..., Any]
) -> None:
    store = RedisStore(f"{replicated.url}?timeout=0.6", wait_replicas=3)
    start = time.monotonic()
    with pytest.raises(StoreUnavailableError) as caught:
        ask(store, key=f"many {ask.__name__}", quota="3/h")
    assert time.monotonic() - start < 0.6 + SLACK_S
    assert (caught.value.fault, caught.value.may_have_counted) == ("replicas", True)
    assert "2 of 3 replicas" in str(caught.value)
    allowing = RedisStore(f"{replicated.url}?timeout=0.6&wait_replicas=3&on_error=allow")
    assert ask(allowing, key=f"many {ask.__name__}", quota="3/h")
    assert allowing.failures == 1


def test_a_denial_holds_without_replicas(server: RedisServer) -> None:
    first = RedisStore(server.url)
    assert Throttled("key", quota="1/h", store=first).limit()
    store = RedisStore(f"{server.url}?timeout=0.4", wait_replicas=1)
    assert not Throttled("key", quota="1/h", store=store).limit()


def test_a_failover_loses_no_decision(sentinels: Sentinels) -> None:
    store = RedisStore(sentinels.url, wait_replicas=2)
    limiter = Throttled("key", using="fixed_window", quota="20/w", store=store)
    admitted = sum(bool(limiter.limit()) for _ in range(10))
    sentinels.kill_primary()
    follower = RedisStore(sentinels.url)
    again = Throttled("key", using="fixed_window", quota="20/w", store=follower)
    deadline = time.monotonic() + 60
    while True:
        try:
            admitted += sum(bool(again.limit()) for _ in range(30))
            break
        except StoreUnavailableError:
            assert time.monotonic() < deadline
    assert admitted == 20


@pytest.mark.parametrize("value", [-1, "one", 1.5, True, 1000])
def test_what_is_no_number_of_replicas_is_refused(value: Any) -> None:
    with pytest.raises(SetUpError, match="wait_replicas"):
        RedisStore("redis://host", wait_replicas=value)


def test_a_client_of_ones_own_cannot_wait(server: RedisServer) -> None:
    client = redis.Redis(port=server.address[1])
    with pytest.raises(SetUpError, match="wait_replicas"):
        RedisStore(client, wait_replicas=1)

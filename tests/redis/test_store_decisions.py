"""A Redis store decides as a memory store does, for whatever is asked in whatever order.

The Lua scripts are held against the model in virtual time elsewhere (test_lua.py). Here the way
through the client is the point, on a real server: so quotas are slow enough that no time passes
between two calls, and the memory store stands still at the server's instant.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from servers import RedisServer
from store_help import USINGS, ask

from effort import examples
from headway import MemoryStore, RateLimitState, Throttled, VirtualClock
from headway.asyncio import Throttled as AsyncThrottled
from headway.store import RedisStore

__all__ = ["ask"]

YEARS = 3650 * 86_400
"""A period in which nothing comes back while a test runs, and whose windows end in other years."""
EARLY_S = 60.0
"""By how much the two stores' instants may differ."""

moves = st.lists(
    st.tuples(
        st.sampled_from(["limit", "limit", "limit", "peek", "reset"]),
        st.sampled_from(["a", "b"]),
        st.integers(0, 9),
    ),
    min_size=1,
    max_size=12,
)
quotas = st.lists(st.tuples(st.integers(1, 12), st.integers(0, 8)), min_size=1, max_size=3)


def same(got: RateLimitState, want: RateLimitState, period: float) -> None:
    assert (got.limit, got.remaining) == (want.limit, want.remaining)
    assert got.retry_after == pytest.approx(want.retry_after, abs=EARLY_S)
    assert got.reset_after == pytest.approx(want.reset_after, abs=EARLY_S)


async def play(server: RedisServer, using: str, texts: list[str], schedule: Any) -> None:
    """Through a thread's call and a task's in turn, on one store."""
    server.command("FLUSHALL")
    now, micro = (int(part) for part in server.command("TIME"))
    clock = VirtualClock(now_ns=now * 10**9 + micro * 1000)
    store = RedisStore(server.url)
    quota = ",".join(texts)
    memory = Throttled(using=using, quota=quota, store=MemoryStore(clock=clock))
    thread = Throttled(using=using, quota=quota, store=store)
    task = AsyncThrottled(using=using, quota=quota, store=store)
    for turn, (method, key, cost) in enumerate(schedule):
        call = {"cost": cost} if method == "limit" else {}
        want = getattr(memory, method)(key, **call)
        asked = thread if turn % 2 else task
        got = getattr(asked, method)(key, **call)
        if asked is task:
            got = await got
        if method == "limit":
            assert bool(got) == bool(want), (turn, method, key, cost)
            same(got.state, want.state, YEARS)
        elif method == "peek":
            same(got, want, YEARS)
    store.close()


@pytest.mark.parametrize("using", USINGS)
def test_a_schedule_has_the_same_results_as_in_memory(
    using: str, shared_server: RedisServer
) -> None:
    @settings(max_examples=examples(30))
    @given(rules=quotas, schedule=moves)
    def check(rules: list[tuple[int, int]], schedule: Any) -> None:
        texts = [f"{limit}/{YEARS}s burst {burst}" for limit, burst in rules]
        asyncio.run(play(shared_server, using, texts, schedule))

    check()


@pytest.mark.parametrize("using", USINGS)
def test_one_rule_that_denies_keeps_the_others_as_they_were(
    using: str, server: RedisServer, ask: Callable[..., Any]
) -> None:
    store = RedisStore(server.url)
    both = {"using": using, "quota": f"2/{YEARS}s, 10/{YEARS}s"}
    assert [bool(ask(store, **both)) for _ in range(5)] == [True, True, False, False, False]
    rows = {
        key: server.command("HGETALL", key)
        if server.command("TYPE", key) == "hash"
        else server.command("GET", key)
        for key in server.command("KEYS", "*")
    }
    assert len(rows) == 2
    assert not ask(store, **both)
    for key, before in rows.items():
        hashed = server.command("TYPE", key) == "hash"
        assert server.command("HGETALL" if hashed else "GET", key) == before


@pytest.mark.parametrize("using", USINGS)
def test_cost_zero_is_allowed_on_an_exhausted_key_and_takes_nothing(
    using: str, server: RedisServer, ask: Callable[..., Any]
) -> None:
    store, how = RedisStore(server.url), {"using": using, "quota": f"2/{YEARS}s"}
    assert ask(store, cost=2, **how)
    assert ask(store, cost=0, **how)
    assert not ask(store, cost=1, **how)


@pytest.mark.parametrize("using", USINGS)
def test_a_cost_that_never_fits_is_denied_at_once_and_takes_nothing(
    using: str, server: RedisServer, ask: Callable[..., Any]
) -> None:
    store, how = RedisStore(server.url), {"using": using, "quota": f"2/{YEARS}s"}
    result = ask(store, cost=3, timeout=500, **how)
    assert result.limited
    assert result.state.retry_after == float("inf")
    assert ask(store, cost=2, **how)


@pytest.mark.parametrize("using", USINGS)
def test_peek_writes_no_key(using: str, server: RedisServer, ask: Callable[..., Any]) -> None:
    assert ask(RedisStore(server.url), "peek", using=using).remaining == 5
    assert server.command("DBSIZE") == 0


@pytest.mark.parametrize("using", USINGS)
def test_reset_removes_every_rule(using: str, server: RedisServer, ask: Callable[..., Any]) -> None:
    store, how = RedisStore(server.url), {"using": using, "quota": f"2/{YEARS}s, 9/{YEARS}s"}
    assert ask(store, cost=2, **how)
    ask(store, "reset", **how)
    assert server.command("DBSIZE") == 0
    assert ask(store, cost=2, **how)


@pytest.mark.parametrize("using", USINGS)
def test_asking_again_after_retry_after_succeeds(using: str, server: RedisServer) -> None:
    limiter = Throttled("key", using=using, quota="3/300ms", store=RedisStore(server.url))
    while limiter.limit():
        pass
    result = limiter.limit()
    time.sleep(result.state.retry_after)
    assert limiter.limit()

"""What a lease does for who uses it: decisions without the server, and all else as before."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest
from proxy import Proxy
from servers import RedisServer
from store_help import BUCKETS, USINGS, ask, child

from headway import MemoryStore, SetUpError, StoreUnavailableError, Throttled
from headway.asyncio import Throttled as AsyncThrottled
from headway.store import RedisStore, from_url

__all__ = ["ask"]

MANY = "1000000/d burst 1000000"
"""One in 86 ms: blocks of 10 s are 115 tokens."""
BIG = {"tokens": 1_000_000}
SLOW = "3600/h burst 100"
"""One in a second: blocks of 10 tokens, and next to none comes while a test runs."""


def leasing(url: str, using: str = "gcra", quota: str = MANY, **how: Any) -> Throttled:
    store = RedisStore(url, lease=how.pop("lease", BIG), **how)
    return Throttled("key", using=using, quota=quota, store=store)


def remaining(url: str, using: str = "gcra", quota: str = MANY) -> int:
    """What the server says is left, to who does not lease."""
    return Throttled("key", using=using, quota=quota, store=RedisStore(url)).peek().remaining


def full(using: str) -> int:
    """What an idle key gives at once of SLOW."""
    return 100 if using in BUCKETS else 3600


def use_up(store: RedisStore, using: str, calls: int, tasks: bool = False) -> int:
    """How many of so many calls were admitted."""
    if not tasks:
        limiter = Throttled("key", using=using, quota=SLOW, store=store)
        return sum(bool(limiter.limit()) for _ in range(calls))
    by_task = AsyncThrottled("key", using=using, quota=SLOW, store=store)

    async def main() -> int:
        return sum([bool(await by_task.limit()) for _ in range(calls)])

    return asyncio.run(main())


class Seconds:
    """How many tokens of SLOW may have come meanwhile."""

    def __init__(self) -> None:
        self.start = time.monotonic()

    @property
    def tokens(self) -> int:
        return int(time.monotonic() - self.start) + 1


# --- fewer questions


@pytest.mark.parametrize("using", USINGS)
@pytest.mark.parametrize("quota", [MANY, f"{MANY}; 2000/h burst 2000"])
def test_most_decisions_do_not_ask_the_server(using: str, quota: str, proxy: Proxy) -> None:
    limiter = leasing(proxy.url, using, quota)
    assert all(limiter.limit() for _ in range(300))
    asked = proxy.requests["EVALSHA"] + proxy.requests["EVAL"]
    assert 0 < asked < 80


def test_a_task_that_finds_a_token_here_does_not_give_up_its_turn(server: RedisServer) -> None:
    limiter = AsyncThrottled("key", quota=MANY, store=RedisStore(server.url, lease=BIG))

    async def main() -> None:
        for _ in range(20):
            await limiter.limit()
        call = limiter.limit()
        for _ in range(3):
            with pytest.raises(StopIteration) as caught:
                call.send(None)  # type: ignore[attr-defined]
            assert caught.value.value
            call = limiter.limit()
        await call

    asyncio.run(main())


def test_a_denial_is_remembered_for_a_while_and_its_wait_gets_shorter(proxy: Proxy) -> None:
    limiter = leasing(proxy.url, "gcra", "2/h")
    while limiter.limit():
        pass
    proxy.requests.clear()
    denied = [limiter.limit() for _ in range(50)]
    assert not any(denied)
    assert proxy.requests.total() <= 10  # 50 ms each, on a busy machine
    waits = [result.state.retry_after for result in denied]
    assert waits == sorted(waits, reverse=True)
    assert waits[0] > waits[-1]


def test_a_smaller_cost_than_the_one_denied_is_asked_for(server: RedisServer) -> None:
    limiter = leasing(server.url, "gcra", "3600/h burst 10")
    assert limiter.limit(cost=7)
    assert not limiter.limit(cost=4)
    assert limiter.limit(cost=3)


def test_asking_again_after_retry_after_succeeds(server: RedisServer) -> None:
    limiter = leasing(server.url, "gcra", "20/s")
    for _ in range(6):
        while result := limiter.limit():
            pass
        time.sleep(result.state.retry_after)
        assert limiter.limit()


# --- the same answers


@pytest.mark.parametrize("tasks", [False, True], ids=["threads", "tasks"])
@pytest.mark.parametrize("using", USINGS)
def test_an_idle_key_gives_its_whole_burst_and_no_more(
    using: str, tasks: bool, server: RedisServer
) -> None:
    passed = Seconds()
    store = RedisStore(server.url, lease=BIG)
    assert use_up(store, using, full(using) - 1, tasks) == full(using) - 1
    assert 1 <= use_up(store, using, 20, tasks) <= 1 + passed.tokens


@pytest.mark.parametrize("using", USINGS)
def test_what_is_told_is_at_most_a_block_less_than_a_store_in_memory_tells(
    using: str, server: RedisServer
) -> None:
    leased = leasing(server.url, using, SLOW)
    memory = Throttled("key", using=using, quota=SLOW, store=MemoryStore())
    for cost in (1, 1, 1, 2, 3, 1, 1, 5, 0, 1, 30, 1):
        mine, other = leased.limit(cost=cost), memory.limit(cost=cost)
        assert bool(mine) == bool(other)
        assert mine.state.limit == other.state.limit
        if cost > 0:  # a look tells what the server counts, and it counts what is leased
            assert -1 <= other.state.remaining - mine.state.remaining <= 10


def test_remaining_falls_to_nothing(server: RedisServer) -> None:
    passed = Seconds()
    limiter = leasing(server.url, "token_bucket", SLOW)
    told = [limiter.limit().state.remaining for _ in range(100)]
    assert 0 <= told[-1] <= passed.tokens
    assert all(0 <= state <= 100 for state in told)


def test_a_peek_counts_what_is_leased_as_used(server: RedisServer) -> None:
    limiter = leasing(server.url)
    for _ in range(20):
        limiter.limit()
    assert limiter.peek().remaining <= 1_000_000 - 20
    assert limiter.peek().remaining == remaining(server.url)


@pytest.mark.parametrize("using", USINGS)
def test_a_reset_drops_what_is_leased_too(
    using: str, server: RedisServer, ask: Callable[..., Any]
) -> None:
    passed = Seconds()
    store = RedisStore(server.url, lease=BIG)
    use_up(store, using, 4)
    ask(store, "reset", using=using, quota=SLOW)
    assert not server.command("KEYS", "*")
    got = use_up(store, using, full(using) + 20)
    assert full(using) <= got <= full(using) + passed.tokens


def test_a_cost_that_never_fits_is_denied_for_ever(
    server: RedisServer, ask: Callable[..., Any]
) -> None:
    store = RedisStore(server.url, lease=BIG)
    result = ask(store, cost=7, quota="5/s")
    assert result.limited
    assert result.state.retry_after == float("inf")


def test_a_call_that_waits_is_served_when_its_time_has_come(
    server: RedisServer, ask: Callable[..., Any]
) -> None:
    store = RedisStore(server.url, lease=BIG)
    start = time.monotonic()
    got = [ask(store, quota="20/s burst 4", timeout=5) for _ in range(10)]
    assert all(got)
    assert time.monotonic() - start >= 6 / 20


def test_limiters_of_one_quota_share_what_is_leased(proxy: Proxy) -> None:
    store = RedisStore(proxy.url, lease=BIG)
    for _ in range(200):
        assert Throttled("key", using="gcra", quota=MANY, store=store).limit()
    assert proxy.requests.total() < 60


def test_what_charges_calls_and_tokens_apart_asks_each_time(proxy: Proxy) -> None:
    from headway.choked import Choked

    choked = Choked(f"{proxy.url}?lease=10s")
    calls = []

    @choked(key="model", request_limit="1000/s", token_limit="100000/s", token_estimator=None)
    def call(text: str) -> None:
        calls.append(text)

    call("a")
    proxy.requests.clear()
    for _ in range(10):
        call("a")
    assert proxy.requests.total() >= 10


# --- giving back


@pytest.mark.parametrize("using", USINGS)
def test_close_gives_back_what_was_not_spent(using: str, server: RedisServer) -> None:
    quota = "100000/d burst 1000"
    limiter = leasing(server.url, using, quota)
    spent = sum(bool(limiter.limit()) for _ in range(100))
    limiter.store.close()  # type: ignore[attr-defined]
    limit = limiter.peek().limit
    assert limit - spent <= remaining(server.url, using, quota) <= limit - spent + 30


def test_every_key_of_a_store_is_given_back(server: RedisServer) -> None:
    quota = "100000/d burst 1000"
    store = RedisStore(server.url, lease=BIG)
    limiter = Throttled(using="gcra", quota=quota, store=store)
    for _ in range(3):
        for key in range(300):
            limiter.limit(f"key {key}")
    store.close()
    plain = Throttled(using="gcra", quota=quota, store=RedisStore(server.url))
    assert {plain.peek(f"key {key}").remaining for key in range(300)} <= set(range(997, 1000))


@pytest.mark.parametrize("using", ["gcra", "fixed_window"])
def test_a_store_that_nobody_has_any_more_gives_back(using: str, server: RedisServer) -> None:
    quota = "100000/d burst 1000"
    limiter = leasing(server.url, using, quota)
    for _ in range(20):
        limiter.limit()
    limit = limiter.peek().limit
    del limiter
    assert remaining(server.url, using, quota) >= limit - 20


def test_a_process_that_ends_gives_back(server: RedisServer) -> None:
    import subprocess
    import sys

    program = (
        "import sys; from headway import Throttled; from headway.store import RedisStore\n"
        "t = Throttled('key', using='gcra', quota='100000/d burst 1000',\n"
        "              store=RedisStore(sys.argv[1], lease={'tokens': 10**6}))\n"
        "for _ in range(20): t.limit()"
    )
    subprocess.run([sys.executable, "-c", program, server.url], check=True, timeout=60)
    assert remaining(server.url, "gcra", "100000/d burst 1000") >= 980


def test_a_closed_store_leases_again(server: RedisServer) -> None:
    limiter = leasing(server.url)
    for _ in range(3):
        assert all(limiter.limit() for _ in range(20))
        limiter.store.close()  # type: ignore[attr-defined]


def test_closing_does_not_wait_for_a_server_that_is_gone(
    start_server: Callable[..., RedisServer],
) -> None:
    server = start_server()
    limiter = leasing(server.url)
    for _ in range(20):
        limiter.limit()
    server.kill()
    start = time.monotonic()
    limiter.store.close()  # type: ignore[attr-defined]
    assert time.monotonic() - start < 20


@pytest.mark.parametrize("using", ["gcra", "sliding_window"])
def test_a_key_that_makes_room_gives_back(using: str, server: RedisServer) -> None:
    class Small(RedisStore):
        _LEASED_KEYS = 8

    passed = Seconds()
    limiter = Throttled(using=using, quota=SLOW, store=Small(server.url, lease=BIG))
    plain = Throttled(using=using, quota=SLOW, store=RedisStore(server.url))
    for key in range(40):  # the third takes four, and leaves three
        assert sum(bool(limiter.limit(f"key {key}")) for _ in range(4)) == 4
    left = [plain.peek(f"key {key}").remaining for key in range(40)]
    assert sum(full(using) - 4 <= here <= full(using) - 4 + passed.tokens for here in left) >= 32


def test_a_block_that_is_over_is_not_spent(proxy: Proxy) -> None:
    limiter = leasing(proxy.url, "gcra", "1000/s burst 1000", lease="50ms")
    for _ in range(40):
        limiter.limit()
    time.sleep(0.1)
    proxy.requests.clear()
    assert limiter.limit()
    assert proxy.requests.total() == 1


@pytest.mark.parametrize("using", ["fixed_window", "sliding_window"])
def test_a_block_ends_with_the_window_that_it_was_taken_of(using: str, proxy: Proxy) -> None:
    limiter = leasing(proxy.url, using, "100000/s")
    time.sleep((0.9 - time.time()) % 1)  # a block is kept for half a second, the window is not
    for _ in range(40):
        limiter.limit()
    time.sleep(1.02 - time.time() % 1)
    proxy.requests.clear()
    assert limiter.limit()
    assert proxy.requests.total() > 0


# --- forks, threads, servers that go away


def test_a_child_has_none_of_its_parents_tokens(server: RedisServer) -> None:
    passed = Seconds()
    store = RedisStore(server.url, lease=BIG)
    spent = use_up(store, "gcra", 20)
    before = server.command("GET", "headway:v1:gcra:{key}")
    with child(lambda: str(use_up(store, "gcra", 1)).encode()) as said:
        assert said() == b"1"
    assert server.command("GET", "headway:v1:gcra:{key}") != before  # it has asked
    with child(lambda: str(use_up(store, "gcra", 100)).encode()) as said:
        theirs = int(said())
    mine = use_up(store, "gcra", 100)
    assert 89 <= spent + 1 + theirs + mine <= 100 + passed.tokens


def test_threads_and_tasks_of_a_process_share_a_burst_to_the_last_token(
    server: RedisServer,
) -> None:
    start = time.monotonic()
    store = RedisStore(server.url, lease=BIG)
    quota = "36000/h burst 3000"
    got: list[int] = []

    def thread() -> None:
        limiter = Throttled("key", using="gcra", quota=quota, store=store)
        got.append(sum(bool(limiter.limit()) for _ in range(400)))

    async def task() -> int:
        limiter = AsyncThrottled("key", using="gcra", quota=quota, store=store)
        return sum([bool(await limiter.limit()) for _ in range(100)])

    async def tasks() -> None:
        got.extend(await asyncio.gather(*(task() for _ in range(20))))

    threads = [threading.Thread(target=thread) for _ in range(6)]
    for each in threads:
        each.start()
    asyncio.run(tasks())
    for each in threads:
        each.join(60)
    assert len(got) == 26
    assert 2999 <= sum(got) <= 3000 + (time.monotonic() - start) * 10


def test_a_token_that_is_here_needs_no_server(start_server: Callable[..., RedisServer]) -> None:
    server = start_server()
    limiter = leasing(server.url, on_error="raise")
    for _ in range(40):
        limiter.limit()
    server.kill()
    admitted: list[bool] = []

    def until_it_asks() -> None:
        while limiter.limit():
            admitted.append(True)

    with pytest.raises(StoreUnavailableError):
        until_it_asks()
    assert admitted


def test_without_a_server_on_error_decides(
    start_server: Callable[..., RedisServer], ask: Callable[..., Any]
) -> None:
    server = start_server()
    store = RedisStore(server.url, lease=BIG, on_error="deny")
    assert ask(store)
    server.kill()
    assert not any(ask(store) for _ in range(3))
    assert store.failures > 0


@pytest.mark.parametrize("using", USINGS)
def test_after_a_flush_there_is_at_most_one_more_block(using: str, server: RedisServer) -> None:
    passed = Seconds()
    store = RedisStore(server.url, lease=BIG)
    assert use_up(store, using, 48) == 48
    server.command("FLUSHALL")
    after = use_up(store, using, full(using) + 20)
    assert full(using) <= after <= full(using) + 10 + passed.tokens


def test_scripts_that_are_gone_are_sent_again(server: RedisServer, ask: Callable[..., Any]) -> None:
    for using in (*BUCKETS, "fixed_window"):
        store = RedisStore(server.url, lease=BIG)
        for _ in range(10):
            server.command("SCRIPT", "FLUSH")
            assert ask(store, using=using, quota=MANY)
        store.close()


def test_a_cancelled_task_leaves_the_key_in_order(server: RedisServer) -> None:
    passed = Seconds()
    store = RedisStore(server.url, lease=BIG)
    use_up(store, "gcra", 3)
    limiter = AsyncThrottled("key", using="gcra", quota=SLOW, store=store)

    async def main() -> int:
        for _ in range(3):
            task = asyncio.ensure_future(limiter.limit())
            await asyncio.sleep(0)
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
        return sum([bool(await limiter.limit()) for _ in range(110)])

    assert 60 <= asyncio.run(main()) <= 100 + passed.tokens


@pytest.mark.parametrize("using", USINGS)
def test_a_client_of_the_users_own_leases_too(using: str, server: RedisServer) -> None:
    redis = pytest.importorskip("redis.client")
    passed = Seconds()
    with redis.Redis(port=server.port) as client:
        store = RedisStore(client, lease=BIG)
        assert use_up(store, using, 31) == 31
        assert use_up(store, using, 5, tasks=True) == 5
        store.close()
    left = remaining(server.url, using, SLOW)
    assert full(using) - 36 <= left <= full(using) - 36 + passed.tokens


# --- how it is asked for


@pytest.mark.parametrize(
    "lease",
    ["0ms", -1, {"token": 5}, "fast", {"tokens": True}, {"tokens": 0}, "11s", 50, "", {}, "5 m"],
)
def test_a_lease_that_means_nothing_is_named(lease: Any) -> None:
    with pytest.raises(SetUpError) as caught:
        RedisStore("redis://localhost:1/0", lease=lease)
    assert str(caught.value) == (
        f"Invalid lease: {lease!r}, must be a time from '1us' to '10s' such as '50ms', "
        "or {'tokens': 100}, a whole number of them above 0."
    )


def test_a_lease_can_be_in_the_url_and_in_the_options(server: RedisServer) -> None:
    for store in (
        from_url(f"{server.url}?lease=10s"),
        RedisStore(f"{server.url}?lease=100"),
        RedisStore(server.url, {"LEASE": {"tokens": 100}}),
        RedisStore(server.url, {"CONNECTION_POOL_KWARGS": {"lease": "1.5 s"}}),
    ):
        limiter = Throttled("key", using="gcra", quota="100000/s burst 100000", store=store)
        for _ in range(3):
            limiter.limit()
        assert server.command("EXISTS", "headway:v1:gcra:{key}:lease") == 1
        limiter.reset()
    for bad in ("?lease=0ms", "?lease=never", "?lease=0"):
        with pytest.raises(SetUpError, match="lease"):
            RedisStore(server.url + bad)

"""A request that is under way when its caller goes away costs nothing: what it took is given back
as soon as its reply is read, by whoever reads it, or when the store is closed.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import signal
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from proxy import Proxy
from servers import RedisServer
from store_help import BUCKETS, SLACK_S, USINGS, child

from headway import Throttled
from headway.asyncio import Throttled as AsyncThrottled
from headway.store import RedisStore


class Stopped(Exception):
    """What the signal handler of a test raises."""


def stop(*_: object) -> None:
    raise Stopped


@pytest.fixture
def interrupted() -> Iterator[Callable[..., None]]:
    """Makes a call that a signal ends after some seconds."""

    def call(work: Callable[[], object], after: float = 0.05) -> None:
        signal.setitimer(signal.ITIMER_REAL, after)
        with pytest.raises(Stopped):
            work()

    before = signal.signal(signal.SIGALRM, stop)
    yield call
    signal.setitimer(signal.ITIMER_REAL, 0)
    signal.signal(signal.SIGALRM, before)


def quota_of(using: str) -> str:
    return "5/d burst 5" if using in BUCKETS else "5/d"


def remaining(limiter: Throttled, want: int) -> bool:
    end = time.monotonic() + SLACK_S
    while limiter.peek().remaining != want:
        if time.monotonic() > end:
            return False
    return True


@pytest.mark.parametrize("using", USINGS)
def test_a_thread_that_is_interrupted_loses_nothing(
    using: str, proxy: Proxy, interrupted: Callable[..., None]
) -> None:
    limiter = Throttled("key", using=using, quota=quota_of(using), store=RedisStore(proxy.url))
    assert limiter.limit(cost=2)
    proxy.delay(0.3)
    interrupted(lambda: limiter.limit(cost=2))
    proxy.heal()
    assert remaining(limiter, 3)


@pytest.mark.parametrize("using", USINGS)
def test_a_task_that_is_cancelled_loses_nothing_at_any_turn_of_the_loop(
    using: str, server: RedisServer
) -> None:
    limiter = AsyncThrottled(
        "key", using=using, quota=quota_of(using), store=RedisStore(server.url)
    )

    async def main() -> None:
        assert await limiter.limit(cost=2)
        for turns in range(8):
            task = asyncio.ensure_future(limiter.limit(cost=2))
            for turn in range(turns):
                await asyncio.sleep(0)
                if turn == 2:
                    time.sleep(0.01)
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task
                await limiter.reset()
                assert await limiter.limit(cost=2)
            end = time.monotonic() + SLACK_S
            while (await limiter.peek()).remaining != 3:
                assert time.monotonic() < end, turns

    asyncio.run(main())


@pytest.mark.parametrize("using", ["gcra", "fixed_window", "sliding_window"])
def test_every_rule_gets_its_own_back(
    using: str, proxy: Proxy, interrupted: Callable[..., None]
) -> None:
    quotas = ["5/d burst 5", "9/w burst 9"] if using == "gcra" else ["5/d", "9/w"]
    store = RedisStore(proxy.url)
    limiter = Throttled("key", using=using, quota=", ".join(quotas), store=store)
    assert limiter.limit()
    proxy.delay(0.3)
    interrupted(lambda: limiter.limit(cost=3))
    proxy.heal()
    assert remaining(limiter, 4)
    assert limiter.limit(cost=4)


def test_a_denied_request_gives_nothing_back(
    proxy: Proxy, interrupted: Callable[..., None]
) -> None:
    limiter = Throttled("key", quota="2/d", using="fixed_window", store=RedisStore(proxy.url))
    assert limiter.limit(cost=2)
    proxy.delay(0.3)
    interrupted(lambda: limiter.limit(cost=2))
    proxy.heal()
    assert remaining(limiter, 0)
    assert not limiter.limit()


def test_a_window_that_is_over_gets_nothing_back(
    proxy: Proxy, interrupted: Callable[..., None]
) -> None:
    limiter = Throttled("key", quota="4/200ms", using="fixed_window", store=RedisStore(proxy.url))
    limiter.peek()
    proxy.delay(0.3)
    interrupted(lambda: limiter.limit(cost=4))
    time.sleep(0.35)  # the window of the cost has ended
    proxy.heal()
    admitted = sum(bool(limiter.limit(cost=2)) for _ in range(6))
    assert admitted <= 2 * 2  # two windows at most, on a busy machine a third would be empty


def test_closing_the_store_gives_back_what_is_under_way(
    proxy: Proxy, server: RedisServer, interrupted: Callable[..., None]
) -> None:
    store = RedisStore(proxy.url)
    limiter = Throttled("key", using="gcra", quota="5/d burst 5", store=store)
    assert limiter.limit()
    proxy.delay(0.06)
    interrupted(lambda: limiter.limit(cost=3), 0.02)
    proxy.heal()
    since = time.monotonic()
    store.close()
    assert time.monotonic() - since < SLACK_S
    other = Throttled("key", using="gcra", quota="5/d burst 5", store=RedisStore(server.url))
    assert remaining(other, 4)


def test_closing_does_not_wait_for_a_server_that_is_silent(
    proxy: Proxy, interrupted: Callable[..., None]
) -> None:
    store = RedisStore(proxy.url)
    limiter = Throttled("key", using="gcra", quota="5/d burst 5", store=store)
    assert limiter.limit()
    proxy.hold()
    interrupted(limiter.limit)
    since = time.monotonic()
    store.close()
    assert time.monotonic() - since < 0.1 + SLACK_S
    proxy.heal()


def test_a_reply_that_nobody_read_spoils_no_later_decision(
    proxy: Proxy, interrupted: Callable[..., None]
) -> None:
    limiter = Throttled(
        "key", using="gcra", quota="5/d burst 5", store=RedisStore(proxy.url + "?timeout=0.3")
    )
    assert limiter.limit()
    proxy.delay(0.15)
    interrupted(limiter.limit)
    proxy.heal()
    time.sleep(0.4)  # its deadline has passed
    assert limiter.limit()
    assert remaining(limiter, 3)


@pytest.mark.filterwarnings("ignore")
def test_a_loop_that_is_closed_under_a_waiter_gives_its_slot_back(server: RedisServer) -> None:
    store = RedisStore(server.url)
    how: dict[str, Any] = {"key": "key", "using": "gcra", "quota": "1/h burst 1", "store": store}
    waiting, limiter = AsyncThrottled(**how), Throttled(**how)
    assert limiter.limit()
    before = limiter.peek().reset_after
    loop = asyncio.new_event_loop()
    task = loop.create_task(waiting.limit(timeout=10_000))
    end = time.monotonic() + SLACK_S
    while limiter.peek().reset_after < before + 3000:
        assert time.monotonic() < end
        loop.run_until_complete(asyncio.sleep(0.001))
    loop.close()
    task._log_destroy_pending = False  # type: ignore[attr-defined]
    del task, loop
    gc.collect()
    end = time.monotonic() + SLACK_S
    while limiter.peek().reset_after > before:  # which another connection gives back
        assert time.monotonic() < end


@pytest.mark.filterwarnings("ignore")
def test_a_reply_that_a_closed_loop_has_not_read_gives_its_slot_back(server: RedisServer) -> None:
    store = RedisStore(server.url)
    how: dict[str, Any] = {"key": "key", "using": "gcra", "quota": "1/h burst 1", "store": store}
    waiting, limiter = AsyncThrottled(**how), Throttled(**how)
    assert limiter.limit()
    before = limiter.peek().reset_after
    loop = asyncio.new_event_loop()
    loop.run_until_complete(waiting.peek())  # which connects
    task = loop.create_task(waiting.limit(timeout=10_000))
    for _ in range(2):
        loop.run_until_complete(asyncio.sleep(0))  # the request is sent at the end of a turn
    end = time.monotonic() + SLACK_S
    while limiter.peek().reset_after < before + 3000:
        assert time.monotonic() < end
    loop.close()
    task._log_destroy_pending = False  # type: ignore[attr-defined]
    del task, loop
    gc.collect()
    end = time.monotonic() + SLACK_S
    while limiter.peek().reset_after > before:
        assert time.monotonic() < end


def test_a_child_gives_back_nothing_that_its_parent_waits_for(server: RedisServer) -> None:
    limiter = AsyncThrottled("key", using="gcra", quota="1/h burst 1", store=RedisStore(server.url))

    async def main() -> None:
        assert await limiter.limit()
        task = asyncio.ensure_future(limiter.limit(timeout=10_000))
        while (await limiter.peek()).reset_after < 7000:
            await asyncio.sleep(0)

        def work() -> bytes:
            asyncio.events._set_running_loop(None)
            coroutine = task.get_coro()
            coroutine.close()  # type: ignore[union-attr]
            limiter.store.close()
            return str(asyncio.run(limiter.peek()).reset_after > 7000).encode()

        with child(work) as said:
            assert said() == b"True"
        assert (await limiter.peek()).reset_after > 7000
        task.cancel()
        await asyncio.wait([task])

    asyncio.run(main())

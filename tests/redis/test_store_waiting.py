"""Waiting on a server is a reservation: who waits is served at the exact instant, in the order in
which the server was asked, and who is not there any more loses no slot for others.
"""

from __future__ import annotations

import asyncio
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest
from proxy import Proxy
from servers import RedisServer
from store_help import BUCKETS, SLACK_S, USINGS, ask

from headway import Throttled
from headway.asyncio import Throttled as AsyncThrottled
from headway.store import RedisStore

__all__ = ["ask"]


class Stopped(Exception):
    """What the signal handler of a test raises."""


@pytest.mark.parametrize("using", BUCKETS)
def test_a_waiter_is_served_at_its_instant(
    using: str, server: RedisServer, ask: Callable[..., Any]
) -> None:
    store, how = RedisStore(server.url), {"using": using, "quota": "4/s burst 1"}
    since = time.monotonic()
    assert ask(store, **how)
    assert ask(store, timeout=30, **how)
    assert 0.25 <= time.monotonic() - since < 0.25 + SLACK_S


@pytest.mark.parametrize("using", USINGS)
def test_a_wait_that_is_known_to_be_too_long_is_denied_at_once(
    using: str, server: RedisServer, ask: Callable[..., Any]
) -> None:
    store, how = RedisStore(server.url), {"using": using, "quota": "1/h burst 1"}
    assert ask(store, **how)
    since = time.monotonic()
    assert not ask(store, timeout=0.5 if "window" in using else 1800, **how)
    assert time.monotonic() - since < SLACK_S
    assert ask(store, "peek", **how).remaining == 0


@pytest.mark.parametrize("using", BUCKETS)
def test_a_denied_wait_reserves_nothing(
    using: str, server: RedisServer, ask: Callable[..., Any]
) -> None:
    store, how = RedisStore(server.url), {"using": using, "quota": "1/m burst 1"}
    assert ask(store, **how)
    before = ask(store, "peek", **how).reset_after
    for _ in range(5):
        assert not ask(store, timeout=5, **how)
    assert ask(store, "peek", **how).reset_after <= before


@pytest.mark.parametrize("using", ["fixed_window", "sliding_window"])
def test_a_waiter_of_a_window_is_served_in_the_next(
    using: str, server: RedisServer, ask: Callable[..., Any]
) -> None:
    store, how = RedisStore(server.url), {"using": using, "quota": "2/500ms"}
    while ask(store, **how):
        pass
    assert ask(store, timeout=30, **how)


def test_waiters_are_served_in_order_of_arrival_and_never_early(server: RedisServer) -> None:
    limiter = AsyncThrottled(
        "key", using="gcra", quota="20/s burst 1", store=RedisStore(server.url)
    )

    async def main() -> list[tuple[int, float]]:
        await limiter.limit()
        served: list[tuple[int, float]] = []

        async def wait(number: int) -> None:
            assert await limiter.limit(timeout=30)
            served.append((number, time.monotonic()))

        await asyncio.gather(*(wait(number) for number in range(10)))
        return served

    since = time.monotonic()
    served = asyncio.run(main())
    assert [number for number, _ in served] == list(range(10))
    assert all(at >= since + 0.05 * (number + 1) for number, at in served)


def test_waiters_of_several_processes_are_served_in_order_of_arrival(server: RedisServer) -> None:
    program = (
        "import sys, time; from headway import Throttled; from headway.store import RedisStore\n"
        "t = Throttled('key', using='gcra', quota='5/s burst 1', store=RedisStore(sys.argv[1]))\n"
        "t.peek(); print('ready', flush=True); sys.stdin.readline()\n"
        "assert t.limit(timeout=30); print(time.monotonic(), flush=True)"
    )
    limiter = Throttled("key", using="gcra", quota="5/s burst 1", store=RedisStore(server.url))
    words = [sys.executable, "-c", program, server.url]
    children = [
        subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        for _ in range(3)
    ]
    for process in children:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
    since = time.monotonic()
    assert limiter.limit()
    for turn, process in enumerate(children):
        assert process.stdin is not None
        process.stdin.write("\n")
        process.stdin.flush()
        end = time.monotonic() + 30
        while limiter.peek().reset_after < 0.2 * (turn + 2) - (time.monotonic() - since) - 0.1:
            assert time.monotonic() < end
    instants = []
    for process in children:
        instants.append(float(process.communicate(timeout=30)[0]))
    assert instants == sorted(instants)
    assert all(at - since > 0.2 * (turn + 1) - 0.02 for turn, at in enumerate(instants))


@pytest.mark.parametrize("using", BUCKETS)
def test_a_cancelled_task_gives_its_slot_back(using: str, server: RedisServer) -> None:
    limiter = AsyncThrottled("key", using=using, quota="1/m burst 1", store=RedisStore(server.url))

    async def main() -> None:
        await limiter.limit()
        before = (await limiter.peek()).reset_after
        tasks = [asyncio.ensure_future(limiter.limit(timeout=500)) for _ in range(3)]
        while (await limiter.peek()).reset_after < before + 170:
            await asyncio.sleep(0)
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)
        assert all(task.cancelled() for task in tasks)
        assert (await limiter.peek()).reset_after <= before

    asyncio.run(main())


def test_a_cancelled_task_gives_every_rule_its_slot_back(server: RedisServer) -> None:
    quota = "1/m burst 1, 2/h burst 2"
    limiter = AsyncThrottled("key", using="gcra", quota=quota, store=RedisStore(server.url))

    async def main() -> None:
        await limiter.limit(cost=1)
        task = asyncio.ensure_future(limiter.limit(timeout=500))
        await asyncio.sleep(0.1)
        task.cancel()
        await asyncio.wait([task])
        assert task.cancelled()
        result = await limiter.limit()
        assert result.limited
        assert 50 < result.state.retry_after <= 60  # the minute's rule; the hour's has one left

    asyncio.run(main())


def test_a_task_cancelled_while_its_request_is_under_way_loses_nothing(proxy: Proxy) -> None:
    limiter = AsyncThrottled("key", using="gcra", quota="1/m burst 2", store=RedisStore(proxy.url))

    async def main() -> None:
        await limiter.limit()
        proxy.delay(0.1)
        task = asyncio.ensure_future(limiter.limit(timeout=500))
        await asyncio.sleep(0.03)
        task.cancel()
        await asyncio.wait([task])
        assert task.cancelled()
        proxy.heal()
        await asyncio.sleep(0.1)
        assert (await limiter.peek()).remaining == 1

    asyncio.run(main())


def test_a_task_cancelled_before_it_was_sent_costs_nothing(server: RedisServer) -> None:
    limiter = AsyncThrottled("key", using="gcra", quota="1/m burst 2", store=RedisStore(server.url))

    async def main() -> None:
        await limiter.limit()
        task = asyncio.ensure_future(limiter.limit(timeout=500))
        task.cancel()
        await asyncio.wait([task])
        assert (await limiter.peek()).remaining == 1

    asyncio.run(main())


def stop(*_: object) -> None:
    raise Stopped


@pytest.fixture
def alarm() -> Any:
    """Raises `Stopped` in the main thread after some seconds."""
    before = signal.signal(signal.SIGALRM, stop)
    yield lambda seconds: signal.setitimer(signal.ITIMER_REAL, seconds)
    signal.setitimer(signal.ITIMER_REAL, 0)
    signal.signal(signal.SIGALRM, before)


@pytest.mark.parametrize("using", BUCKETS)
def test_a_signal_ends_a_wait_and_gives_the_slot_back(
    using: str, server: RedisServer, alarm: Callable[[float], None]
) -> None:
    limiter = Throttled("key", using=using, quota="1/m burst 1", store=RedisStore(server.url))
    limiter.limit()
    before = limiter.peek().reset_after
    since = time.monotonic()
    alarm(0.1)
    with pytest.raises(Stopped):
        limiter.limit(timeout=500)
    assert time.monotonic() - since < SLACK_S
    assert limiter.peek().reset_after <= before


@pytest.mark.parametrize("using", ["fixed_window", "sliding_window"])
def test_a_signal_ends_the_wait_for_a_window(
    using: str, server: RedisServer, alarm: Callable[[float], None]
) -> None:
    limiter = Throttled("key", using=using, quota="1/d", store=RedisStore(server.url))
    limiter.limit()
    alarm(0.1)
    with pytest.raises(Stopped):
        limiter.limit(timeout=200_000)


def test_a_signal_while_the_request_is_under_way_loses_nothing(
    proxy: Proxy, alarm: Callable[[float], None]
) -> None:
    limiter = Throttled("key", using="gcra", quota="1/m burst 2", store=RedisStore(proxy.url))
    limiter.limit()
    proxy.delay(0.2)
    alarm(0.05)
    with pytest.raises(Stopped):
        limiter.limit(timeout=500)
    proxy.heal()
    time.sleep(0.1)
    assert limiter.peek().remaining == 1


def test_a_signal_handler_that_returns_does_not_end_a_wait(server: RedisServer) -> None:
    limiter = Throttled("key", using="gcra", quota="2/s burst 1", store=RedisStore(server.url))
    heard: list[int] = []
    before = signal.signal(signal.SIGALRM, lambda number, _: heard.append(number))
    try:
        since = time.monotonic()
        limiter.limit()
        signal.setitimer(signal.ITIMER_REAL, 0.05, 0.05)
        assert limiter.limit(timeout=30)
        took = time.monotonic() - since
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    assert took >= 0.5
    assert heard


def test_waiting_holds_up_neither_threads_nor_the_event_loop(server: RedisServer) -> None:
    store = RedisStore(server.url)
    slow = Throttled("slow", using="gcra", quota="1/s burst 1", store=store)
    slow.limit()
    waiter = threading.Thread(target=lambda: slow.limit(timeout=30))
    waiter.start()
    quick = Throttled("quick", quota="100000/s", store=store)
    since = time.monotonic()
    assert all(quick.limit() for _ in range(100))
    assert time.monotonic() - since < SLACK_S
    waiter.join(30)
    assert not waiter.is_alive()


def test_a_timeout_of_asyncio_gives_the_slot_back(server: RedisServer) -> None:
    limiter = AsyncThrottled("key", using="gcra", quota="1/m burst 1", store=RedisStore(server.url))

    async def main() -> None:
        await limiter.limit()
        before = (await limiter.peek()).reset_after
        with pytest.raises(asyncio.TimeoutError):
            await asyncio.wait_for(limiter.limit(timeout=500), 0.1)
        assert (await limiter.peek()).reset_after <= before

    asyncio.run(main())


@pytest.mark.parametrize("using", BUCKETS)
@pytest.mark.parametrize("quota", ["5/2s burst 1", "5/2s burst 1; 100/m burst 50"])
def test_a_slot_that_was_left_goes_to_the_next_and_no_two_share_one(
    server: RedisServer, using: str, quota: str
) -> None:
    limiter = AsyncThrottled("key", 30, using=using, quota=quota, store=RedisStore(server.url))
    admitted: list[tuple[float, int]] = []

    async def ask_as(number: int) -> None:
        await limiter.limit()
        admitted.append((time.monotonic(), number))

    since = time.monotonic()

    async def main() -> None:
        async def reserved(seconds: float) -> None:
            deadline = time.monotonic() + 10
            while (await limiter.peek("key")).reset_after < seconds:
                assert time.monotonic() < deadline

        waiting = []
        for number in range(4):  # the last one's slot is 1.2 s from now
            waiting.append(asyncio.ensure_future(ask_as(number)))
            await asyncio.sleep(0)
        await reserved(0.9)
        waiting[2].cancel()
        await asyncio.gather(waiting[2], return_exceptions=True)
        await limiter.peek("key")  # by the same connection: the slot is left
        waiting.append(asyncio.ensure_future(ask_as(4)))
        await asyncio.gather(*waiting, return_exceptions=True)

    asyncio.run(main())
    assert [number for _, number in admitted] == [0, 1, 4, 3]
    instants = [instant for instant, _ in admitted]
    assert instants[3] - since < 1.3 + SLACK_S
    # Each slot is 0.4 s after the one before, and the first is not before it was asked for.
    assert instants[3] - since >= 1.2 - 0.001

"""Sentinels: a store finds their primary, and finds the next one when they put it in charge."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from store_help import ask, unavailable
from topologies import Sentinels

from headway import StoreUnavailableError, Throttled
from headway.asyncio import Throttled as AsyncThrottled
from headway.store import RedisStore

__all__ = ["ask"]

PASSWORD, SENTINEL_PASSWORD = "s3cret/:@", "look out"


@pytest.fixture(scope="module")
def guarded(redis_binary: str) -> Iterator[Sentinels]:
    """With passwords on both kinds; its tests leave it whole."""
    with Sentinels(
        redis_binary, password=PASSWORD, sentinel_password=SENTINEL_PASSWORD, replicas=1
    ) as topology:
        yield topology


def store_of(guarded: Sentinels, **more: Any) -> RedisStore:
    return RedisStore(
        guarded.url + "?timeout=15", {"SENTINEL_KWARGS": {"password": SENTINEL_PASSWORD}, **more}
    )


def test_the_primary_is_found_with_both_passwords(
    guarded: Sentinels, ask: Callable[..., Any]
) -> None:
    how = {"key": f"found {ask.__name__}", "quota": "2/h"}
    store = store_of(guarded)
    assert [bool(ask(store, **how)) for _ in range(3)] == [True, True, False]


@pytest.mark.slow
def test_the_sentinels_may_come_as_options(guarded: Sentinels, ask: Callable[..., Any]) -> None:
    store = RedisStore(
        f"redis+sentinel://127.0.0.1:{guarded.sentinels[0].port}/{guarded.name}",
        {
            "SENTINELS": guarded.addresses,
            "PASSWORD": PASSWORD,
            "SENTINEL_KWARGS": {"password": SENTINEL_PASSWORD},
        },
    )
    assert ask(store, key=f"options {ask.__name__}")


@pytest.mark.slow
def test_a_sentinel_that_is_not_there_is_passed_over(guarded: Sentinels) -> None:
    last = guarded.sentinels[-1].port
    store = RedisStore(
        f"redis+sentinel://127.0.0.1:1,127.0.0.1:{last}/{guarded.name}/0",
        {"PASSWORD": PASSWORD, "SENTINEL_KWARGS": {"password": SENTINEL_PASSWORD}},
    )
    assert Throttled("passed over", quota="5/h", store=store).limit()


@pytest.mark.slow
def test_a_name_that_no_sentinel_knows_is_said(guarded: Sentinels, ask: Callable[..., Any]) -> None:
    url = guarded.url.replace(guarded.name, "another") + "?timeout=0.5"
    options = {"SENTINEL_KWARGS": {"password": SENTINEL_PASSWORD}}
    error = unavailable(ask, url, options, within=0.5)
    assert "does not know 'another'" in str(error)
    assert PASSWORD not in str(error)


@pytest.mark.slow
@pytest.mark.parametrize("wrong", ["sentinel", "server"])
def test_a_wrong_password_is_said(wrong: str, guarded: Sentinels, ask: Callable[..., Any]) -> None:
    options = {
        "PASSWORD": "Xyzzy77" if wrong == "server" else PASSWORD,
        "SENTINEL_KWARGS": {"password": "Xyzzy77" if wrong == "sentinel" else SENTINEL_PASSWORD},
    }
    url = f"redis+sentinel://127.0.0.1:{guarded.sentinels[0].port}/{guarded.name}?timeout=0.5"
    error = unavailable(ask, url, options, within=0.5)
    assert error.fault == "login"
    assert "WRONGPASS" in str(error)
    assert "Xyzzy77" not in str(error)


@pytest.mark.slow
def test_a_failover_is_followed_by_threads_and_tasks(guarded: Sentinels) -> None:
    store = store_of(guarded)
    survive(store, guarded.failover)


@pytest.mark.slow
def test_the_death_of_the_primary_is_survived(sentinels: Sentinels) -> None:
    store = RedisStore(sentinels.url + "?timeout=15&connect_timeout=1")
    old = sentinels.primary()
    survive(store, sentinels.kill_primary)
    assert sentinels.primary() is not old
    assert sentinels.primary().command("EXISTS", "headway:v1:gcra:{key}") == 1
    old.start()
    sentinels.settle()
    for _ in range(5):
        assert Throttled("key", using="gcra", quota="1/h burst 100000", store=store).limit()


def survive(store: RedisStore, happen: Callable[[], object]) -> None:
    """Decides in a thread and in a task while something happens; only what was under way fails."""
    how = {"using": "gcra", "quota": "1/h burst 100000"}
    limiter = Throttled("key", store=store, **how)  # type: ignore[arg-type]
    task = AsyncThrottled("key", store=store, **how)  # type: ignore[arg-type]
    over = threading.Event()
    errors: list[BaseException] = []
    after: list[bool] = []

    def work() -> None:
        while not over.is_set():
            try:
                limiter.limit()
            except StoreUnavailableError as error:
                errors.append(error)
            time.sleep(0.02)
        after.append(bool(limiter.limit()))

    async def as_tasks() -> None:
        while not over.is_set():
            try:
                await task.limit()
            except StoreUnavailableError as error:
                errors.append(error)
            await asyncio.sleep(0.02)
        after.append(bool(await task.limit()))

    threads = [
        threading.Thread(target=work),
        threading.Thread(target=lambda: asyncio.run(as_tasks())),
    ]
    for thread in threads:
        thread.start()
    time.sleep(0.2)
    happen()
    over.set()
    for thread in threads:
        thread.join(60)
        assert not thread.is_alive()
    assert after == [True, True]
    assert all(e.may_have_counted for e in errors), [str(error) for error in errors]  # type: ignore[attr-defined]

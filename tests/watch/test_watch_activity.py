"""Activity: what is counted, what is shown of it, and how much of it is kept."""

from __future__ import annotations

import asyncio
import json
import os
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from headway import RateLimitResult, RateLimitState, Throttled
from headway._snapshot import after
from headway.activity import (
    SORTS,
    Activity,
    ActivityHook,
    AsyncActivityHook,
    KeyActivity,
    Snapshot,
)
from headway.asyncio import Throttled as AsyncThrottled
from headway.exceptions import SetUpError

Eventually = Callable[..., None]


def result(limited: bool = False, remaining: int = 3, reset_after: float = 60.0) -> RateLimitResult:
    return RateLimitResult(limited, RateLimitState(10, remaining, reset_after))


def key(name: str, **values: Any) -> KeyActivity:
    plain = KeyActivity(
        key=name,
        algorithm="gcra",
        quota="10/s",
        limit=10,
        remaining=5,
        admitted=1,
        denied=1,
        waiting=0,
        reset_after=1.0,
        last_seen=0.0,
    )
    return replace(plain, **values)


ENDLESS = {**Snapshot(1.0, 1, 1, 1, (key("k"),)).as_json()["keys"][0], "reset_after": float("nan")}


def names(snapshot: Snapshot) -> list[str]:
    return [one.key for one in snapshot.keys]


def test_a_key_shows_its_counts_its_quota_and_what_remains() -> None:
    activity = Activity()
    activity.record("k", "fixed_window", "10/m", result(remaining=3))
    activity.record("k", "fixed_window", "10/m", result(limited=True, remaining=0))
    (one,) = activity.snapshot().keys
    assert (one.key, one.algorithm, one.quota) == ("k", "fixed_window", "10/m")
    assert (one.limit, one.remaining, one.admitted, one.denied) == (10, 0, 1, 1)
    assert 50 < one.reset_after <= 60
    assert abs(one.last_seen - time.time()) < 10


def test_quotas_and_algorithms_of_one_key_are_counted_apart() -> None:
    activity = Activity()
    activity.record("k", "gcra", "10/s", result())
    activity.record("k", "gcra", "20/s", result())
    activity.record("k", "fixed_window", "20/s", result())
    assert activity.snapshot().total == 3


def test_a_request_that_costs_nothing_is_not_counted() -> None:
    activity = Activity()
    activity.record("k", "gcra", "10/s", result(), cost=0)
    assert activity.snapshot().total == 0


def test_the_json_has_the_shape_of_the_service() -> None:
    activity = Activity()
    activity.record("k", "gcra", "10/s", result())
    data = json.loads(json.dumps(activity.snapshot().as_json()))
    assert list(data) == ["now", "admitted", "denied", "total", "keys"]
    assert list(data["keys"][0]) == [
        "key",
        "algorithm",
        "quota",
        "limit",
        "remaining",
        "admitted",
        "denied",
        "waiting",
        "reset_after",
    ]


def test_a_snapshot_is_read_from_the_json_that_it_made() -> None:
    activity = Activity()
    activity.record("k", "gcra", "10/s", result())
    activity.begin_wait("waits", "gcra", "10/s")
    made = activity.snapshot()
    read = Snapshot.from_json(json.loads(json.dumps(made.as_json())))
    assert read == replace(made, keys=tuple(replace(one, last_seen=0.0) for one in made.keys))


@pytest.mark.parametrize(
    "data",
    [
        None,
        [],
        {},
        {"now": 1, "admitted": 1, "denied": 1, "total": 1, "keys": [{}]},
        {"now": "x", "admitted": 1, "denied": 1, "total": 1, "keys": []},
        {"now": 1, "admitted": 1, "denied": 1, "total": 1, "keys": [None]},
        {"now": 1, "admitted": None, "denied": 1, "total": 1, "keys": []},
        {"now": float("inf"), "admitted": 1, "denied": 1, "total": 1, "keys": []},
        {"now": 1, "admitted": 1, "denied": 1, "total": 1, "keys": [ENDLESS]},
    ],
)
def test_what_is_no_snapshot_is_refused(data: object) -> None:
    with pytest.raises(ValueError, match="Invalid snapshot"):
        Snapshot.from_json(data)


@pytest.mark.parametrize(
    ("sort", "first"),
    [
        ("denied", "denied"),
        ("admitted", "admitted"),
        ("waiting", "waiting"),
        ("remaining", "scarce"),
        ("recent", "recent"),
        ("key", "a"),
    ],
)
def test_each_sort_puts_its_own_first(sort: str, first: str) -> None:
    keys = [
        key("a"),
        key("denied", denied=9),
        key("admitted", admitted=9),
        key("waiting", waiting=9),
        key("scarce", remaining=0),
        key("recent", last_seen=9.0),
        key("unknown", remaining=None, limit=None, admitted=None, denied=None),
    ]
    assert names(Snapshot.of(0, 0, 0, keys, sort=sort))[0] == first
    assert sort in SORTS


def test_a_search_finds_parts_of_names_in_any_case_and_says_how_many() -> None:
    keys = [key("user:Alice"), key("user:bob"), key("alice@example.org")]
    found = Snapshot.of(0, 7, 0, keys, search="ALICE", limit=1)
    assert (found.total, len(found.keys), found.admitted) == (2, 1, 7)


def test_a_sort_that_is_not_known_is_named_with_those_that_are() -> None:
    with pytest.raises(ValueError, match="Invalid sort: 'size', must be one of denied, admitted"):
        Activity().snapshot(sort="size")


@pytest.mark.parametrize("max_keys", [0, -1, True, 1.5, "9"])
def test_max_keys_must_be_a_positive_integer(max_keys: Any) -> None:
    with pytest.raises(ValueError, match="Invalid max_keys"):
        Activity(max_keys)


def test_publishing_to_a_store_of_this_process_is_refused() -> None:
    with pytest.raises(SetUpError, match="Invalid publish: 'memory://'"):
        Activity(publish="memory://")


def test_merged_snapshots_are_summed_and_sorted_together() -> None:
    first = Snapshot.of(1, 5, 1, [key("a", denied=1), key("b", denied=5)], limit=1)
    second = Snapshot.of(2, 6, 2, [key("c", denied=3)])
    both = Snapshot.merged([first, second], limit=5)
    assert (both.now, both.admitted, both.denied, both.total) == (2, 11, 3, 3)
    assert names(both) == ["b", "c"]
    assert Snapshot.merged([]).keys == ()


def test_never_more_keys_are_kept_than_allowed_and_totals_stay_right() -> None:
    activity = Activity(max_keys=100)
    for i in range(1000):
        activity.record(f"k{i}", "gcra", "", result())
        assert activity.snapshot(limit=0).total <= 100
    assert activity.snapshot().admitted == 1000


def test_a_flood_of_fresh_keys_does_not_push_out_those_who_were_denied_or_wait() -> None:
    activity = Activity(max_keys=100)
    activity.record("denied", "gcra", "", result(limited=True))
    activity.begin_wait("waits", "gcra", "")
    for i in range(1000):
        activity.record(f"k{i}", "gcra", "", result())
    kept = names(activity.snapshot(limit=200))
    assert "denied" in kept
    assert "waits" in kept


def test_those_who_wait_are_not_counted_for_ever_when_their_key_makes_room() -> None:
    activity = Activity(max_keys=1)
    activity.begin_wait("old", "gcra", "10/s")
    activity.begin_wait("new", "gcra", "10/s")
    activity.end_wait("old", "gcra", "10/s")
    activity.end_wait("new", "gcra", "10/s")
    assert [family.waiting for family in activity.families()] == [0]


@pytest.mark.parametrize("sort", SORTS)
def test_the_first_of_many_are_those_that_all_of_them_begin_with(sort: str) -> None:
    activity = Activity()
    for number in range(60):
        name: str | bytes = f"k{number // 2}" if number % 2 else f"k{number // 2}".encode()
        for turn in range(number % 7 + 1):
            limited = turn % 3 == number % 3
            activity.record(name, "gcra", "10/s", result(limited, remaining=number % 5))
        for _ in range(number % 4):
            activity.begin_wait(name, "gcra", "10/s")
    every = activity.snapshot(sort=sort, limit=1000)
    first = activity.snapshot(sort=sort, limit=11)
    shown = [(one.key, one.admitted, one.denied, one.waiting) for one in first.keys]
    of_all = [(one.key, one.admitted, one.denied, one.waiting) for one in every.keys]
    assert shown == of_all[:11]
    assert (every.total, first.total) == (60, 60)
    assert activity.snapshot("K1", sort, 3).total == 22


def test_who_waits_is_shown_until_it_has_its_answer() -> None:
    activity = Activity()
    activity.begin_wait("k", "gcra", "1/s")
    activity.begin_wait("k", "gcra", "1/s")
    activity.end_wait("k", "gcra", "1/s")
    assert activity.snapshot().keys[0].waiting == 1
    activity.end_wait("k", "gcra", "1/s")
    activity.end_wait("k", "gcra", "1/s")
    assert activity.snapshot().keys[0].waiting == 0


def test_a_reset_gives_the_whole_quota_back_and_keeps_the_counts() -> None:
    activity = Activity()
    activity.record("k", "gcra", "10/s", result(limited=True, remaining=0))
    activity.reset("k", "gcra", "10/s")
    activity.reset("nobody", "gcra", "10/s")
    (one,) = activity.snapshot().keys
    assert (one.remaining, one.denied, one.reset_after) == (10, 1, 0.0)


@pytest.mark.parametrize(
    ("algorithm", "age", "expected"),
    [
        ("token_bucket", 0.0, (0, 10.0)),
        ("token_bucket", 5.0, (5, 5.0)),
        ("fixed_window", 5.0, (0, 5.0)),
        ("gcra", 10.0, (10, 0.0)),
        ("sliding_window", 11.0, (10, 0.0)),
    ],
)
def test_what_remains_grows_while_nobody_asks(
    algorithm: str, age: float, expected: tuple[int, float]
) -> None:
    assert after(algorithm, 10, 0, 10.0, age) == expected


@pytest.mark.parametrize("bad", [b"\xff\xfe", b"plain", "lone \udc80 surrogate", "nul \0 and 日本"])
def test_any_key_can_be_shown(bad: str | bytes) -> None:
    activity = Activity()
    activity.record(bad, "gcra", "", result())
    json.dumps(activity.snapshot(search="a").as_json())
    assert activity.snapshot().total == 1


def test_a_hook_counts_the_decisions_of_a_limiter() -> None:
    activity = Activity()
    throttle = Throttled(quota="2/h", hooks=[ActivityHook(activity)])
    for _ in range(5):
        throttle.limit("k")
    throttle.peek("k")
    (one,) = activity.snapshot().keys
    assert (one.admitted, one.denied, one.remaining, one.waiting) == (2, 3, 0, 0)
    assert (one.quota, one.algorithm) == ("2/h", "token_bucket")


def test_a_hook_shows_a_thread_that_waits(eventually: Eventually) -> None:
    activity = Activity()
    throttle = Throttled(quota="1/s burst 1", hooks=[ActivityHook(activity)], timeout=20)
    throttle.limit("k")
    waiter = threading.Thread(target=throttle.limit, args=("k",))
    waiter.start()
    eventually(lambda: activity.snapshot().keys[0].waiting == 1, "the thread is seen waiting")
    waiter.join(20)
    (one,) = activity.snapshot().keys
    assert (one.waiting, one.admitted) == (0, 2)
    (family,) = activity.families()
    assert family.waited > 0.2
    assert sum(family.waits) == 2


def test_an_awaited_hook_counts_and_a_cancelled_waiter_is_gone() -> None:
    activity = Activity()

    async def scene() -> None:
        throttle = AsyncThrottled(
            quota="1/h", hooks=[AsyncActivityHook(activity, "1/h")], timeout=7200
        )
        await throttle.limit("k")
        waiter = asyncio.ensure_future(throttle.limit("k"))
        for _ in range(10):
            await asyncio.sleep(0)
        assert activity.snapshot().keys[0].waiting == 1
        waiter.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiter

    asyncio.run(scene())
    (one,) = activity.snapshot().keys
    assert (one.admitted, one.denied, one.waiting) == (1, 0, 0)


def test_no_record_of_many_threads_is_lost() -> None:
    activity = Activity(max_keys=50)

    def work(number: int) -> None:
        for i in range(2000):
            who = (f"k{(i * number) % 80}", "gcra", "")
            activity.begin_wait(*who)
            activity.record(*who, result(limited=i % 2 == 0))
            activity.end_wait(*who)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(1, 5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    seen = activity.snapshot()
    assert (seen.admitted, seen.denied) == (4000, 4000)
    assert all(one.waiting == 0 for one in seen.keys)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_a_forks_child_counts_from_nothing() -> None:
    activity = Activity()
    activity.record("k", "gcra", "", result())
    read, write = os.pipe()
    if os.fork() == 0:
        activity.record("child", "gcra", "", result())
        os.write(write, b"".join(name.encode() for name in names(activity.snapshot())))
        os._exit(0)
    os.close(write)
    with os.fdopen(read, "rb") as pipe:
        assert pipe.read() == b"child"
    os.wait()
    assert names(activity.snapshot()) == ["k"]

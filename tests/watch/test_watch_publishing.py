"""Activity on a Redis server: processes add, readers see the sum."""

from __future__ import annotations

import logging
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest
from servers import RedisServer
from topologies import Cluster

from headway import RateLimitResult, RateLimitState
from headway._activity_redis import SEEN
from headway.activity import Activity, Snapshot, published
from headway.exceptions import SetUpError, StoreUnavailableError
from headway.store import RedisStore
from headway.top.sources import source_of

Eventually = Callable[..., None]

CHILD = """
import sys
from headway import Throttled
from headway.activity import Activity, ActivityHook
activity = Activity(publish=sys.argv[1])
throttle = Throttled(quota="3/h", hooks=[ActivityHook(activity)])
for _ in range(10):
    throttle.limit("shared")
"""


def result(limited: bool = False) -> RateLimitResult:
    return RateLimitResult(limited, RateLimitState(10, 4, 60))


def seen(server: RedisServer, **choice: Any) -> Snapshot:
    return published(server.url).snapshot(**choice)


def test_the_counts_of_processes_that_are_gone_are_summed(server: RedisServer) -> None:
    for _ in range(3):
        subprocess.run([sys.executable, "-c", CHILD, server.url], check=True, timeout=60)
    (one,) = seen(server).keys
    assert (one.key, one.quota, one.algorithm) == ("shared", "3/h", "token_bucket")
    assert (one.admitted, one.denied, one.limit) == (9, 21, 3)
    assert (seen(server).admitted, seen(server).denied) == (9, 21)


def test_what_is_counted_appears_by_itself(server: RedisServer, eventually: Eventually) -> None:
    activity = Activity(publish=server.url)
    activity.record("k", "gcra", "10/s", result())
    eventually(lambda: seen(server).total == 1, "the key is published")
    activity.record("k", "gcra", "10/s", result())
    eventually(lambda: seen(server).keys[0].admitted == 2, "the second request is published")


def test_publishing_twice_counts_once(server: RedisServer) -> None:
    activity = Activity(publish=server.url)
    activity.record("k", "gcra", "10/s", result(limited=True))
    activity.publish()
    activity.publish()
    (one,) = seen(server).keys
    assert (one.admitted, one.denied, one.remaining) == (0, 1, 4)
    assert 50 < one.reset_after <= 60


def test_keys_that_made_room_before_they_were_published_are_counted(server: RedisServer) -> None:
    activity = Activity(max_keys=10, publish=server.url)
    for i in range(100):
        activity.record(f"k{i % 20}", "gcra", "", result())
    activity.publish()
    found = seen(server)
    assert found.admitted == 100
    assert found.total <= 20


def test_a_server_keeps_no_more_keys_than_a_process_does(server: RedisServer) -> None:
    activity = Activity(max_keys=50, publish=server.url)
    for _ in range(5):
        for i in range(40):
            activity.record(f"{os.urandom(4).hex()}{i}", "gcra", "", result())
        activity.publish()
    assert server.command("ZCARD", SEEN) <= 50
    assert seen(server).total <= 50
    assert seen(server).admitted == 200


def test_all_of_it_expires(server: RedisServer) -> None:
    activity = Activity(publish=server.url)
    activity.record("k", "gcra", "", result())
    activity.begin_wait("k", "gcra", "")
    activity.publish()
    names = server.command("KEYS", "*")
    assert len(names) == 4
    assert all(0 < server.command("TTL", name) <= 3600 for name in names)


def test_waiters_of_several_processes_are_summed_and_leave(server: RedisServer) -> None:
    first, second = Activity(publish=server.url), Activity(publish=server.url)
    for activity in (first, second):
        activity.begin_wait("k", "gcra", "1/s")
        activity.publish()
    assert seen(server).keys[0].waiting == 2
    first.end_wait("k", "gcra", "1/s")
    first.publish()
    assert seen(server).keys[0].waiting == 1


def test_what_was_counted_while_the_server_was_away_is_published_later(
    server: RedisServer, eventually: Eventually, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "headway.activity")
    activity = Activity(publish=server.url)
    server.kill()
    for _ in range(7):
        activity.record("k", "gcra", "", result())
    with pytest.raises(StoreUnavailableError):
        activity.publish()
    eventually(lambda: "not published for now" in caplog.text, "the log says so")
    server.start()

    def counted() -> bool:
        try:
            return seen(server).admitted == 7
        except StoreUnavailableError:
            return False

    eventually(counted, "all seven are published")
    assert seen(server).keys[0].admitted == 7
    eventually(lambda: "published again" in caplog.text, "the log says that it is over")
    assert caplog.text.count("not published for now") == 1


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_a_forks_child_publishes_what_it_counted_itself(server: RedisServer) -> None:
    activity = Activity(publish=server.url)
    activity.record("k", "gcra", "", result())
    if os.fork() == 0:
        activity.record("k", "gcra", "", result())
        activity.publish()
        os._exit(0)
    os.wait()
    activity.publish()
    assert seen(server).keys[0].admitted == 2


def test_keys_are_published_whatever_they_hold(server: RedisServer) -> None:
    activity = Activity(publish=server.url)
    for name in ("spaces and\nlines", b"\xff\x00", "日本語", "x" * 65536, "lone \udc80"):
        activity.record(name, "gcra", "10/s burst 2; 5/m", result())
    activity.publish()
    found = {one.key for one in seen(server).keys}
    assert {"spaces and\nlines", "\\xff\x00", "日本語", "lone \\udc80"} < found
    assert max(len(name) for name in found) < 1000


def test_what_somebody_else_wrote_there_is_passed_over(server: RedisServer) -> None:
    activity = Activity(publish=server.url)
    activity.record("k", "gcra", "", result())
    activity.publish()
    server.command("HSET", "{headway:activity}:counts", "no json", "1 2")
    server.command("HSET", "{headway:activity}:counts", '["a","b","c","d"]', "1 2 x")
    server.command("HSET", "{headway:activity}:waiting", "process", "9999999999999 [1]")
    assert [one.key for one in seen(server).keys] == ["k"]


def test_a_client_that_only_an_event_loop_can_use_is_refused(server: RedisServer) -> None:
    redis = pytest.importorskip("redis.asyncio")
    store = RedisStore(redis.Redis(port=server.port))
    with pytest.raises(SetUpError, match="is a client for asyncio"):
        Activity(publish=store)


@pytest.mark.parametrize("decodes", [False, True])
def test_a_client_of_the_users_own_publishes_too(server: RedisServer, decodes: bool) -> None:
    redis = pytest.importorskip("redis")
    client = redis.Redis(port=server.port, decode_responses=decodes)
    activity = Activity(publish=client)
    activity.record("k", "gcra", "10/s", result())
    activity.publish()
    assert [one.key for one in published(client).snapshot().keys] == ["k"]


def test_a_cluster_is_published_to_and_looked_at() -> None:
    if shutil.which("redis-server") is None:
        pytest.skip("redis-server is not installed")
    with Cluster(shards=3, replicas=0) as cluster:
        source = source_of(cluster.url)
        assert source.snapshot().keys == ()
        assert "nobody publishes there" in source.note
        activity = Activity(publish=cluster.url)
        activity.record("k", "gcra", "10/s", result())
        activity.publish()
        assert [one.key for one in published(cluster.url).snapshot().keys] == ["k"]
        assert source.snapshot().total == 1
        assert source.note == ""

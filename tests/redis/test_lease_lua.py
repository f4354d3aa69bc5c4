"""The scripts of leases on a real server, in virtual time: whatever their holders do, no interval
sees more than the quota, and what goes back is neither lost nor counted twice.
"""

# ruff: noqa: E402 (what is imported may need redis-py, which may not be there)

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

pytest.importorskip("redis.client")
pytest.register_assert_rewrite("lease_play", "lua_scripts")

from lease_play import START_US, Bucket, interval_us, play, worst
from lua_scripts import arrival_ns, in_virtual_time, text
from lua_server import BINARIES, running
from redis.exceptions import ResponseError

from reference.model import Rule

pytestmark = pytest.mark.skipif(not BINARIES, reason="no redis-server or valkey-server here")

MS = 10**6
TEN = Rule(1000, 1000 * MS, 10)
"""Ten tokens, one a millisecond."""
THIRDS = Rule(3, MS, 8)
SEVENTHS = Rule(7, 10 * MS, 21)
QUOTAS = [
    [TEN],
    [THIRDS],
    [SEVENTHS],
    [Rule(1000, 1000 * MS, 10), Rule(400, 1000 * MS, 30)],
]


@pytest.fixture(scope="module", params=BINARIES)
def server(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Any]:
    log = tmp_path_factory.mktemp("server") / "log"
    with running(request.param, log) as client:
        yield client
    assert "deprecated" not in log.read_text().lower()


@pytest.fixture
def client(server: Any) -> Any:
    server.flushall()
    return server


# --- never more


@pytest.mark.slow
@pytest.mark.parametrize("rules", QUOTAS, ids=str)
def test_no_interval_sees_more_than_the_quota(client: Any, rules: list[Rule]) -> None:
    episodes = play(client, rules, 1, 150)
    assert sum(count for spent in episodes for _, count in spent) > 1500
    for rule in rules:
        assert max(worst(spent, rule) for spent in episodes) <= 0


# Each is what a simpler script would do: the same tests must find that it lets too many through.
SIMPLER = {
    "blocks that begin now": (
        "us, excess, r.slack = start + ahead, 0, 0",
        "us, excess, r.slack = max(us, start), 0, 0",
    ),
    "what goes back, whatever was taken since": ("r.slacks[i] < us then", "false then"),
    "what goes back twice": ("r.open[own] = false", ""),
    "in the midst of reservations": ("or reserved or", "or"),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", SIMPLER)
def test_a_simpler_script_is_found_out(client: Any, name: str) -> None:
    script = text("lease").replace(*SIMPLER[name])
    assert script != text("lease")
    assert any(
        worst(spent, SEVENTHS) > 0
        for seed in (7, 10, 4, 9, 1, 12)
        for spent in play(client, [SEVENTHS], seed, 25, script)
    )


def test_what_goes_back_does_not_free_what_another_holder_still_counts_on(client: Any) -> None:
    """The later block began where the earlier one ended, so its own time is not lost twice."""
    bucket = Bucket(client, [TEN])
    first = bucket.take(START_US, 4, 4000)
    second = bucket.take(START_US + 3000, 4, 4000)
    assert first.admitted
    assert second.admitted
    bucket.take(START_US + 4000, 0, 0, first.block, left=4)
    # The second's four may be spent at 7 ms: at most six more may be had then.
    assert sum(bucket.limit(START_US + 7000, 1) is not None for _ in range(10)) <= 6


def test_takes_that_came_before_another_give_back_together_no_more_than_it_allows(
    client: Any,
) -> None:
    bucket = Bucket(client, [Rule(1000, 1000 * MS, 20)])
    first, second = (bucket.take(START_US, 2, 2000).block for _ in range(2))
    # It may be spent until 4490 us, and the bucket was booked until 6000 us.
    assert bucket.take(START_US + 1990, 1, 2500).admitted
    bucket.take(START_US + 1995, 0, 0, first, left=2)
    after = bucket.take(START_US + 1996, 0, 0, second, left=2)
    assert after.states == [(START_US + 4490 + 1000, 0)]


def test_what_goes_back_does_so_once_though_the_request_be_sent_twice(client: Any) -> None:
    bucket = Bucket(client, [TEN])
    bucket.take(START_US, 3, 0)
    block = bucket.take(START_US, 4, 4000).block
    once = bucket.take(START_US + 10, 0, 0, block, left=2).states
    assert bucket.take(START_US + 20, 0, 0, block, left=2).states == once


# --- nothing lost


def test_what_was_not_spent_is_as_if_it_had_not_been_taken(client: Any) -> None:
    bucket = Bucket(client, [THIRDS])
    block = bucket.take(START_US, 4, 1333).block
    after = bucket.take(START_US + 100, 0, 0, block, left=3)
    assert arrival_ns(THIRDS, after.states[0]) == (START_US + 100 + interval_us(THIRDS)) * 1000


def test_a_burst_that_is_spent_at_once_can_be_had_in_blocks(client: Any) -> None:
    """A block is booked ahead of its time; once it is spent, that time comes back."""
    bucket = Bucket(client, [TEN])
    had, block = 0, None
    for count in (5, 2, 1, 1, 1):
        taken = bucket.take(START_US, count, count * 1000, block)
        assert taken.admitted
        had, block = had + count, taken.block
    assert had == TEN.burst
    assert not bucket.take(START_US, 1, 0, block).admitted


def test_two_holders_both_get_back_what_they_had_left(client: Any) -> None:
    bucket = Bucket(client, [TEN])
    one = bucket.take(START_US, 2, 2000)
    two = bucket.take(START_US, 2, 2000)
    bucket.take(START_US + 10, 0, 0, two.block, left=2)
    bucket.take(START_US + 20, 0, 0, one.block, left=2)
    assert bucket.client.keys() == []


def test_late_it_goes_back_only_where_every_take_is_known(client: Any) -> None:
    late = START_US + 3000
    for others, given in ((False, True), (True, False)):
        bucket = Bucket(client, [Rule(100, 1000 * MS, 10)])
        block = bucket.take(START_US, 4, 1000).block
        if others:
            assert bucket.limit(START_US + 10, 1) is not None
        before = bucket.take(late, 0, 0).states[0][0]
        after = bucket.take(late, 0, 0, block, left=4).states[0][0]
        assert (after < before) is given


def test_nothing_goes_back_to_a_key_that_has_begun_afresh(client: Any) -> None:
    bucket = Bucket(client, [TEN])
    block = bucket.take(START_US, 4, 4000).block
    client.flushall()
    bucket.take(START_US + 10, 3, 3000)
    before = client.get(bucket.keys[0])
    bucket.take(START_US + 20, 0, 0, block, left=4)
    assert client.get(bucket.keys[0]) == before


def test_nothing_goes_back_while_somebody_waits_for_a_reservation(client: Any) -> None:
    bucket = Bucket(client, [TEN])
    block = bucket.take(START_US, 4, 4000).block
    assert bucket.limit(START_US, 10, wait_us=20_000) == START_US + 8000
    bucket.take(START_US + 10, 0, 0, block, left=4)
    # All ten are spent at 8 ms: none may be left then.
    assert bucket.limit(START_US + 8000, 1) is None


def test_a_single_token_is_what_a_call_without_a_lease_takes(client: Any) -> None:
    bucket = Bucket(client, [THIRDS])
    taken = [bucket.take(START_US, 1, 0).states[0] for _ in range(3)]
    client.flushall()
    assert [bucket.limit(START_US, 1) for _ in range(3)] == [START_US] * 3
    assert client.get(bucket.keys[0]) == "{}:{}".format(*taken[2])


def test_a_denial_takes_nothing_from_any_rule_and_still_gives_back(client: Any) -> None:
    rules = [Rule(1000, 1000 * MS, 10), Rule(1000, 1000 * MS, 20)]
    bucket = Bucket(client, rules)
    block = bucket.take(START_US, 4, 4000).block
    denied = bucket.take(START_US, 9, 0, block, left=2)
    assert not denied.admitted
    for rule, state in zip(rules, denied.states, strict=True):
        assert arrival_ns(rule, state) == (START_US + 2000) * 1000


# --- keys


def test_the_list_of_takes_stays_short_and_ends_with_the_state(client: Any) -> None:
    rule = Rule(1000, 1000 * MS, 1000)
    bucket = Bucket(client, [rule])
    for count in range(40):
        bucket.take(START_US + count * 10, 1, 1000)
    assert client.get(f"{bucket.keys[0]}:lease").count(";") == 16
    args = [1000, 0, 0, rule.limit, 10_000, 0, 10**6, 0, 0, 0, 0]
    client.flushall()
    with client.pipeline(transaction=True) as step:
        step.eval(text("lease"), 2, "k", "k:lease", *args)
        step.pttl("k").pttl("k:lease")
        _, state, takes = step.execute()
    assert 0 < state <= 12
    assert abs(state - takes) <= 1


@pytest.mark.parametrize("count", [1, 2, 3])
def test_takes_that_became_one_entry_still_hold_back_what_came_before(
    client: Any, count: int
) -> None:
    bucket = Bucket(client, [Rule(1000, 1000 * MS, 100)])
    first = bucket.take(START_US, 4, 4000)
    bucket.take(START_US + 4000 - count, 1, 8000)  # began anew: nothing of the first may go back
    for later in range(12):
        bucket.take(START_US + 4000 - count, 1, later % 3 * 100)
    before = client.get(bucket.keys[0])
    bucket.take(START_US + 4000, 0, 0, first.block, left=4)
    assert client.get(bucket.keys[0]) == before


def test_a_key_that_is_something_else_is_an_error_and_nothing_changes(client: Any) -> None:
    args = [1000, 0, 0] + [10, 100_000, 0, 10**6, 0, 0, 0, 0] * 2
    client.set("second", "a:b")
    with pytest.raises(ResponseError, match=r"BADSTATE .*second"):
        client.eval(text("lease"), 4, "first", "first:lease", "second", "second:lease", *args)
    assert client.keys() == ["second"]


def test_a_list_that_cannot_be_read_is_begun_anew(client: Any) -> None:
    bucket = Bucket(client, [TEN])
    block = bucket.take(START_US, 2, 2000).block
    client.set(f"{bucket.keys[0]}:lease", "nonsense")
    before = client.get(bucket.keys[0])
    bucket.take(START_US, 0, 0, block, left=2)
    assert client.get(bucket.keys[0]) == before
    assert bucket.take(START_US, 2, 2000).admitted
    assert client.get(f"{bucket.keys[0]}:lease").count(";") == 1


# --- windows


def test_windows_get_back_what_is_still_counted(client: Any) -> None:
    def give(state: str, window: int, amount: int = 3, period: int = 10) -> tuple[int, str]:
        client.set("k", state, px=60_000)
        given = client.eval(text("give_back"), 1, "k", period, amount, window)
        assert client.pttl("k") > 50_000
        return given, client.get("k")

    assert give("100:7", 100) == (1, "100:4")
    assert give("100:2", 100) == (1, "100:0")
    assert give("110:7", 100) == (0, "110:7")
    assert give("110:5:7", 100) == (1, "110:5:4")  # the window that is counted ends at 100
    assert give("110:5:7", 90) == (1, "110:2:7")  # the one before it
    assert give("110:5:7", 80) == (0, "110:5:7")


def test_windows_that_are_gone_get_nothing_back(client: Any) -> None:
    assert client.eval(text("give_back"), 1, "k", 10, 3, 100) == 0
    assert client.keys() == []
    client.set("k", "nonsense", px=60_000)
    assert client.eval(text("give_back"), 1, "k", 10, 3, 100) == 0
    assert client.get("k") == "nonsense"


# --- the scripts as they are sent


OLD = "local called = redis.call\nlocal redis = {call = called, error_reply = redis.error_reply"
SERVERS = {
    "5 or 6": OLD + ", replicate_commands = function() called('SET', 'asked', 1) end}\n",
    "7 or newer": OLD + ", REDIS_VERSION_NUM = 458752, replicate_commands = error}\n",
}


@pytest.mark.parametrize("version", SERVERS)
@pytest.mark.parametrize("name", ["lease", "give_back"])
def test_only_a_server_older_than_7_is_asked_to_replicate_effects(
    client: Any, name: str, version: str
) -> None:
    args = [1000, 0, 0, 10, 100_000, 0, 10**6, 0, 0, 0, 0] if name == "lease" else [10, 1, 100]
    keys = ["k", "k:lease"][: 1 + (name == "lease")]
    client.eval(SERVERS[version] + text(name), len(keys), *keys, *args)
    assert client.exists("asked") == (version == "5 or 6")


def test_a_server_whose_integers_are_short_writes_the_same(client: Any) -> None:
    short = text("lease").replace("and '%d' or '%.0f'", "and '%.0f' or '%.0f'")
    assert short != text("lease")
    states = []
    for script in (text("lease"), short):
        bucket = Bucket(client, [THIRDS], script)
        block = bucket.take(START_US, 4, 1333).block
        states.append(bucket.take(START_US + 7, 1, 0, block, left=2).states)
    assert states[0] == states[1]


def test_the_virtual_clock_is_the_scripts_own() -> None:
    assert "redis.call('TIME')" in text("lease")
    assert "redis.call('TIME')" not in in_virtual_time(text("lease"))

"""The Lua scripts, held against the C core and the model in exact rationals: decision by decision
and state by state, on a real server. And their promises about keys, time and errors.
"""

# ruff: noqa: E402 (what is imported may need redis-py, which may not be there)

from __future__ import annotations

import random
import re
import struct
from collections.abc import Iterator
from fractions import Fraction
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

pytest.importorskip("redis.client")
pytest.register_assert_rewrite("lua_play", "lua_scripts")

from lua_play import canonical, fitting, next_instant, play, quota_of, same_in_c
from lua_scripts import (
    FAMILIES,
    WORDS,
    Rig,
    arguments,
    arrival_ns,
    span,
    text,
    without_long_integers,
)
from lua_server import BINARIES, running
from redis.exceptions import ResponseError

from headway.algorithms import ALGORITHMS, step
from reference.model import Model, Rule
from reference.strategies import (
    LAST_INSTANT_NS,
    Move,
    instants,
    moves,
    rules,
    schedules,
    several_rules,
    small_rules,
)

pytestmark = pytest.mark.skipif(not BINARIES, reason="no redis-server or valkey-server here")

START_US = 1_700_000_003 * 10**6
counts = st.integers(0, 10**12)
periods = st.integers(1, 3650 * 86_400 * 10**6)
EXACT = 2**53


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


# --- against C and the model


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES)
def test_a_script_decides_as_c_and_the_model_do(server: Any, family: str) -> None:
    @given(rule=rules, start_ns=instants, schedule=schedules, drops=st.booleans())
    def run(rule: Rule, start_ns: int, schedule: list[Move], drops: bool) -> None:
        play(server, family, [rule], start_ns // 1000, schedule, drops=drops)

    run()


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES)
def test_several_rules_all_admit_or_none_is_touched(server: Any, family: str) -> None:
    @given(quotas=several_rules, start_ns=instants, schedule=schedules, drops=st.booleans())
    def run(quotas: list[Rule], start_ns: int, schedule: list[Move], drops: bool) -> None:
        play(server, family, quotas, start_ns // 1000, schedule, drops=drops)

    run()


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("seed", range(4))
def test_they_still_agree_after_hundreds_of_steps(client: Any, family: str, seed: int) -> None:
    pick = random.Random(seed)
    jumps = ("stay", "stay", "ahead", "tokens", "window", "retry", "retry", "reset")
    asks = ("exactly", "exactly", "again", "remaining", "part")
    for limit, period_us in ((7, 10**6), (10**6, 3_600 * 10**6), (999_983, 86_399_999_999)):
        rule = Rule(limit, period_us * 1000, limit * (seed + 1) // 2)
        schedule = [
            Move(pick.choice(jumps), pick.randrange(10**7), pick.choice(asks), pick.randint(1, 9))
            for _ in range(400)
        ]
        play(client, family, [rule], START_US, schedule, drops=seed % 2 == 0)


EXTREMES = [
    Rule(limit, period_ns, burst)
    for limit in (1, 10**12)
    for period_ns in (1000, 3650 * 86_400 * 10**9)
    for burst in (0, 1, 10**12)
]


@pytest.mark.parametrize("long_bits", [32, 64])
@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("rule", EXTREMES, ids=str)
def test_the_corners_of_the_bounds_are_exact(
    client: Any, family: str, rule: Rule, long_bits: int
) -> None:
    script = text(family) if long_bits == 64 else without_long_integers(text(family))
    costs = (0, 1, 1, rule.limit, rule.burst, fitting(rule).burst, 10**12)
    schedule = [Move("stay", 0, "exactly", cost) for cost in costs]
    schedule += [Move("retry", nudge, "part", 7) for nudge in (0, 1, 2)]
    schedule += [Move("reset", nudge, "burst", 1) for nudge in (0, 1, 2)]
    schedule += [Move("window", nudge, "part", 5) for nudge in (0, 1, 2)]
    for start_us in (0, START_US, LAST_INSTANT_NS // 1000):
        play(client, family, [rule], start_us, schedule, script=script)


def test_products_too_large_for_a_double_are_compared_exactly(server: Any) -> None:
    found = re.search(r"local function at_least.*?\nend\n", text("sliding_window"), re.S)
    assert found is not None
    numbers = ", ".join(f"tonumber(ARGV[{i}])" for i in (1, 2, 3, 4))
    program = f"local floor = math.floor\n{found[0]}return at_least({numbers}) and 1 or 0"
    sha = server.script_load(program)

    def check(a: int, b: int, c: int, d: int) -> None:
        assert server.evalsha(sha, 0, a, b, c, d) == (a * b >= c * d), (a, b, c, d)

    @given(a=counts, b=periods, c=counts, near=st.integers(-1, 1))
    @example(a=10**12, b=315_360_000_000_000, c=10**12, near=0)
    @example(a=10**12, b=315_360_000_000_000, c=0, near=0)
    @example(a=-1, b=315_360_000_000_000, c=10**12, near=0)
    def all_but_equal_quotients(a: int, b: int, c: int, near: int) -> None:
        check(a, b, c, max(1, min(a * b // max(c, 1) + near, 2**52)))

    @given(n=st.integers(10**8, 10**12), k=st.integers(1, 300))
    def all_but_equal_products(n: int, k: int) -> None:
        check(n, k * n, n - 1, k * n + k)  # larger by k
        check(n - 1, k * n + k, n, k * n)
        check(n, k * n, n, k * n)

    all_but_equal_quotients()
    all_but_equal_products()


@pytest.mark.parametrize("family", FAMILIES[1:])
def test_a_window_of_another_period_is_read_as_c_reads_it(server: Any, family: str) -> None:
    """As it is where a quota was changed, or a clock went back."""

    @given(
        rule=small_rules,
        now_us=st.integers(10**9, 10**9 + 10**7),
        ahead_us=st.integers(-(10**8), 2 * 10**8),
        counts=st.tuples(st.integers(0, 12), st.integers(0, 12)),
        cost=st.integers(1, 12),
    )
    def run(rule: Rule, now_us: int, ahead_us: int, counts: tuple[int, int], cost: int) -> None:
        rig = Rig(server, family, [rule], drops=False, script=text(family))
        # Ends about where a window of the rule would, so that every branch is met.
        end_us = now_us + ahead_us * 4 * rule.period_ns // 10**11
        words = (end_us, *counts)[: WORDS[family]]
        server.set(rig.keys[0], ":".join(map(str, words)))
        rig.states = [words]
        in_c = (end_us * 1000, counts[0], 0)
        if family == "sliding_window":
            in_c = (end_us * 1000, counts[1], counts[0])
        packed = struct.pack("<Bqqq", 16 + ALGORITHMS.index(family), *in_c)
        packed, result = step(packed, quota_of(rule), cost, now_us * 1000, using=family)
        answer = rig.step(now_us, cost)
        assert answer.admitted is not result.limited
        assert same_in_c(family, rule, struct.unpack("<xqqq", packed), answer.states[0], now_us)

    run()


# --- settling


@pytest.mark.slow
def test_settling_gives_back_and_charges_as_the_model_does(server: Any) -> None:
    @given(
        quotas=st.lists(rules.map(fitting), min_size=1, max_size=2),
        start_ns=instants,
        schedule=st.lists(st.tuples(moves, st.sampled_from((-1, 0, 0, 1))), min_size=5),
        drops=st.booleans(),
    )
    def run(
        quotas: list[Rule], start_ns: int, schedule: list[tuple[Move, int]], drops: bool
    ) -> None:
        model = Model("gcra", quotas)
        rig = Rig(server, "gcra", quotas, drops=drops, script=text("gcra"))
        now, cost, last = start_ns // 1000, 0, None
        for move, sign in schedule:
            rule = quotas[move.ask_for % len(quotas)]
            now = next_instant(move, now, rule, last)
            cost = min(move.cost(rule, last, cost), *(rule.burst for rule in quotas))
            if sign == 0:
                last = model.limit(now * 1000, cost)
                assert rig.step(now, cost).admitted is last.allowed
            else:
                rig.settle(now, sign * cost)
                for part in model.parts:
                    arrival = max(Fraction(now * 1000), part.tat)  # type: ignore[attr-defined]
                    part.tat = arrival - sign * cost * part.rule.interval  # type: ignore[attr-defined]
            for part, lua in zip(model.parts, rig.states, strict=True):
                assert canonical("gcra", part.rule, lua)
                owed = max(Fraction(now * 1000), part.tat)  # type: ignore[attr-defined]
                if owed >= (EXACT - 1) * 1000:
                    return  # charged up to the end of time
                assert max(Fraction(now * 1000), arrival_ns(part.rule, lua)) == owed

    run()


def test_three_thirds_are_one_and_leave_no_remainder(client: Any) -> None:
    rig = Rig(client, "gcra", [Rule(3, 10**9, 3)], drops=False, script=text("gcra"))
    thirds = [[(START_US + 333_334, 2)], [(START_US + 666_667, 1)], [(START_US + 10**6, 0)]]
    assert [rig.step(START_US, 1).states for _ in range(3)] == thirds
    client.flushall()
    rig.states = [rig.none]
    assert [rig.settle(START_US, -1).states for _ in range(3)] == thirds


def test_a_charge_creates_a_key_and_giving_it_back_removes_it(client: Any) -> None:
    rig = Rig(client, "gcra", [Rule(3, 10**9, 3)], drops=False, script=text("gcra"))
    assert rig.settle(START_US, -2).states == [(START_US + 666_667, 1)]
    assert rig.settle(START_US, 2).states == [(0, 0)]
    assert client.exists(*rig.keys) == 0


def test_giving_back_more_than_was_taken_does_not_raise_the_burst(client: Any) -> None:
    rig = Rig(client, "gcra", [Rule(10, 10**9, 5)], drops=False, script=text("gcra"))
    assert rig.step(START_US, 1).admitted
    rig.settle(START_US, 5)
    assert rig.step(START_US, 5).admitted
    assert not rig.step(START_US, 1).admitted


def test_charges_without_end_stop_at_the_last_instant_that_is_exact(client: Any) -> None:
    rule = fitting(Rule(1, 3650 * 86_400 * 10**9, 10**12))
    rig = Rig(client, "gcra", [rule], drops=False, script=text("gcra"))
    for _ in range(4):
        rig.settle(START_US, -rule.burst)
    assert rig.states == [(EXACT - 1, 0)]
    assert not rig.step(START_US, 1).admitted


def test_settle_knows_only_its_two_signs(client: Any) -> None:
    for sign in ("Give", ""):
        with pytest.raises(ResponseError, match="settle takes 'give' or 'charge'"):
            client.eval(text("settle"), 1, "k", 1, 1, 0, sign)
    assert client.dbsize() == 0


# --- keys


@pytest.mark.parametrize("family", FAMILIES)
def test_a_denial_by_the_last_rule_leaves_the_first_as_it_was(client: Any, family: str) -> None:
    quotas = [Rule(100, 60 * 10**9, 100), Rule(2, 60 * 10**9, 2)]
    rig = Rig(client, family, quotas, drops=False, script=text(family))
    assert rig.step(START_US, 2).admitted
    before = {key: client.get(key) for key in rig.keys}
    assert not rig.step(START_US + 1, 1).admitted
    assert {key: client.get(key) for key in rig.keys} == before


@pytest.mark.parametrize("family", FAMILIES)
def test_a_peek_at_a_key_that_is_not_there_creates_none(client: Any, family: str) -> None:
    rule = Rule(1, 10**9, 1)
    rig = Rig(client, family, [rule, rule], drops=False, script=text(family))
    assert rig.step(START_US, 0).states == [rig.none, rig.none]
    assert client.dbsize() == 0


@pytest.mark.parametrize("family", FAMILIES)
def test_a_peek_is_admitted_where_nothing_more_fits(client: Any, family: str) -> None:
    rig = Rig(client, family, [Rule(1, 10**9, 1)], drops=False, script=text(family))
    assert rig.step(START_US, 1).admitted
    assert not rig.step(START_US, 1).admitted
    assert rig.step(START_US, 0).admitted


@pytest.mark.parametrize("family", [*FAMILIES, "settle"])
@pytest.mark.parametrize(
    ("spoil", "error"),
    [
        (lambda client, key: client.rpush(key, "a"), "WRONGTYPE"),
        (lambda client, key: client.set(key, "a:b:c"), "BADSTATE .*second"),
        (lambda client, key: client.set(key, "1:2:3:4"), "BADSTATE .*second"),
        (lambda client, key: client.set(key, ""), "BADSTATE .*second"),
    ],
    ids=["list", "text", "too many words", "empty"],
)
def test_a_key_that_is_something_else_is_an_error_and_nothing_changes(
    client: Any, family: str, spoil: Any, error: str
) -> None:
    rule = Rule(10, 10**9, 10)
    one: list[Any] = [10, 100_000, 0, "charge"]
    if family != "settle":
        one = arguments(family, rule, 1)
    spoil(client, "{k}second")
    before = client.dump("{k}second")
    with pytest.raises(ResponseError, match=error):
        client.eval(text(family), 2, "{k}first", "{k}second", *one, *one)
    assert client.keys() == ["{k}second"]
    assert client.dump("{k}second") == before


def test_the_remainder_of_another_quota_is_let_go(server: Any) -> None:
    rule = Rule(7, 10**9, 10)

    @given(
        excess=st.one_of(st.integers(0, 14), counts),
        ahead_us=st.integers(1, 10**6),
        cost=st.integers(1, 10),
        settles=st.booleans(),
    )
    @example(excess=7, ahead_us=1, cost=1, settles=False)
    @example(excess=7, ahead_us=1, cost=1, settles=True)
    def run(excess: int, ahead_us: int, cost: int, settles: bool) -> None:
        state = (START_US + ahead_us, excess)
        rig = Rig(server, "gcra", [rule], drops=False, script=text("gcra"))
        server.set(rig.keys[0], f"{state[0]}:{state[1]}")
        rig.states = [state]
        own = arrival_ns(rule, (state[0], excess if excess < rule.limit else 0))
        after = own + cost * rule.interval
        if settles:
            answer = rig.settle(START_US, -cost)
        else:
            answer = rig.step(START_US, cost)
            assert answer.admitted is (after - rule.burst * rule.interval <= START_US * 1000)
        if answer.admitted:
            assert arrival_ns(rule, answer.states[0]) == after
            assert canonical("gcra", rule, answer.states[0])

    run()


# --- the scripts as they are sent


@pytest.mark.parametrize("family", [*FAMILIES, "settle"])
def test_time_is_the_servers_and_a_key_outlives_its_state(client: Any, family: str) -> None:
    rule = Rule(1000, 10**9, 1000)
    args: list[Any] = [rule.limit, *span(rule, 1), "charge"]
    if family != "settle":
        args = arguments(family, rule, 1)
    absolute = client.info("server")["redis_version"] >= "7"
    for _ in range(300):
        pipe = client.pipeline(transaction=True)
        pipe.time()
        pipe.eval(text(family), 1, "k", *args)
        pipe.time()
        pipe.execute_command("PEXPIRETIME" if absolute else "PTTL", "k")
        (s0, us0), (admitted, now, end, *_), (s1, us1), expiry_ms = pipe.execute()
        assert admitted == 1
        assert s0 * 10**6 + us0 <= int(now) <= s1 * 10**6 + us1
        expiry_us = expiry_ms * 1000 + (0 if absolute else int(now))
        assert int(end) <= expiry_us <= int(end) + 10**7
        client.delete("k")


OLD = "local called = redis.call\nlocal redis = {call = called, error_reply = redis.error_reply"
SERVERS = {
    "5 or 6": OLD + ", replicate_commands = function() called('SET', 'asked', 1) end}\n",
    "7 or newer": OLD + ", REDIS_VERSION_NUM = 458752, replicate_commands = error}\n",
    "without it": OLD + "}\n",
}


@pytest.mark.parametrize("version", SERVERS)
@pytest.mark.parametrize("name", [*FAMILIES, "settle"])
def test_only_a_server_older_than_7_is_asked_to_replicate_effects(
    client: Any, name: str, version: str
) -> None:
    args: list[Any] = [10, 100_000, 0, "charge"]
    if name != "settle":
        args = arguments(name, Rule(10, 10**9, 10), 1)
    assert client.eval(SERVERS[version] + text(name), 1, "k", *args)[0] == 1
    assert client.exists("asked") == (version == "5 or 6")


@pytest.mark.parametrize("name", [*FAMILIES, "settle"])
def test_a_script_is_small_and_reads_the_clock_once(name: str) -> None:
    assert len(text(name)) < 5000
    assert max(map(len, text(name).splitlines())) <= 128
    assert text(name).count("'TIME'") == text(name).count("= now()") == 1

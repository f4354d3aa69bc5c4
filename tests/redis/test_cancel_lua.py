"""cancel.lua on a real server, in virtual time: whoever cancels whenever, no interval sees more
than the quota; and a slot that was left is somebody else's.
"""

# ruff: noqa: E402 (what is imported may need redis-py, which may not be there)

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from fractions import Fraction
from typing import Any

import pytest

pytest.importorskip("redis.client")
pytest.register_assert_rewrite("lease_play", "lua_scripts")

from lease_play import START_US, Spent, interval_us, worst
from lua_scripts import in_virtual_time, span, text
from lua_server import BINARIES, running

from reference.model import Rule

pytestmark = pytest.mark.skipif(not BINARIES, reason="no redis-server or valkey-server here")

SECOND = 10**9
ONE = Rule(5, SECOND, 1)
"""One at a time, five a second: slots are 200 ms apart."""
FAR = Rule(5, 100 * SECOND, 1)
"""Slots are 20 s apart: what is kept for them is still there when it is looked at."""
TWO = Rule(5, SECOND, 2)
TEN = Rule(1000, SECOND, 10)
THIRDS = Rule(3, SECOND // 1000, 8)
QUOTAS = [[ONE], [TWO], [TEN], [THIRDS], [TWO, Rule(40, 10 * SECOND, 5)]]


@pytest.fixture(scope="module", params=BINARIES)
def client(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Any]:
    with running(request.param, tmp_path_factory.mktemp("server") / "log") as client:
        yield client


class Key:
    """One key under rules."""

    def __init__(self, client: Any, rules: Sequence[Rule], cancel: str = "") -> None:
        self.client, self.rules = client, rules
        self.keys = [f"{{k}}{number}" for number in range(len(rules))]
        self.gcra = client.script_load(in_virtual_time(text("gcra")))
        self.cancel_sha = client.script_load(in_virtual_time(cancel or text("cancel")))
        client.flushdb()

    def _call(self, sha: str, args: list[Any]) -> list[Any]:
        # Times to live are real and instants are not: what is gone at an instant is gone by itself.
        pipe = self.client.pipeline(transaction=True)
        pipe.evalsha(sha, len(self.keys), *self.keys, *args)
        for key in self.keys:
            pipe.persist(key)
        pipe.persist(f"{self.keys[0]}:slots")
        for key in self.keys:
            pipe.persist(f"{key}:undone")
        reply: list[Any] = pipe.execute()[0]
        return reply

    def ask(self, now_us: int, count: int = 1, wait_us: int = 0) -> Reserved | None:
        args: list[Any] = []
        for rule in self.rules:
            args += [rule.limit, *span(rule, count), *span(rule, rule.burst), wait_us]
        admitted, _, *words = self._call(self.gcra, [*args, now_us])
        if not admitted:
            return None
        numbers = list(map(int, words))
        due = [
            us - Fraction(excess, rule.limit) - rule.burst * interval_us(rule)
            for rule, us, excess in zip(self.rules, numbers[::2], numbers[1::2], strict=True)
        ]
        return Reserved(max(Fraction(now_us), *due), count, numbers)

    def cancel(self, now_us: int, what: Reserved) -> int:
        args: list[Any] = []
        for number, rule in enumerate(self.rules):
            words = what.words[2 * number : 2 * number + 2]
            args += [rule.limit, *span(rule, what.count), *span(rule, rule.burst)]
            args += [f"{word:020d}" for word in words]
        return int(self._call(self.cancel_sha, [*args, now_us])[0])


class Reserved:
    def __init__(self, slot: Fraction, count: int, words: list[int]) -> None:
        self.slot, self.count, self.words = slot, count, words


def play(client: Any, rules: Sequence[Rule], seed: int, episodes: int, cancel: str = "") -> Any:
    """What was spent in each of so many episodes, and how many cancellations gave some back."""
    pick = random.Random(seed)
    key = Key(client, rules, cancel)
    all_spent, given = [], 0
    for _ in range(episodes):
        client.flushdb()
        now, most = START_US, min(rule.burst for rule in rules)
        slowest = max(map(interval_us, rules))
        asked: list[Reserved] = []
        for _ in range(pick.randint(4, 30)):
            now += 1 + pick.choice(
                (0, 0, 0, 1, int(slowest * pick.uniform(0, 2)), int(slowest * most))
            )
            if pick.random() < 0.6 or not asked:
                wait = pick.choice((0, int(slowest), int(slowest * 8)))
                got = key.ask(now, pick.choice((1, 1, 1, most)), wait)
                if got is not None:
                    asked.append(got)
            else:
                # Who has not spent may cancel; and so may who was answered a while ago.
                may = [one for one in asked if one.slot >= now - int(slowest * most)]
                if may:
                    one = pick.choice(may)
                    asked.remove(one)
                    given += key.cancel(now, one) > 0
        spent: list[Spent] = [(one.slot, one.count) for one in asked]
        # At every instant when somebody spends, others take all that there is.
        for at in sorted({one.slot for one in asked if one.slot >= now}):
            while key.ask(-(-at.numerator // at.denominator)) is not None:
                spent.append((Fraction(-(-at.numerator // at.denominator)), 1))
        all_spent.append(spent)
    return all_spent, given


@pytest.mark.slow
@pytest.mark.parametrize("rules", QUOTAS, ids=str)
def test_no_interval_sees_more_than_the_quota(client: Any, rules: list[Rule]) -> None:
    episodes, given = play(client, rules, 1, 250)
    assert given > 300
    for rule in rules:
        assert max(worst(spent, rule) for spent in episodes) <= 0


SIMPLER = {
    "whoever waits": (" and r.us - span_us < start", ""),
    "whatever came after": ("us - r.cost_us - undone > start", "true"),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", SIMPLER)
def test_a_simpler_script_is_found_out(client: Any, name: str) -> None:
    changed = text("cancel").replace(*SIMPLER[name])
    assert changed != text("cancel")
    over = 0
    for rules in QUOTAS:
        episodes, _ = play(client, rules, 1, 250, changed)
        over += any(worst(spent, rule) > 0 for spent in episodes for rule in rules)
    assert over


def spent_after_much_was_undone(client: Any, cancel: str) -> list[Spent]:
    """Calls that are undone make the bucket idle earlier than the others' states say."""
    key, at = Key(client, [TEN], cancel), START_US
    early = [key.ask(at) for _ in range(10)]
    late = [key.ask(at + 4000) for _ in range(4)]
    for one in early[5:]:
        assert one is not None
        key.cancel(at + 4500, one)
    spent = [one for one in (*early[:5], *late[:3], *(key.ask(at + 9500) for _ in range(6))) if one]
    assert late[3] is not None
    key.cancel(at + 9600, late[3])
    while (one := key.ask(at + 9700)) is not None:
        spent.append(one)
    return [(one.slot, one.count) for one in spent]


def test_what_was_undone_before_is_reckoned_with(client: Any) -> None:
    assert worst(spent_after_much_was_undone(client, ""), TEN) <= 0
    simpler = text("cancel").replace(" - undone", "")
    assert simpler != text("cancel")
    assert worst(spent_after_much_was_undone(client, simpler), TEN) > 0


def test_a_slot_that_was_left_is_taken_before_one_at_the_end(client: Any) -> None:
    key = Key(client, [ONE])
    first, second, third, fourth = (key.ask(START_US, 1, 10**6) for _ in range(4))
    assert first
    assert second
    assert third
    assert fourth
    assert key.cancel(START_US + 1, third) == 3
    again = key.ask(START_US + 2, 1, 10**6)
    assert again is not None
    assert again.slot == third.slot
    last = key.ask(START_US + 3, 1, 10**6)
    assert last is not None
    assert last.slot == fourth.slot + interval_us(ONE)


def test_the_last_slot_is_taken_off_again(client: Any) -> None:
    key = Key(client, [TWO, Rule(40, 10 * SECOND, 5)])
    asked = [key.ask(START_US, 1, 10**6) for _ in range(4)]
    assert asked[3] is not None
    before = client.mget(key.keys)
    again = key.ask(START_US, 1, 10**6)
    assert again is not None
    assert key.cancel(START_US, again) == 2
    assert client.mget(key.keys) == before


def test_a_slot_of_another_cost_stays_for_its_like(client: Any) -> None:
    key = Key(client, [TWO])
    asked = [key.ask(START_US, 2, 10**7) for _ in range(3)]
    assert asked[1] is not None
    assert asked[2] is not None
    assert key.cancel(START_US + 1, asked[1]) == 3
    single = key.ask(START_US + 2, 1, 10**7)
    assert single is not None
    assert single.slot > asked[2].slot
    pair = key.ask(START_US + 3, 2, 10**7)
    assert pair is not None
    assert pair.slot == asked[1].slot


def test_a_slot_that_has_passed_is_nobodys(client: Any) -> None:
    key = Key(client, [ONE])
    asked = [key.ask(START_US, 1, 10**6) for _ in range(4)]
    assert asked[1] is not None
    assert asked[3] is not None
    assert key.cancel(START_US + 1, asked[1]) == 3
    later = key.ask(START_US + 300_000, 1, 10**6)
    assert later is not None
    assert later.slot == asked[3].slot + interval_us(ONE)


def test_what_is_kept_for_slots_goes_by_itself(client: Any) -> None:
    client.flushdb()
    sha = {name: client.script_load(text(name)) for name in ("gcra", "cancel")}
    args = [5, *span(FAR, 1), *span(FAR, 1)]
    replies = [client.evalsha(sha["gcra"], 1, "{k}", *args, 10**8) for _ in range(3)]
    assert client.evalsha(sha["cancel"], 1, "{k}", *args, *replies[1][2:]) == [3]
    assert client.evalsha(sha["cancel"], 1, "{k}", *args, *replies[2][2:]) == [2]
    names = client.keys("*")
    assert sorted(names) == ["{k}"], "the slot before it came off too"
    replies = [client.evalsha(sha["gcra"], 1, "{k}", *args, 10**8) for _ in range(3)]
    assert client.evalsha(sha["cancel"], 1, "{k}", *args, *replies[0][2:]) == [3]
    names = client.keys("*")
    assert sorted(names) == ["{k}", "{k}:slots"]
    assert all(0 < client.pttl(name) <= 90_000 for name in names)

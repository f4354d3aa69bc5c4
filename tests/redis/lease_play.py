"""Leases in virtual time: holders who take blocks, callers who take single tokens or reserve, and a
record of every token that was spent, so that it can be said whether more than the quota was.

A holder is an adversary: it spends when it likes, often at the last moment, gives back in time,
late or never. It tells the truth only about what it has not spent.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any

from lua_scripts import in_virtual_time, span, text

from reference.model import Rule

START_US = 1_700_000_003 * 10**6
Spent = tuple[Fraction, int]
"""An instant in microseconds, and how many."""


@dataclass
class Block:
    """What a take has left with its holder."""

    count: int
    number: int = 0
    until_us: int = 0
    before_us: list[int] = field(default_factory=list)


@dataclass(frozen=True)
class Taken:
    admitted: bool
    block: Block
    states: list[tuple[int, int]]


class Bucket:
    """One key under rules, on a server, in virtual time."""

    def __init__(self, client: Any, rules: Sequence[Rule], script: str = "") -> None:
        self.client, self.rules = client, rules
        self.keys = [f"{{k}}{number}" for number in range(len(rules))]
        self.both = [name for key in self.keys for name in (key, f"{key}:lease")]
        self.lease = client.script_load(in_virtual_time(script or text("lease")))
        self.gcra = client.script_load(in_virtual_time(text("gcra")))
        client.flushdb()

    def _call(self, sha: str, keys: list[str], args: list[Any]) -> list[Any]:
        # Times to live are real and instants are not: a key is there until its state is over.
        pipe = self.client.pipeline(transaction=True)
        pipe.evalsha(sha, len(keys), *keys, *args)
        for key in self.both:
            pipe.persist(key)
        reply: list[Any] = pipe.execute()[0]
        return reply

    def take(
        self,
        now_us: int,
        count: int,
        ahead_us: int,
        before: Block | None = None,
        left: int = 0,
    ) -> Taken:
        """Asks for a block, and gives back what was `left` of the one `before`."""
        args: list[Any] = [ahead_us]
        args += [before.number, before.until_us] if before else [0, 0]
        for number, rule in enumerate(self.rules):
            mark = before.before_us[number] if before else 0
            args += [rule.limit, *span(rule, count), *span(rule, rule.burst), *span(rule, left)]
            args.append(mark)
        admitted, now, number, *words = self._call(self.lease, self.both, [*args, now_us])
        assert now == str(now_us)
        numbers = list(map(int, words))
        block = Block(count, int(number), now_us + ahead_us, numbers[2::3])
        states = list(zip(numbers[::3], numbers[1::3], strict=True))
        return Taken(admitted == 1, block, states)

    def limit(self, now_us: int, count: int, wait_us: int = 0) -> Fraction | None:
        """When a call without a lease may spend: now, later by reservation, or (None) never."""
        args = [
            n
            for rule in self.rules
            for n in (rule.limit, *span(rule, count), *span(rule, rule.burst), wait_us)
        ]
        admitted, _, *words = self._call(self.gcra, self.keys, [*args, now_us])
        if not admitted:
            return None
        numbers = list(map(int, words))
        due = [
            us - Fraction(excess, rule.limit) - rule.burst * interval_us(rule)
            for rule, us, excess in zip(self.rules, numbers[::2], numbers[1::2], strict=True)
        ]
        return max(Fraction(now_us), *due)


def interval_us(rule: Rule) -> Fraction:
    return Fraction(rule.period_ns // 1000, rule.limit)


def most_ahead_us(rule: Rule, count: int) -> int:
    """The longest time that a block of so many may be kept: idle, it must fit beside the rest."""
    return int((rule.burst - count) * interval_us(rule))


@dataclass
class Holder:
    """Has a block, and spends it all at its moment, which is never after the block's end."""

    block: Block
    left: int
    moment_us: int

    def spends(self, now_us: int, spent: list[Spent]) -> None:
        if self.left > 0 and now_us >= self.moment_us:
            spent.append((Fraction(self.moment_us), self.left))
            self.left = 0


def play(
    client: Any, rules: Sequence[Rule], seed: int, episodes: int, script: str = ""
) -> list[list[Spent]]:
    """What was spent in each of so many episodes, all of one key that was idle at the beginning."""
    pick = random.Random(seed)
    bucket = Bucket(client, rules, script)
    return [_episode(bucket, pick) for _ in range(episodes)]


def _episode(bucket: Bucket, pick: random.Random) -> list[Spent]:
    bucket.client.flushdb()
    rules, now = bucket.rules, START_US
    most = min(rule.burst for rule in rules) // 2
    slowest = max(map(interval_us, rules))
    holders: list[Holder] = []
    spent: list[Spent] = []
    raids: set[Fraction] = set()
    for _ in range(pick.randint(3, 9)):
        # No two calls are in one microsecond: a script takes many.
        now += 1 + pick.choice((0, 1, int(slowest * pick.uniform(0, 2)), int(slowest * most)))
        for holder in holders:
            holder.spends(now, spent)
        deed = pick.randrange(10)
        if deed < 2:
            wait = int(slowest * most) * deed
            count = pick.choice((1, 2, min(rule.burst for rule in rules)))
            due = bucket.limit(now, count, wait)
            if due is not None:
                spent.append((due, count))
                raids.add(due)
        elif deed < 6 or not holders:
            _take(bucket, pick, now, holders, None)
        else:
            giver = pick.choice(holders)
            if deed < 8:
                _take(bucket, pick, now, holders, giver)
            else:
                bucket.take(now, 0, 0, giver.block, giver.left)
            giver.left = 0
    # At every moment when somebody spends, others take all that there is.
    raids |= {Fraction(holder.block.until_us) for holder in holders}
    for at in sorted(raid for raid in raids if raid >= now):
        for holder in holders:
            holder.spends(int(at), spent)
        while bucket.limit(int(at), 1) is not None:
            spent.append((Fraction(int(at)), 1))
    for holder in holders:
        holder.spends(holder.block.until_us, spent)
    return spent


def _take(
    bucket: Bucket, pick: random.Random, now: int, holders: list[Holder], giver: Holder | None
) -> None:
    most = min(rule.burst for rule in bucket.rules) // 2
    count = pick.randint(1, most)
    longest = min(most_ahead_us(rule, count) for rule in bucket.rules)
    usual = int(count * min(map(interval_us, bucket.rules)))
    ahead = pick.choice((0, usual, usual, pick.randint(0, longest), longest))
    before = (giver.block, giver.left) if giver is not None else ()
    taken = bucket.take(now, count, ahead, *before)
    if taken.admitted:
        until = taken.block.until_us
        moment = pick.choice((now, until, until, pick.randint(now, until)))
        holders.append(Holder(taken.block, count, moment))


def worst(spent: list[Spent], rule: Rule) -> Fraction:
    """By how many tokens the quota was exceeded in the worst interval; at most 0 when it held."""
    # What was spent before an instant, less what the quota had yielded by then: the highest rise.
    total, lowest, over = 0, None, Fraction(-rule.burst)
    for at, count in sorted(spent):
        before = total - at / interval_us(rule)
        lowest = before if lowest is None else min(lowest, before)
        total += count
        over = max(over, before + count - lowest - rule.burst)
    return over

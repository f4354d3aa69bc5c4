"""The Lua scripts as a test runs them: in virtual time, decision by decision, with every promise
about keys checked on the way.

A `Rig` is one key under one or several rules. It calls a script whose `now()` has been replaced by
the last argument, in one transaction with a look at what the call left behind. Times to live are
real, instants are not: so the rig reads each time to live and then takes it away, and drops a state
itself once it has run out (or leaves it, as a server that has not yet noticed).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

from reference.model import Rule

FOLDER = Path(__file__).parents[2] / "src" / "redis" / "lua"
FAMILIES = ("gcra", "fixed_window", "sliding_window")
WORDS = {"gcra": 2, "fixed_window": 2, "sliding_window": 3}
LONGEST_SPAN_US = 2**52 - 1
LATE_MS = 10_000
"""How long a busy machine may take between two commands of a transaction."""

Words = tuple[int, ...]


def text(name: str) -> str:
    """A script as it is sent to a server."""
    return (FOLDER / f"{name}.lua").read_text()


def in_virtual_time(script: str) -> str:
    """The same script; its clock is its last argument."""
    changed, count = re.subn(
        r"local function now\(\)\n.*?\nend\n",
        "local function now() return tonumber(ARGV[#ARGV]) end\n",
        script,
        flags=re.S,
    )
    assert count == 1
    return changed


def without_long_integers(script: str) -> str:
    """The same script as a server runs it whose C long has 32 bits."""
    changed = script.replace("and '%d' or '%.0f'", "and '%.0f' or '%.0f'")
    assert changed != script
    return changed


def span(rule: Rule, cost: int) -> tuple[int, int]:
    """cost * T as whole microseconds, rounded up, and what that is too much in units of 1/limit."""
    units = cost * (rule.period_ns // 1000)
    us = -(-units // rule.limit)
    return us, us * rule.limit - units


def arguments(family: str, rule: Rule, cost: int) -> list[int]:
    """What the script of this family is told of one rule."""
    if family == "gcra":
        return [rule.limit, *span(rule, cost), *span(rule, rule.burst), 0]  # reserves nothing
    return [rule.limit, rule.period_ns // 1000, cost]


def arrival_ns(rule: Rule, state: Words) -> Fraction:
    """The theoretical arrival time that a bucket's state stands for."""
    us, excess = state
    return (us - Fraction(excess, rule.limit)) * 1000


@dataclass(frozen=True)
class Answer:
    admitted: bool
    states: list[Words]


class Rig:
    """One key under `rules`, on a server, in virtual time."""

    def __init__(
        self, client: Any, family: str, rules: Sequence[Rule], *, drops: bool, script: str
    ) -> None:
        self.client, self.family, self.rules, self.drops = client, family, rules, drops
        self.keys = [f"{{k}}{number}" for number in range(len(rules))]
        self.states: list[Words] = [self.none for _ in rules]
        self.step_sha = client.script_load(in_virtual_time(script))
        self.settle_sha = client.script_load(in_virtual_time(text("settle")))
        # Since 7.0 a server says when a key ends; before, only how much is left when it looks.
        self.tells_end = int(client.info("server")["redis_version"].split(".")[0]) >= 7
        client.flushdb()

    @property
    def none(self) -> Words:
        """The state of a key that was never seen."""
        return (0,) * WORDS[self.family]

    def step(self, now_us: int, cost: int) -> Answer:
        """Asks for `cost`; 0 is a peek."""
        args = [n for rule in self.rules for n in arguments(self.family, rule, cost)]
        answer = self._call(self.step_sha, args, now_us, may_delete=False)
        if cost == 0:
            assert answer.admitted
        if cost == 0 or not answer.admitted:
            assert answer.states == self.states
        self.states = answer.states
        return answer

    def settle(self, now_us: int, cost: int) -> Answer:
        """Gives back `cost`; a negative one is charged."""
        sign = "give" if cost >= 0 else "charge"
        args = [n for rule in self.rules for n in (rule.limit, *span(rule, abs(cost)), sign)]
        answer = self._call(self.settle_sha, args, now_us, may_delete=True)
        self.states = answer.states
        return answer

    def _call(self, sha: str, args: list[Any], now_us: int, *, may_delete: bool) -> Answer:
        pipe = self.client.pipeline(transaction=True)
        if self.drops:
            # As early as the time to live allows: at the first instant that owes nothing.
            gone = [n for n, state in enumerate(self.states) if state[0] <= now_us]
            pipe.delete("none", *[self.keys[n] for n in gone])
            for number in gone:
                self.states[number] = self.none
        pipe.time()
        pipe.evalsha(sha, len(self.keys), *self.keys, *args, now_us)
        for key in self.keys:
            pipe.execute_command("PEXPIRETIME" if self.tells_end else "PTTL", key)
            pipe.get(key)
            pipe.persist(key)
        replies = pipe.execute()
        (seconds, micros), *replies = replies[self.drops :]
        reply, looks = replies[0], replies[1:]
        before_ms = seconds * 1000 + micros // 1000 if self.tells_end else -LATE_MS

        admitted, now, *words = reply
        assert now == str(now_us)
        width = WORDS[self.family]
        assert len(words) == width * len(self.keys)
        states = [tuple(map(int, words[i : i + width])) for i in range(0, len(words), width)]
        for number, state in enumerate(states):
            end_ms, kept, _ = looks[3 * number : 3 * number + 3]
            # What is reported is what is kept, in the same digits; 0s stand for no key.
            assert (kept or ":".join("0" * width)) == ":".join(words[number * width :][:width])
            if end_ms >= 0:  # written by this call
                assert state[0] > now_us
                least_ms = -(-(state[0] - now_us) // 1000)
                assert least_ms < end_ms - before_ms <= least_ms + 1 + 2 * LATE_MS
            else:
                assert state == self.states[number] or (may_delete and state == self.none)
        return Answer(admitted == 1, states)

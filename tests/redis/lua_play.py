"""One schedule through three homes of the arithmetic: Lua on a server, the C core, the model.

The C core counts in nanoseconds and Lua in microseconds. Where the clock stands at whole
microseconds both are exact, so their states are equal as numbers, not nearly so.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from fractions import Fraction
from math import ceil
from typing import Any

from lua_scripts import LONGEST_SPAN_US, Rig, Words, arrival_ns, text

from headway import Quota, Rate
from headway.algorithms import step
from reference.model import Model, Report, Rule
from reference.strategies import LAST_INSTANT_NS, Move


def fitting(rule: Rule) -> Rule:
    """The same rule, with a burst that a bucket on Redis may have."""
    most = LONGEST_SPAN_US * rule.limit // (rule.period_ns // 1000)
    return Rule(rule.limit, rule.period_ns, min(rule.burst, most))


def quota_of(rule: Rule) -> Quota:
    return Quota(Rate(rule.period, rule.limit), rule.burst)


def next_instant(move: Move, now_us: int, rule: Rule, last: Report | None) -> int:
    """Where a move goes on a clock of whole microseconds: it aims at the microsecond in which a
    decision turns.
    """
    period_us = rule.period_ns // 1000
    target = now_us
    if move.jump == "ahead":
        target = now_us + move.jump_by
    elif move.jump == "tokens":
        target = now_us + move.jump_by % 20 * period_us // rule.limit
    elif move.jump == "window":
        target = (now_us // period_us + 1 + move.jump_by % 2) * period_us + move.nudge
    elif last is not None and move.jump == "retry" and last.retry_after_ns:
        target = now_us + ceil(last.retry_after_ns / 1000) + move.nudge
    elif last is not None and move.jump == "reset":
        target = now_us + ceil(last.reset_after_ns / 1000) + move.nudge
    return min(max(now_us, target), max(now_us, LAST_INSTANT_NS // 1000))


def same_in_c(family: str, rule: Rule, words: Words, lua: Words, now_us: int) -> bool:
    """Whether the words of a state of the C core say what those of the script say."""
    if words[0] <= now_us * 1000:
        return lua[0] <= now_us
    if family == "gcra":
        return words[0] - Fraction(words[1], rule.limit) == arrival_ns(rule, lua)
    if family == "fixed_window":
        return words == (lua[0] * 1000, lua[1], 0)
    return words == (lua[0] * 1000, lua[2], lua[1])


def canonical(family: str, rule: Rule, lua: Words) -> bool:
    """Whether a bucket's excess is less than a microsecond."""
    return family != "gcra" or 0 <= lua[1] < rule.limit


def play(
    client: Any,
    family: str,
    quotas: Sequence[Rule],
    start_us: int,
    schedule: Sequence[Move],
    *,
    drops: bool = False,
    script: str = "",
) -> None:
    """Runs one schedule through Lua, C and the model."""
    if family == "gcra":
        quotas = [fitting(rule) for rule in quotas]
    quota = [quota_of(rule) for rule in quotas]
    model = Model(family, quotas)
    rig = Rig(client, family, quotas, drops=drops, script=script or text(family))
    state: bytes | None = None
    now, cost, last = start_us, 0, None
    for number, move in enumerate(schedule):
        rule = quotas[move.ask_for % len(quotas)]
        now = next_instant(move, now, rule, last)
        cost = move.cost(rule, last, cost)
        last = model.limit(now * 1000, cost)
        where = f"call {number}, cost {cost} at {now} us: "

        askable = family != "gcra" or all(cost <= rule.burst for rule in quotas)
        answer = rig.step(now, cost if askable else 0)
        assert (answer.admitted and askable) is last.allowed, f"{where}{answer}, {last}"

        state, _ = step(state, quota, cost, now * 1000, using=family)
        for rule, packed, lua in zip(
            quotas, struct.iter_unpack("<xqqq", state), answer.states, strict=True
        ):
            assert canonical(family, rule, lua), f"{where}{lua}"
            assert same_in_c(family, rule, packed, lua, now), f"{where}{packed}, {lua}"

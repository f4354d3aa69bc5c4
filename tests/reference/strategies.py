"""Hypothesis strategies: quotas over the whole bounds, and schedules that aim at the instants where
a decision turns.

A schedule is a list of moves. A move says where to go in time and what to ask for, both relative to
what the limiter has just said ("one nanosecond before retry_after", "one more than remaining"),
because random instants and random costs almost never meet a boundary of a random quota.
"""

from __future__ import annotations

from dataclasses import dataclass

from hypothesis import strategies as st

from reference.model import Report, Rule

LAST_INSTANT_NS = 2**61
LARGEST = 10**12
LONGEST_PERIOD_US = 3650 * 86_400 * 10**6

USINGS = ("fixed_window", "sliding_window", "token_bucket", "leaking_bucket", "gcra")
usings = st.sampled_from(USINGS)


def _up_to(largest: int, smallest: int) -> st.SearchStrategy[int]:
    """Whole numbers of any magnitude: as many of them below 100 as around the bound."""
    magnitudes = [10**power for power in range(len(str(largest)))]
    return st.one_of(
        st.integers(smallest, min(largest, 12)),
        st.sampled_from(magnitudes).flatmap(
            lambda m: st.integers(max(smallest, m), min(largest, m * 10))
        ),
        st.sampled_from((smallest, largest)),
    )


wide_rules = st.builds(
    lambda limit, period_us, burst: Rule(limit, period_us * 1000, burst),
    _up_to(LARGEST, 1),
    _up_to(LONGEST_PERIOD_US, 1),
    _up_to(LARGEST, 0),
)
"""Every quota that the contract allows."""

small_rules = st.builds(
    lambda limit, period_us, burst: Rule(
        limit, period_us * 1000, limit if burst is None else burst
    ),
    st.integers(1, 12),
    st.sampled_from((1, 3, 7, 1000, 100_000, 999_999, 10**6, 1_500_000, 7 * 10**6, 60 * 10**6)),
    st.one_of(st.none(), st.integers(0, 15)),
)
"""Quotas that a schedule of a few dozen calls exhausts."""

rules = st.one_of(small_rules, wide_rules)
several_rules = st.lists(small_rules, min_size=2, max_size=4)

instants = st.one_of(
    st.integers(0, 3),
    st.integers(0, 120 * 10**9),
    st.integers(10**18, 2 * 10**18),
    st.integers(0, LAST_INSTANT_NS),
)


@dataclass(frozen=True)
class Move:
    """One step of a schedule: a jump in time, then a call."""

    jump: str
    jump_by: int
    ask: str
    ask_for: int

    def instant(self, now: int, rule: Rule, last: Report | None) -> int:
        """Where the clock stands for this call. Never earlier than `now`, never past the end of the
        clock.
        """
        target = now
        if self.jump == "ahead":
            target = now + self.jump_by
        elif self.jump == "tokens":
            target = now + self.jump_by % 20 * rule.period_ns // rule.limit
        elif self.jump == "window":
            target = (now // rule.period_ns + 1 + self.jump_by % 2) * rule.period_ns + self.nudge
        elif last is not None and self.jump == "retry" and last.retry_after_ns:
            target = now + last.retry_after_ns + self.nudge
        elif last is not None and self.jump == "reset":
            target = now + last.reset_after_ns + self.nudge
        return min(max(now, target), max(now, LAST_INSTANT_NS))

    @property
    def nudge(self) -> int:
        """-1, 0 or 1 nanosecond."""
        return self.jump_by % 3 - 1

    def cost(self, rule: Rule, last: Report | None, asked: int) -> int:
        """What this call asks for; `asked` is what the call before it asked for."""
        if self.ask == "again" and last is not None:
            return asked
        if self.ask == "remaining" and last is not None:
            return max(0, last.remaining + self.ask_for % 3 - 1)
        if self.ask == "burst":
            return max(0, rule.burst + self.ask_for % 3 - 1)
        if self.ask == "limit":
            return max(0, rule.limit + self.ask_for % 3 - 1)
        if self.ask == "part":
            return max(rule.limit, rule.burst) * (self.ask_for % 8) // 8
        return self.ask_for


moves = st.builds(
    Move,
    st.sampled_from(("stay", "ahead", "ahead", "tokens", "window", "retry", "retry", "reset")),
    _up_to(10**12, 0),
    st.sampled_from(("exactly", "again", "again", "remaining", "burst", "limit", "part")),
    st.one_of(st.integers(1, 2), st.integers(0, 16), st.integers(0, 16), st.integers(0, LARGEST)),
)

schedules = st.lists(moves, min_size=10, max_size=40)

"""A ledger against a server that enforces its limit, one event at a time, in any order.

Requests arrive when they like, are answered when they like, are lost before or after the server has
counted them; their processes die. The state goes through bytes at any moment. Nobody else uses the
quota: so the server is never asked for more than it has, once anything was heard of it.
"""

from __future__ import annotations

from typing import Any

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from simulated_server import MS, START, FixedWindow, S, said

from effort import examples
from headway._core import Ledger

LIMIT = 6
WINDOW = 20 * S
PATIENCE = 30 * S
"""A request that takes longer has failed."""


class OneServer(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.ledger = Ledger()
        self.server = FixedWindow(LIMIT, WINDOW, offset=1234 * MS)
        self.now = START
        self.heard = False
        self.under_way: list[tuple[bytes, int]] = []
        self.answered: list[tuple[bytes, int, Any]] = []

    @rule()
    def ask(self) -> None:
        if not self.heard and (self.under_way or self.answered):
            return  # before the first response anything may go
        answer = self.ledger.reserve(None, self.now, 10**18)
        if isinstance(answer, bytes):
            self.under_way.append((answer, self.now))
        else:
            assert answer[0] == "wait"
            assert answer[1] > 0

    @precondition(lambda self: self.under_way)
    @rule(pick=st.integers(0, 100))
    def arrive(self, pick: int) -> None:
        ticket, sent = self.under_way.pop(pick % len(self.under_way))
        assert self.server.take(self.now, 1), "the server had to refuse"
        heard = said(self.server, "exact", self.now, 0, False)
        self.answered.append((ticket, sent, heard))

    @precondition(lambda self: self.answered)
    @rule(pick=st.integers(0, 100))
    def come_back(self, pick: int) -> None:
        """It took its time: what is relative was so when the server said it."""
        ticket, sent, heard = self.answered.pop(pick % len(self.answered))
        self.ledger.observe(ticket, heard, sent, self.now)
        self.heard = True

    @precondition(lambda self: self.answered and self.heard)
    @rule(pick=st.integers(0, 100))
    def be_lost_on_the_way_back(self, pick: int) -> None:
        ticket, _, _ = self.answered.pop(pick % len(self.answered))
        self.ledger.fail(ticket, True, self.now)

    @precondition(lambda self: self.answered and self.heard)
    @rule(pick=st.integers(0, 100))
    def die_before_it_is_read(self, pick: int) -> None:
        self.answered.pop(pick % len(self.answered))

    @precondition(lambda self: self.under_way)
    @rule(pick=st.integers(0, 100))
    def never_be_sent(self, pick: int) -> None:
        ticket, _ = self.under_way.pop(pick % len(self.under_way))
        self.ledger.fail(ticket, False, self.now)

    @rule(span=st.sampled_from([1 * MS, 100 * MS, 1 * S, 5 * S, 18 * S]))
    def wait(self, span: int) -> None:
        if not self.heard and (self.under_way or self.answered):
            return
        self.now += span
        for ticket, sent in [*self.under_way]:
            if sent < self.now - PATIENCE:
                self.under_way.remove((ticket, sent))
                self.ledger.fail(ticket, True, self.now)
        self.answered = [one for one in self.answered if one[1] >= self.now - PATIENCE]

    @rule()
    def go_through_bytes(self) -> None:
        self.ledger = Ledger(self.ledger.state())

    @invariant()
    def what_is_told_can_be_true(self) -> None:
        for _, _, limit, remaining, reset, _, source in self.ledger.status(self.now)[0]:
            assert limit == LIMIT
            assert remaining is not None
            assert 0 <= remaining <= LIMIT
            assert reset is None or reset > self.now - WINDOW
            assert source in ("confirmed", "estimated")


OneServer.TestCase.settings = settings(
    max_examples=examples(150),
    stateful_step_count=60,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
)
TestOneServer = OneServer.TestCase

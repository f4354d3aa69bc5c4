"""What a ledger is given: costs, names and tickets, whatever they look like."""

from __future__ import annotations

import sys
from typing import Any

import pytest

from headway._core import Ledger

NOW = 10**18


def test_amounts_that_change_the_dict_of_costs_leave_its_names_alone() -> None:
    class Clearing:
        def __index__(self) -> int:
            costs.clear()
            junk.extend("z" * size for size in [46] * 2000)
            return 1

    for number in range(50):
        junk: list[str] = []
        name = "tok" + "x" * 30 + str(number)
        costs: dict[str, Any] = {"".join(["tok", "x" * 30, str(number)]): 1, "b": Clearing()}
        ledger = Ledger()
        ledger.reserve(costs, NOW, 0)
        assert name.encode() in ledger.state()


def test_a_name_that_is_cut_is_cut_between_two_characters() -> None:
    for character in ("\u00e9", "\u20ac", "\U0001f600"):
        for head in ("", "a", "ab", "abc"):
            name = head + character * 30
            ledger = Ledger()
            ledger.configure(name, 5, 10**9)
            (told,), _ = ledger.status(NOW)
            kept, mark, _hash = told[0].partition("~")
            assert mark
            assert name.startswith(kept)
            assert len(kept.encode()) > 18
            for _ in range(5):
                assert isinstance(ledger.reserve({name: 1}, NOW, 0), bytes)
            assert ledger.reserve({name: 1}, NOW, 0)[3] == told[0]


def test_a_ticket_with_an_amount_that_was_never_taken_is_refused() -> None:
    ledger = Ledger()
    ledger.configure("requests", 5, 10**9)
    ticket = ledger.reserve(None, NOW, 0)
    assert isinstance(ticket, bytes)
    for amount in (-1, -(2**63), 2**63 - 1):
        forged = ticket[:-8] + amount.to_bytes(8, sys.byteorder, signed=True)
        with pytest.raises(ValueError, match="a ticket must be what reserve"):
            ledger.fail(forged, False, NOW)
    ledger.fail(ticket, False, NOW)

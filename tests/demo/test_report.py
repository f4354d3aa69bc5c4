"""The demo's rows find a limiter out that admits another number than the exact one."""

from __future__ import annotations

from pathlib import Path

from headway.demo.outcome import Outcome
from headway.demo.recorder import Arrival
from headway.demo.reference import SECOND_NS, Exact
from headway.demo.report import SETTLED_NS, LiveRows, Row, final_rows

EPOCH_NS = 1_700_000_000 * SECOND_NS
KEY = "login:mallory"  # 5/s, fixed window


def arrivals(requests: int, admitted: int) -> list[Arrival]:
    """Requests within one window, a millisecond apart, the first of them admitted."""
    made = []
    for number in range(requests):
        arrival = Arrival(EPOCH_NS + number * 1_000_000)
        arrival.after_ns = arrival.before_ns + 2_000
        arrival.admitted = number < admitted
        arrival.retry_after = 0.0 if arrival.admitted else 1.0
        made.append(arrival)
    return made


def outcome(rows: list[Row], statuses: dict[int, int]) -> Outcome:
    """A finished run with these rows."""
    return Outcome("http://127.0.0.1:1", 1, rows, statuses, [], Path("a.log"), 9, Path("a.png"))


def row_of(rows: list[Row]) -> Row:
    """The row of the key under test."""
    return next(row for row in rows if row.key == KEY)


def test_the_exact_number_of_admissions_is_good() -> None:
    rows = final_rows({KEY: arrivals(requests=9, admitted=5)})
    row = row_of(rows)
    assert (row.admitted, row.denied, row.exact) == (5, 4, Exact(5, 5))
    assert row.wait == "1.00 s told"
    assert outcome(rows, {200: 5, 429: 4}).ok


def test_one_admission_too_many_or_too_few_is_found_out() -> None:
    for admitted in (4, 6):
        rows = final_rows({KEY: arrivals(requests=9, admitted=admitted)})
        assert not row_of(rows).agrees
        run = outcome(rows, {200: admitted, 429: 9 - admitted})
        assert not run.ok
        assert f"{KEY}: {admitted} admitted, exact 5" in run.summary()


def test_clients_that_saw_other_answers_are_a_failure() -> None:
    rows = final_rows({KEY: arrivals(requests=9, admitted=5)})
    run = outcome(rows, {200: 5, 429: 3, 500: 1})
    assert not run.ok
    assert "other answers" in run.summary()


def test_live_rows_take_in_what_has_settled_and_end_where_the_final_rows_do() -> None:
    seen = arrivals(requests=9, admitted=5)
    recorded = {KEY: seen[:4]}
    live = LiveRows(recorded)
    assert row_of(live.rows(EPOCH_NS)).requests == 0
    assert row_of(live.rows(seen[2].before_ns + SETTLED_NS + 10_000)).requests == 3
    recorded[KEY].extend(seen[4:])
    final = row_of(live.rows(EPOCH_NS + SECOND_NS))
    assert final == row_of(final_rows(recorded))

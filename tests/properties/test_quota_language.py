"""The quota language: everything that can be written is read back exactly, and any other text is a
DataError.

A quota is built first and then written down in one of its many spellings, so that the parser is
never the judge of itself.
"""

from __future__ import annotations

from datetime import timedelta

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from headway import Quota, Rate, parse_quota, per_duration
from headway.exceptions import DataError

UNITS = {
    timedelta(milliseconds=1): ("ms",),
    timedelta(seconds=1): ("s", "sec", "second", "seconds"),
    timedelta(minutes=1): ("m", "min", "minute", "minutes"),
    timedelta(hours=1): ("h", "hr", "hour", "hours"),
    timedelta(days=1): ("d", "day", "days"),
    timedelta(weeks=1): ("w", "wk", "week", "weeks"),
}
TEN_YEARS = timedelta(days=3650)

spaces = st.sampled_from(("", " ", "  ", "\t"))
gaps = st.sampled_from((" ", "  ", "\t"))


def any_case(text: str) -> st.SearchStrategy[str]:
    return st.sampled_from((text, text.upper(), text.title(), text.swapcase()))


@st.composite
def written_rules(draw: st.DrawFn) -> tuple[str, Quota]:
    """One rule as text, and the quota that it means."""
    unit = draw(st.sampled_from(sorted(UNITS)))
    count = draw(st.one_of(st.none(), st.integers(1, min(10_000, TEN_YEARS // unit))))
    limit = draw(st.one_of(st.integers(1, 1000), st.integers(1, 10**12)))
    burst = draw(st.one_of(st.none(), st.integers(0, 1000), st.integers(0, 10**12)))
    word = draw(any_case(draw(st.sampled_from(UNITS[unit]))))
    if draw(st.booleans()):
        text = f"{limit}{draw(spaces)}/{draw(spaces)}"
    else:
        text = f"{limit}{draw(gaps)}{draw(any_case('per'))}{draw(gaps)}"
    text += f"{'' if count is None else count}{word}"
    if burst is not None:
        text += f"{draw(gaps)}{draw(any_case('burst'))}{draw(gaps)}{burst}"
    return text, per_duration(unit * (count or 1), limit, burst)


@given(rules=st.lists(written_rules(), min_size=1, max_size=8), data=st.data())
def test_every_spelling_of_a_quota_is_read_exactly(
    rules: list[tuple[str, Quota]], data: st.DataObject
) -> None:
    text = rules[0][0]
    for rule, _ in rules[1:]:
        separator = data.draw(st.sampled_from(",;|"))
        text += data.draw(spaces) + separator + data.draw(spaces) + rule
    text = data.draw(spaces) + text + data.draw(spaces)
    assert parse_quota(text) == tuple(quota for _, quota in rules)


@pytest.mark.parametrize(
    ("text", "limit", "period", "burst"),
    [
        ("100/s", 100, timedelta(seconds=1), 100),
        ("100 per second", 100, timedelta(seconds=1), 100),
        ("100/s burst 200", 100, timedelta(seconds=1), 200),
        ("100/s burst 0", 100, timedelta(seconds=1), 0),
        ("5/10s", 5, timedelta(seconds=10), 5),
        ("5 per 10 minutes", 5, timedelta(minutes=10), 5),
        ("100/500ms", 100, timedelta(milliseconds=500), 100),
        ("1/WEEK", 1, timedelta(weeks=1), 1),
        ("1000000000000/3650d", 10**12, TEN_YEARS, 10**12),
        ("0007/s", 7, timedelta(seconds=1), 7),
    ],
)
def test_the_contract_s_examples_mean_what_they_say(
    text: str, limit: int, period: timedelta, burst: int
) -> None:
    assert parse_quota(text) == (Quota(Rate(period, limit), burst),)


@pytest.mark.parametrize(
    ("text", "token"),
    [
        ("", ""),
        ("   ", ""),
        (";", ""),
        ("fast", "fast"),
        ("100", "100"),
        ("100/", "100/"),
        ("100/fortnight", "fortnight"),
        ("100//s", "100//s"),
        ("-1/s", "-1/s"),
        ("1.5/s", "1.5/s"),
        ("1e3/s", "1e3/s"),
        ("0/s", "0/s"),
        ("1000000000001/s", "1000000000001/s"),
        ("1/s burst", "burst"),
        ("1/s burst -1", "-1"),
        ("1/s burst 1000000000001", "1000000000001"),
        ("1/s burst 5 5", "5 5"),
        ("1/s bust 5", "bust"),
        ("1/0s", "0s"),
        ("1/3651d", "3651d"),
        ("1/99999999999999999999s", "99999999999999999999s"),
        ("99999999999999999999/s", "99999999999999999999/s"),
        ("1/s; 2/x", "2/x"),
        ("1/s 2/m", "2/m"),
        ("١/s", "١/s"),
        ("1/s\0", "1/s"),
        ("1/\ud800", "1/"),
    ],
)
def test_what_cannot_be_read_is_named_with_what_was_expected(text: str, token: str) -> None:
    with pytest.raises(DataError) as caught:
        parse_quota(text)
    message = str(caught.value)
    assert token in message
    assert len(message) > len(token) + 20, "the message says no more than the token"


def test_a_long_text_is_cut_in_the_message() -> None:
    with pytest.raises(DataError) as caught:
        parse_quota("x" * 100_000)
    assert len(str(caught.value)) < 500


fragments = st.sampled_from(
    (*"0159/;,| \t\0.-+eéµ🚀٣", "10", "per", "burst", "s", "ms", "us", "hour", "10/s", "9" * 20)
)


@given(text=st.one_of(st.text(), st.lists(fragments, max_size=12).map("".join)))
@example(text="10/s burst 20; 1000/h")
@example(text="\ud83d/s")
def test_any_text_is_a_tuple_of_quotas_or_a_data_error(text: str) -> None:
    try:
        quotas = parse_quota(text)
    except DataError:
        return
    assert quotas
    assert all(type(quota) is Quota for quota in quotas)


@pytest.mark.parametrize("value", [None, 5, b"1/s", ["1/s"], 1.5])
def test_what_is_no_text_is_refused(value: object) -> None:
    with pytest.raises((DataError, TypeError)):
        parse_quota(value)  # type: ignore[arg-type]

"""Numbers, durations and dates against a slow reference in Python."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone
from email.utils import format_datetime

import headers_reference as reference
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from headway._core import parse_headers

NOW = 1_700_000_000.0
YEAR = 365 * 86_400


def reset_of(text: str, received: float = NOW) -> tuple[str | None, float | None, int]:
    """The kind, seconds, and how many values made no sense."""
    seen = parse_headers([("X-RateLimit-Remaining", "1"), ("X-RateLimit-Reset", text)], 0, received)
    (dimension,) = seen.dimensions
    return dimension.reset_kind, dimension.reset, seen.ignored


def agree(text: str, wanted: reference.Reset, received: float = NOW) -> None:
    if wanted is not None and wanted[0] == "at" and wanted[1] / 1e9 - received >= 10**8:
        wanted = None
    kind, seconds, ignored = reset_of(text, received)
    if wanted is None:
        assert (kind, seconds, ignored) == (None, None, 1)
    else:
        assert (kind, seconds, ignored) == (wanted[0], wanted[1] / 1e9, 0)


@given(
    whole=st.one_of(
        st.integers(0, 10**13),
        st.integers(0, 10**31),
        st.sampled_from([10**8, 10**9, 4_611_686_018, 10**12, 4_611_686_018_000]).flatmap(
            lambda edge: st.integers(edge - 2, edge + 2)
        ),
    ),
    fraction=st.one_of(st.just(""), st.text("0123456789", max_size=12).map(lambda d: "." + d)),
)
def test_a_number_is_what_its_magnitude_says(whole: int, fraction: str) -> None:
    agree(f"{whole}{fraction}", reference.reset(f"{whole}{fraction}"))


PART = st.tuples(
    st.integers(0, 10**6).map(str),
    st.sampled_from(["", ".5", ".25", ".123456789"]),
    st.sampled_from(["d", "h", "m", "s", "ms", "us", "ns", "S", "x", ""]),
).map("".join)


@given(st.lists(PART, min_size=1, max_size=5).map("".join))
@example("6m0s")
@example("1h2m3.5s")
@example("1s1m")
@example("1.5")
def test_a_duration_is_the_sum_of_its_parts(text: str) -> None:
    agree(text, reference.reset(text))


@given(st.text(st.characters(max_codepoint=255, exclude_characters=","), max_size=40))
@example("\xb5s")
@example("1\xb5s")
def test_text_is_a_reset_only_where_the_reference_reads_one(text: str) -> None:
    if "\xb5" in text or "\xce" in text or "\xc2" in text:
        return  # the micro sign, which the reference does not know
    kind, _, ignored = reset_of(text)
    if reference.reset(text) is None and not text.strip()[:1].isdigit():
        assert (kind, ignored) == (None, 1)
    assert (kind is None) == (ignored == 1)


INSTANTS = st.datetimes(
    datetime(2001, 9, 10), datetime(2060, 1, 1), timezones=st.just(timezone.utc)
).map(lambda moment: moment.replace(microsecond=0))


@given(INSTANTS)
def test_a_date_of_http_in_its_three_forms_is_the_same_instant(moment: datetime) -> None:
    seconds = reference.epoch(moment)
    asctime = moment.strftime("%a %b ") + f"{moment.day:2d}" + moment.strftime(" %H:%M:%S %Y")
    rfc850 = moment.strftime("%A, %d-%b-%y %H:%M:%S GMT")
    for text in (format_datetime(moment, usegmt=True), asctime, rfc850):
        agree(text, ("at", seconds * 10**9), received=float(seconds))


@given(
    INSTANTS,
    st.integers(-14 * 60, 14 * 60),
    st.integers(0, 999_999),
    st.sampled_from(["T", "t", " "]),
)
def test_a_date_of_rfc_3339_is_its_instant(
    moment: datetime, offset: int, micros: int, separator: str
) -> None:
    zone = timezone(timedelta(minutes=offset))
    text = moment.astimezone(zone).replace(microsecond=micros).isoformat(separator)
    seconds = reference.epoch(moment)
    agree(text, ("at", seconds * 10**9 + micros * 1000), received=float(seconds))
    if offset == 0:
        agree(text.replace("+00:00", "Z"), ("at", seconds * 10**9 + micros * 1000), seconds)


@given(INSTANTS, st.integers(0, 28), st.characters(min_codepoint=33, max_codepoint=126))
def test_a_date_with_a_wrong_letter_never_gives_another_year(
    moment: datetime, place: int, letter: str
) -> None:
    text = format_datetime(moment, usegmt=True)
    bent = text[:place] + letter + text[place + 1 :]
    kind, seconds, ignored = reset_of(bent, float(reference.epoch(moment)))
    assert (kind is None) == (ignored > 0)
    if kind is not None and not letter.isdigit() and bent[:1].isalpha():
        assert seconds == reference.epoch(moment)


@given(
    limit=st.one_of(st.integers(-5, 2 * 10**12), st.just(10**30)),
    remaining=st.one_of(st.integers(-5, 2 * 10**12), st.just(10**30)),
    left=st.sampled_from(["", ".0", ".999"]),
)
def test_counts_are_kept_within_reason(limit: int, remaining: int, left: str) -> None:
    seen = parse_headers(
        {"RateLimit-Limit": str(limit), "RateLimit-Remaining": f"{remaining}{left}"}, 200, NOW
    )
    wanted_limit = limit if 1 <= limit <= 10**12 else None
    wanted = remaining if 0 <= remaining <= 10**12 else None
    ignored = [wanted_limit, wanted].count(None)
    if wanted is not None and wanted_limit is not None and wanted > wanted_limit:
        wanted, ignored = wanted_limit, ignored + 1
    assert seen.ignored == ignored
    if wanted is None and wanted_limit is None:
        assert not seen
    else:
        assert seen.dimensions[0][2:4] == (wanted_limit, wanted)


ABSURD = [
    "-1",
    "1" + "0" * 30,
    "NaN",
    "inf",
    "-inf",
    "",
    " ",
    "1e9",
    "0x1F",
    "six",
    "٣",
    "\x00",
    "5" * 2**20,
]


@pytest.mark.parametrize("value", ABSURD, ids=lambda value: repr(value[:10]))
@pytest.mark.parametrize("bad", ["limit", "remaining", "reset", "retry-after"])
def test_an_absurd_value_is_counted_and_the_rest_is_kept(bad: str, value: str) -> None:
    good = {"limit": "10", "remaining": "4", "reset": "30", "retry-after": "2"}
    good[bad] = value
    headers = {
        name if name == "retry-after" else f"X-RateLimit-{name}": v for name, v in good.items()
    }
    seen = parse_headers(headers, 429, NOW)
    (dimension,) = seen.dimensions
    kept = {
        "limit": dimension.limit,
        "remaining": dimension.remaining,
        "reset": dimension.reset,
        "retry-after": seen.retry_after,
    }
    assert kept.pop(bad) is None
    assert kept == {name: float(good[name]) for name in kept}
    assert seen.ignored == 1


@pytest.mark.parametrize(
    "date", ["Thu, 01 Jan 1970 00:00:00 GMT", "1970-01-01T00:00:00Z", "Sun Sep  9 01:46:39 2001"]
)
def test_a_date_before_september_2001_makes_no_sense(date: str) -> None:
    assert reset_of(date) == (None, None, 1)
    assert parse_headers({"Date": date}, 200).date is None

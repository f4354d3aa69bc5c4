"""Windows as text: what `set_limit(window="1h")` and providers' seeds take."""

from __future__ import annotations

import contextlib
from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headway.exceptions import BaseThrottledError
from headway.smartratelimit._windows import format_window, parse_window


@pytest.mark.parametrize(
    ("text", "window"),
    [
        ("1h", timedelta(hours=1)),
        ("30m", timedelta(minutes=30)),
        ("60s", timedelta(seconds=60)),
        ("1d", timedelta(days=1)),
        ("2w", timedelta(weeks=2)),
        ("500ms", timedelta(milliseconds=500)),
        ("250us", timedelta(microseconds=250)),
        ("  15 M ", timedelta(minutes=15)),
        ("hour", timedelta(hours=1)),
        ("5 minutes", timedelta(minutes=5)),
        ("1 sec", timedelta(seconds=1)),
        ("3650d", timedelta(days=3650)),
    ],
)
def test_a_window_is_a_count_and_a_unit_of_the_quota_language(text: str, window: timedelta) -> None:
    assert parse_window(text) == window


@pytest.mark.parametrize(
    "text",
    [
        *("", " ", "1", "h1", "1h30m", "1 h h", "1/h", "1h;2h", "1h burst 3", "1h\n\n1h"),
        *("1.5h", "-5m", "+5m", "0s", "3651d", "1e3s", "9" * 400 + "s", "inf", "nan"),
        *("1x", "µs", "٣h"),
    ],
)
def test_any_other_text_is_a_value_error_that_names_it_and_what_would_do(text: str) -> None:
    with pytest.raises(ValueError, match="Invalid window") as raised:
        parse_window(text)

    assert repr(text)[:100] in str(raised.value)
    assert "'1h'" in str(raised.value)
    assert isinstance(raised.value, BaseThrottledError)


@pytest.mark.parametrize("value", [None, 3600, 1.5, b"1h", timedelta(hours=1), ["1h"]])
def test_what_is_no_text_is_refused_alike(value: object) -> None:
    with pytest.raises(ValueError, match="Invalid window"):
        parse_window(value)  # type: ignore[arg-type]


@given(st.text(max_size=12))
def test_no_text_raises_anything_else(text: str) -> None:
    with contextlib.suppress(ValueError):
        assert parse_window(text) > timedelta(0)


@given(st.timedeltas(timedelta(microseconds=1), timedelta(days=3650)))
def test_a_window_that_is_written_out_reads_back(window: timedelta) -> None:
    assert parse_window(format_window(window)) == window


def test_the_greatest_unit_that_fits_is_written() -> None:
    assert format_window(timedelta(minutes=90)) == "90m"
    assert format_window(timedelta(days=14)) == "2w"

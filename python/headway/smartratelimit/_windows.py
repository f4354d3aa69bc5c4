"""Windows as text: `parse_window("1h")` is an hour.

The units are those of headway's quota language, which reads them: "100/30m" and a window of "30m"
mean the same time. A window is a unit with an optional whole count before it.
"""

import re
from datetime import timedelta

from headway._core import parse_quota
from headway.exceptions import DataError
from headway.smartratelimit._arguments import invalid

__all__ = ["format_window", "parse_window"]

_SHAPE = re.compile(r"\s*(?:[0-9]{1,18}\s*)?[A-Za-z]{1,20}\s*\Z")
_EXPECTED = (
    "a unit, with an optional whole number before it, from a microsecond to 3650 days: "
    "'500ms', '30s', '15m', '1h', '1d', '2w' or 'hour'"
)
_UNITS = (
    ("w", timedelta(weeks=1)),
    ("d", timedelta(days=1)),
    ("h", timedelta(hours=1)),
    ("m", timedelta(minutes=1)),
    ("s", timedelta(seconds=1)),
    ("ms", timedelta(milliseconds=1)),
    ("us", timedelta(microseconds=1)),
)


def parse_window(text: str) -> timedelta:
    """Return the time that `text` names. Anything else raises InvalidArgument, a ValueError."""
    if not isinstance(text, str) or not _SHAPE.match(text):
        invalid("window", text, _EXPECTED)
    try:
        (quota,) = parse_quota(f"1/{text}")
    except DataError:
        invalid("window", text, _EXPECTED)
    return quota.rate.period


def format_window(window: timedelta) -> str:
    """Return the shortest text that `parse_window` reads as this window."""
    for unit, size in _UNITS:
        if window >= size and not window % size:
            return f"{window // size}{unit}"
    return f"{window // timedelta(microseconds=1)}us"

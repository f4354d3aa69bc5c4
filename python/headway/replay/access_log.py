"""What a line of an access log says: common and combined format, as Apache and nginx write them.

    203.0.113.9 - alice [10/Oct/2000:13:55:36 -0700] "GET /x HTTP/1.0" 200 2326 "ref" "agent"

One compiled expression walks a whole block of lines inside the regular expression engine, which is
what makes a million lines take half a second. Its last branch takes any other line, so `findall`
returns exactly one row a line: a row without a timestamp is a malformed line, and its index is its
line number. Only the fields that are asked for are captured; the language is the same for all of
them, so whether a line is well formed does not depend on what is asked.

Quoted fields may hold escaped quotes (`\\"`). The user may hold spaces. What follows the size is
free, so formats that append fields are read too. A line that starts with a virtual host is refused
rather than read with the host as its client.
"""

from __future__ import annotations

import re
from datetime import date

FIELDS = ("ip", "user", "method", "path", "status", "size", "referer", "ua")
"""The fields that a line offers, in the order in which they stand in it."""

BAD_STAMP = -1
"""What `Stamps` answers for text that is no time."""

_MONTHS = {
    name: number
    for number, name in enumerate(
        b"Jan Feb Mar Apr May Jun Jul Aug Sep Oct Nov Dec".split(),
        start=1,
    )
}
_EPOCH = date(1970, 1, 1).toordinal()
_REST = rb'[^"\\\n]*(?:\\.[^"\\\n]*)*'  # of a quoted field: a backslash takes what follows with it
_PATH = rb'[^ "\\?\n]*(?:\\.[^ "\\?\n]*)*'  # up to the query string
_STAMP = rb"[0-9]{2}/[A-Z][a-z]{2}/[0-9]{4}:[0-9]{2}:[0-9]{2}:[0-9]{2} [-+][0-9]{4}"


class LinePattern:
    """The expression that captures `fields` (and always the timestamp) from every line."""

    def __init__(self, fields: frozenset[str]) -> None:
        def take(name: str, text: bytes) -> bytes:
            return b"(" + (b"?P<%s>" % name.encode() if name in fields else b"?:") + text + b")"

        # A part that nothing is captured from is left to what follows it, which takes it too.
        request, tail = _REST, b".*"
        if fields & {"method", "path"}:
            start = take("method", rb'[^ "\\\n]*') + b"(?: " + take("path", _PATH) + b")?"
            request = start + request
        if fields & {"referer", "ua"}:
            tail = rb'(?: "' + take("referer", _REST) + rb'" "' + take("ua", _REST) + rb'")?' + tail
        line = (
            take("ip", rb"[^ \n]+")
            + rb" [^ \n]+ "
            + take("user", rb"-|(?!- [^\[])[^\[\n]+")
            + rb" \[(?P<stamp>"
            + _STAMP
            + rb')\] "'
            + request
            + rb'" '
            + take("status", rb"[0-9]{3}")
            + b" "
            + take("size", rb"(?:[0-9]+|-)")
            + tail
        )
        self._rows = re.compile(rb"(?:" + line + rb"|.*)\n").findall
        groups = re.compile(line).groupindex
        self.column = {name: index - 1 for name, index in groups.items()}
        """Where a field, or `stamp`, stands in a row."""
        self._single = len(groups) == 1

    def columns(self, block: bytes) -> list[tuple[bytes, ...]]:
        """The captured fields of all lines of `block`, which ends in a newline, field by field."""
        rows = self._rows(block)
        return [tuple(rows)] if self._single else list(zip(*rows, strict=True))


class Stamps(dict[bytes, int]):
    """Seconds since the Unix epoch by the text of a timestamp; `BAD_STAMP` where it is no time.

    Many lines share a second and more share a minute, so both are remembered.
    """

    MOST = 100_000  # remembered at once: a log runs through its seconds and does not come back

    def __init__(self) -> None:
        super().__init__()
        self._minutes: dict[bytes, int] = {}
        self.offset: int | None = None
        """Seconds east of UTC of the first timestamp: the log's own idea of the time of day."""

    def __missing__(self, stamp: bytes) -> int:
        if len(self) >= self.MOST:
            self.clear()
            self._minutes.clear()
        seconds = self._parse(stamp) if stamp else BAD_STAMP
        self[stamp] = seconds
        return seconds

    def _parse(self, stamp: bytes) -> int:
        minute = stamp[:17] + stamp[20:]
        start = self._minutes.get(minute)
        if start is None:
            start = self._minutes[minute] = self._start_of_minute(stamp)
        second = int(stamp[18:20])
        if start == BAD_STAMP or second > 60:
            return BAD_STAMP  # second 60 is a leap second, which falls on the next minute's first
        return start + second

    def _start_of_minute(self, stamp: bytes) -> int:
        hour, minute = int(stamp[12:14]), int(stamp[15:17])
        hours, minutes = int(stamp[22:24]), int(stamp[24:26])
        if hour > 23 or minute > 59 or hours > 14 or minutes > 59:
            return BAD_STAMP
        east = (3600 * hours + 60 * minutes) * (-1 if stamp[21:22] == b"-" else 1)
        try:
            day = date(int(stamp[7:11]), _MONTHS[stamp[3:6]], int(stamp[:2]))
        except (KeyError, ValueError):
            return BAD_STAMP
        start = 86_400 * (day.toordinal() - _EPOCH) + 3600 * hour + 60 * minute - east
        if not 0 <= start < 1 << 33:  # a clock in nanoseconds begins in 1970 and ends in 2262
            return BAD_STAMP
        if self.offset is None:
            self.offset = east
        return start

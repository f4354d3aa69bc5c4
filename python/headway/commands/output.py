"""How subcommands say things: JSON for programs; words, columns and some colour for people.

Nothing here needs more than the standard library. Colour is for a terminal only, and for none
where NO_COLOR is set or TERM is dumb. What came from outside (a key, a server's answer) is shown
with its control characters escaped, so that it cannot drive the terminal.
"""

from __future__ import annotations

import json
import math
import os
import shlex
import shutil
import sys
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, TextIO

__all__ = ["columns", "duration", "paint", "plain", "print_json", "program", "rate", "say"]

_COLOURS = {"green": "32", "yellow": "33", "red": "31", "dim": "2", "bold": "1"}


def say(text: str, stream: TextIO | None = None) -> None:
    """Print a line; what the stream's encoding does not know is escaped."""
    out = stream if stream is not None else sys.stdout
    if out is None:  # closed by whoever started us
        return
    try:
        out.write(text + "\n")
    except UnicodeEncodeError:
        encoding = out.encoding or "ascii"
        out.write(text.encode(encoding, "backslashreplace").decode(encoding) + "\n")


def print_json(value: Any) -> None:
    """Print JSON; a number that JSON does not know, as infinity, is null."""
    say(json.dumps(_finite(value), indent=2, allow_nan=False))


def _finite(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {name: _finite(item) for name, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(item) for item in value]
    return value


def program() -> str:
    """What a shell in this folder calls the command `headway` of this Python by.

    `headway` where that is what PATH leads to; else the program's path, relative where it lies
    below this folder; else the module.
    """
    beside = Path(sys.executable).with_name("headway")
    found = shutil.which("headway")
    if found is not None and (not beside.exists() or beside.samefile(found)):
        return "headway"
    if beside.exists():
        here = Path.cwd()
        return shlex.quote(str(beside.relative_to(here) if here in beside.parents else beside))
    return f"{shlex.quote(sys.executable)} -m headway"


def paint(text: str, colour: str) -> str:
    """The text in a colour, where standard output is a terminal that wants it."""
    wanted = (
        sys.stdout is not None
        and sys.stdout.isatty()
        and not os.environ.get("NO_COLOR")
        and os.environ.get("TERM") != "dumb"
    )
    return f"\x1b[{_COLOURS[colour]}m{text}\x1b[0m" if wanted and text else text


def plain(text: str) -> str:
    """The text with control characters, and bytes that are no text, escaped."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def columns(rows: Sequence[Sequence[str]], right: Sequence[int] = ()) -> list[str]:
    """The rows as lines of aligned columns; `right`: the columns that are numbers."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    return [
        "  ".join(
            cell.rjust(width) if i in right else cell.ljust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]


_UNITS = ((86400, "d"), (3600, "h"), (60, "min"), (1, "s"))


def duration(seconds: float) -> str:
    """Seconds in the units that people use: "340 ns", "1.2 ms", "18 s", "3 min 20 s"."""
    if math.isinf(seconds):
        return "never"
    if seconds == 0:
        return "0 s"
    for limit, unit, scale in ((1e-6, "ns", 1e9), (1e-3, "us", 1e6), (1, "ms", 1e3)):
        if abs(seconds) < limit:
            return f"{seconds * scale:.3g} {unit}"
    if seconds < 60:
        return f"{seconds:.3g} s"
    whole = round(seconds)
    for (size, unit), (below, small) in pairwise(_UNITS):
        if whole >= size:
            rest = whole % size // below
            return f"{whole // size} {unit}" + (f" {rest} {small}" if rest else "")
    return f"{whole} s"


def rate(per_second: float) -> str:
    """How many a second: "12,300,000", with three digits that mean something."""
    if per_second <= 0 or math.isinf(per_second):
        return "0" if per_second <= 0 else "inf"
    digits = 2 - math.floor(math.log10(per_second))
    return f"{round(per_second, digits):,.{max(0, min(digits, 3))}f}"

"""A finding of the doctor."""

from __future__ import annotations

from typing import NamedTuple

__all__ = ["OK", "PROBLEM", "WARNING", "Finding"]

OK, WARNING, PROBLEM = "ok", "warning", "problem"


class Finding(NamedTuple):
    """One thing that was looked at. No field holds a secret: URLs are masked by who makes it."""

    room: str
    name: str
    value: str
    level: str = OK
    advice: str = ""
    """What to do, in one sentence. Where all is well: empty, or what could be done."""

"""A slow reading of header values, by Python's own means: what the C parser is held against."""

from __future__ import annotations

import re
from datetime import datetime, timezone
from decimal import Decimal

FIRST, END = 1_000_000_000, 4_611_686_018
DELAY_END = 10**8
UNITS = {"d": 86_400, "h": 3_600, "m": 60, "s": 1, "ms": Decimal("1e-3"), "us": Decimal("1e-6")}

Reset = tuple[str, int] | None
"""'after' or 'at', and nanoseconds."""


def number(text: str) -> Decimal | None:
    """A plain number, cut after nine digits of its fraction."""
    text = text.strip(" \t")
    if len(text) > 128 or not re.fullmatch(r"[0-9]+(\.[0-9]+)?|\.[0-9]+", text):
        return None
    whole, _, fraction = text.partition(".")
    if len(whole.lstrip("0")) > 18:
        return None
    return Decimal(f"{whole or '0'}.{fraction[:9] or '0'}")


def duration(text: str) -> int | None:
    """Nanoseconds of '1h2m3.5s'."""
    text = text.strip(" \t")
    parts = re.findall(r"([0-9]*\.?[0-9]+)(ms|us|ns|[dhms])", text, re.IGNORECASE)
    if not parts or "".join(count + unit for count, unit in parts) != text:
        return None
    units = {**UNITS, "ns": Decimal("1e-9")}
    total, last = 0, Decimal(10**9)
    for count, unit in parts:
        size = Decimal(units[unit.lower()])
        value = number(count)
        if value is None or int(value) > 10**12 or size >= last:
            return None
        last = size
        total += int(value * 10**9 * size)
    return total if total < DELAY_END * 10**9 else None


def reset(text: str) -> Reset:
    """What a reset that is a number or a duration means."""
    value = number(text)
    if value is None:
        ns = duration(text)
        return None if ns is None else ("after", ns)
    if value < DELAY_END:
        return "after", int(value * 10**9)
    if FIRST <= value < END:
        return "at", int(value * 10**9)
    if FIRST * 1000 <= value < END * 1000:
        return "at", int(value * 10**6)
    return None


def epoch(moment: datetime) -> int:
    """Seconds since the epoch."""
    return int((moment - datetime(1970, 1, 1, tzinfo=timezone.utc)).total_seconds())

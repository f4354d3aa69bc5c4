"""How much a store leases at a time: "50ms", or {"tokens": 100}; in a URL also 100.

A time stands for what a quota yields in it, so that it suits every quota of a store.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass

__all__ = ["Lease", "lease_of"]

LONGEST_NS = 10_000_000_000
MOST = 10**12
_UNITS = {"us": 10**3, "ms": 10**6, "s": 10**9}
_TIME = re.compile(r"(\d{1,15})(?:\.(\d{1,9}))? ?(us|ms|s)", re.ASCII)


@dataclass(frozen=True)
class Lease:
    """Either is 0."""

    ns: int = 0
    tokens: int = 0


def lease_of(value: object) -> Lease | None:
    """Return what a user wrote; None where it is nothing that can be meant."""
    if isinstance(value, str):
        return _tokens(int(value)) if re.fullmatch(r"[0-9]{1,15}", value) else _time(value)
    if isinstance(value, Mapping) and set(value) == {"tokens"}:
        count = value["tokens"]
        return _tokens(count) if isinstance(count, int) and not isinstance(count, bool) else None
    return None


def _tokens(count: int) -> Lease | None:
    return Lease(tokens=count) if 1 <= count <= MOST else None


def _time(text: str) -> Lease | None:
    found = _TIME.fullmatch(text.strip().lower())
    if found is None:
        return None
    whole, part, unit = found.groups()
    part = part or ""
    ns = int(whole + part) * _UNITS[unit] // 10 ** len(part)
    return Lease(ns=ns) if 1000 <= ns <= LONGEST_NS else None

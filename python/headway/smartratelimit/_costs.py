"""What a request spends, and limits that are given in advance, as plain numbers."""

import math
from collections.abc import Mapping
from typing import Any, NamedTuple, SupportsFloat

from headway.smartratelimit._arguments import invalid, name, whole
from headway.smartratelimit._windows import parse_window

__all__ = ["Preset", "amounts", "defaults", "preset", "window_ns"]

LIMIT_MAX = 10**12
COST_MAX = 10**12
_DIMENSIONS_MAX = 8
_UNITS = ("second", "minute", "hour", "day")
_COST = (
    "None for one request, a number of requests, or a dict such as {'requests': 1, 'tokens': 900}"
)
_DEFAULTS = (
    "a dict of limits by '<what>_per_second', '…_per_minute', '…_per_hour' or '…_per_day', "
    "such as {'requests_per_minute': 60, 'tokens_per_minute': 90000}"
)


class Preset(NamedTuple):
    """A limit that nobody has to learn."""

    dimension: str
    limit: int
    window_ns: int
    source: str


def amounts(cost: object) -> dict[str, int] | None:
    """A cost by dimension, in whole units rounded up; None: one request, as is most usual."""
    if cost is None:
        return None
    if isinstance(cost, Mapping):
        if len(cost) > _DIMENSIONS_MAX:
            invalid("cost", cost, f"a dict of at most {_DIMENSIONS_MAX} dimensions")
        found = {_dimension(key, cost): _amount(value) for key, value in cost.items()}
        found.setdefault("requests", 1)
        return found
    return {"requests": _amount(cost)}


def _dimension(key: object, cost: object) -> str:
    if not isinstance(key, str) or not key.strip():
        invalid("cost", cost, _COST)
    return key


def _amount(value: object) -> int:
    if isinstance(value, bool) or not isinstance(value, SupportsFloat):
        invalid("cost", value, _COST)
    if not isinstance(value, int):
        value = float(value)
    if (isinstance(value, float) and not math.isfinite(value)) or not 0 <= value <= COST_MAX:
        invalid("cost", value, f"from 0 to {COST_MAX:.0e}")
    return math.ceil(value)


def defaults(limits: object) -> tuple[Preset, ...]:
    """default_limits, several windows of one dimension included."""
    if limits is None:
        return ()
    if not isinstance(limits, Mapping):
        invalid("default_limits", limits, _DEFAULTS)
    found = []
    for key, limit in limits.items():
        what, per, unit = key.rpartition("_per_") if isinstance(key, str) else ("", "", "")
        if not what or not per or unit not in _UNITS:
            invalid("default_limits key", key, _DEFAULTS)
        amount = whole(f"default_limits[{key!r}]", limit, 1, LIMIT_MAX)
        found.append(Preset(what, amount, window_ns(unit), "default"))
    return tuple(found)


def preset(limit: Any, window: str, dimension: str) -> Preset:
    """The arguments of set_limit."""
    return Preset(
        name("dimension", dimension),
        whole("limit", limit, 1, LIMIT_MAX),
        window_ns(window),
        "configured",
    )


def window_ns(window: str) -> int:
    """'1h' in nanoseconds."""
    found = parse_window(window)
    return (found.days * 86400 + found.seconds) * 10**9 + found.microseconds * 1000

"""Checks of arguments: each returns the value, or raises InvalidArgument with a full sentence."""

import math
from collections.abc import Iterable
from typing import NoReturn

from headway._redis_url import masked
from headway.smartratelimit.exceptions import InvalidArgument

__all__ = ["invalid", "items", "name", "number", "positive_number", "whole"]


def invalid(field: str, value: object, expected: str) -> NoReturn:
    """Say which argument it was, what it was and what would do."""
    if isinstance(value, str) and field in ("endpoint", "url"):
        value = masked(value)
    raise InvalidArgument(f"Invalid {field}: {_shown(value)}, must be {expected}.")


def number(field: str, value: object, most: float, unit: str = "") -> float:
    """Return a number from 0 to `most`."""
    found = _float(value)
    if found is None or not 0 <= found <= most:
        invalid(field, value, f"a number{unit} from 0 to {most:.12g}")
    return found


def positive_number(field: str, value: object, most: float, unit: str = "") -> float:
    """Return a number above 0 and up to `most`."""
    found = _float(value)
    if found is None or not 0 < found <= most:
        invalid(field, value, f"a number{unit} above 0, up to {most:.12g}")
    return found


def whole(field: str, value: object, least: int, most: int) -> int:
    """Return an integer between two bounds. True and 3.0 are none."""
    if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= most:
        invalid(field, value, f"an integer from {least} to {most}")
    return int(value)


def name(field: str, value: object) -> str:
    """Return a string that is not blank."""
    if not isinstance(value, str) or not value.strip():
        invalid(field, value, "a non-empty string")
    return value


def items(field: str, value: object, expected: str) -> list[object]:
    """Return what an iterable holds; a string is one value, not many."""
    if isinstance(value, (str, bytes)) or not isinstance(value, Iterable):
        invalid(field, value, expected)
    return list(value)


def _float(value: object) -> float | None:
    if not isinstance(value, (int, float)) or isinstance(value, bool):
        return None
    try:
        found = float(value)
    except OverflowError:  # an integer that no float can hold
        return None
    return None if math.isnan(found) else found


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 200 else f"{text[:200]}…"

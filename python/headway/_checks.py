"""Checks of arguments that raise ValueError: they name the field, its value and what would do."""

import math

__all__ = ["not_negative", "positive", "positive_int", "text"]

LIMIT_MAX = 10**12
PERIOD_MIN, PERIOD_MAX = 1e-6, 3650 * 86400.0


def text(field: str, value: object) -> str:
    """Return a string that is not empty."""
    if not isinstance(value, str) or not value:
        raise ValueError(f"Invalid {field}: {value!r}, must be a non-empty string.")
    return value


def positive_int(field: str, value: object, most: int = LIMIT_MAX) -> int:
    """Return an integer between 1 and `most`; 5.0 is one too."""
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= most:
        raise ValueError(f"Invalid {field}: {value!r}, must be an integer between 1 and {most}.")
    return value


def positive(field: str, value: object) -> float:
    """Return a number of seconds that can be a period."""
    if not _is_number(value) or not PERIOD_MIN <= float(value) <= PERIOD_MAX:  # type: ignore[arg-type]
        raise ValueError(
            f"Invalid {field}: {value!r}, must be a positive number of seconds, "
            "from a microsecond to 3650 days."
        )
    return float(value)  # type: ignore[arg-type]


def not_negative(field: str, value: object, meaning: str) -> float:
    """Return a number of seconds, 0 included; `meaning` says what 0 does."""
    if not _is_number(value) or not float(value) >= 0:  # type: ignore[arg-type]
        raise ValueError(
            f"Invalid {field}: {value!r}, must be a positive number of seconds, or 0 for {meaning}."
        )
    return float(value)  # type: ignore[arg-type]


def _is_number(value: object) -> bool:
    if not isinstance(value, (int, float)) or isinstance(value, bool):
        return False
    try:
        return not math.isnan(value)
    except OverflowError:  # an integer that no float can hold
        return False

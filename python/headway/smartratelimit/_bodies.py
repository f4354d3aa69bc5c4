"""Limits that are told in a response's body instead of its headers: Shopify's GraphQL cost.

    "extensions": {"cost": {
        "requestedQueryCost": 101, "actualQueryCost": 46,
        "throttleStatus": {"maximumAvailable": 1000, "currentlyAvailable": 954, "restoreRate": 50}}}

A bucket of points: a query is let in when as many points are there as it may cost, and points come
back at `restoreRate` a second. As everywhere with limits, what makes no sense is counted and left
out, and nothing raises.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any

from headway._core import Observation, ObservedDimension

POINTS = "cost"
"""The dimension's name: points, not requests, are what is counted."""

COUNT_MAX = 10**12
DELAY_END = 10**8
BODY_MAX = 64 * 1024 * 1024
"""Bytes. A longer body is not looked at."""


def graphql_cost(body: bytes | str | Mapping[str, Any]) -> Observation | None:
    """What a GraphQL response says of its cost, or None where it says nothing of it.

    `body` is the JSON, or what was made of it. A query that was refused (`THROTTLED`) has a
    `retry_after`: when the points that it asked for will be there.
    """
    answer = _answer(body)
    cost = _mapping(_mapping(answer.get("extensions")).get("cost"))
    status = _mapping(cost.get("throttleStatus"))
    if not status:
        return None
    limit = _number(status.get("maximumAvailable"), 1, COUNT_MAX)
    available = _number(status.get("currentlyAvailable"), 0, COUNT_MAX)
    rate = _number(status.get("restoreRate"), 1e-6, COUNT_MAX)
    ignored = [limit, available, rate].count(None)
    if limit is None and available is None:
        return None
    if limit is not None and available is not None and available > limit:
        available = limit
        ignored += 1
    window = _seconds(limit, rate)
    full = _seconds(None if limit is None or available is None else limit - available, rate)
    dimension = ObservedDimension(
        (
            POINTS,
            "",
            None if limit is None else math.floor(limit),
            None if available is None else math.floor(available),
            window or None,
            full,
            None if full is None else "after",
        )
    )
    retry = None
    if _was_throttled(answer) and available is not None:
        asked = _number(cost.get("requestedQueryCost"), 0, COUNT_MAX)
        retry = _seconds(max(0.0, (asked or 1.0) - available), rate)
    return Observation((dimension,), retry_after=retry, ignored=ignored)


def _answer(body: bytes | str | Mapping[str, Any]) -> Mapping[str, Any]:
    if isinstance(body, Mapping):
        return body
    if len(body) > BODY_MAX:
        return {}
    try:
        return _mapping(json.loads(body))
    except (ValueError, RecursionError):  # UnicodeDecodeError and JSONDecodeError are ValueErrors
        return {}


def _mapping(value: object) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _number(value: object, least: float, most: float) -> float | None:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return None
    return float(value) if least <= value <= most else None  # False for NaN


def _seconds(points: float | None, rate: float | None) -> float | None:
    """How long so many points take to come back."""
    if points is None or rate is None or points / rate >= DELAY_END:
        return None
    return points / rate


def _was_throttled(answer: Mapping[str, Any]) -> bool:
    errors = answer.get("errors")
    if not isinstance(errors, list):
        return False
    return any(
        _mapping(_mapping(error).get("extensions")).get("code") == "THROTTLED"
        or str(_mapping(error).get("message")).lower() == "throttled"
        for error in errors
    )

"""From a ledger to the status that people read."""

from collections.abc import Iterable
from datetime import datetime, timedelta, timezone

from headway._core import Ledger
from headway.smartratelimit._windows import format_window
from headway.smartratelimit.models import REQUESTS, LimitDimension, RateLimitStatus

__all__ = ["dimensions_of", "status_of"]

_EPOCH = datetime(1970, 1, 1, tzinfo=timezone.utc)
_Told = tuple[str, str, "int | None", "int | None", "int | None", "int | None", str]


def _instant(ns: int) -> datetime:
    return _EPOCH + timedelta(microseconds=ns // 1000)


def _share(told: _Told) -> float:
    limit, remaining = told[2], told[3]
    if remaining is None:
        return 1.0
    return remaining / limit if limit else float(remaining > 0)


def _window(told: _Told, now_ns: int) -> timedelta:
    if told[5] is not None:
        return timedelta(microseconds=told[5] // 1000)
    rest = (told[4] or now_ns) - now_ns
    return timedelta(microseconds=max(0, rest) // 1000)


def _dimension(told: _Told, now_ns: int) -> LimitDimension:
    name, _, limit, remaining, reset_ns, _, source = told
    known = limit if limit is not None else remaining or 0
    return LimitDimension(
        name=name,
        limit=known,
        remaining=known if remaining is None else remaining,
        reset_time=_instant(reset_ns or now_ns),
        window=_window(told, now_ns),
        confidence="configured" if source == "default" else source,
    )


def dimensions_of(told: Iterable[_Told], now_ns: int) -> dict[str, LimitDimension]:
    """By name; the tightest of several of one name has it, the others say what they are of too."""
    found: dict[str, LimitDimension] = {}
    for one in sorted(told, key=_share):
        made = _dimension(one, now_ns)
        label = made.name
        if label in found and one[1]:
            label = f"{made.name} of {one[1]}"
        if label in found:
            label = f"{label} per {format_window(made.window)}"
        found.setdefault(label, made)
    return found


def status_of(endpoint: str, ledger: Ledger, now_ns: int) -> RateLimitStatus | None:
    """What a ledger knows; None: nothing. The flat fields are those of requests, if there."""
    told, blocked_ns = ledger.status(now_ns)
    if not told and blocked_ns is None:
        return None
    if not told:
        return RateLimitStatus(endpoint, 0, 0, _instant(blocked_ns or 0), None, "estimated")
    found = dimensions_of(told, now_ns)
    first = found.get(REQUESTS) or next(iter(found.values()))
    knows_reset = any(one[0] == first.name and one[4] is not None for one in told)
    status = RateLimitStatus(
        endpoint=endpoint,
        limit=first.limit,
        remaining=first.remaining,
        reset_time=first.reset_time if knows_reset else None,
        window=first.window if first.window else None,
        confidence=first.confidence,
        dimensions=found,
    )
    if blocked_ns is not None:
        status.remaining = 0
        until = _instant(blocked_ns)
        if status.reset_time is None or status.reset_time < until:
            status.reset_time = until
    return status

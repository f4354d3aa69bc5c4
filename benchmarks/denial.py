"""denial: what does a denied call cost beside an admitted one?

The admitted call has a quota that is never used up; the denied one a quota of one a day that was
used up before the clock started. A limiter under attack mostly denies: a denial that cost more
than an admission would be a gift to the attacker.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

from benchmarks.contenders import (
    ALGORITHMS,
    count,
    has,
    headway_limiter,
    limits_strategy,
    throttled_limiter,
    token_bucket_limiter,
)
from benchmarks.harness import (
    HEADWAY,
    PEER,
    Contender,
    Settings,
    find,
    spread_of_ratios,
    time_in_turn,
)
from benchmarks.report import Report, Row, Section, Target

NAME = "denial"
BOUND = 1.3


def _headway_open(using: str) -> Mapping[str, Any]:
    return {"limit": headway_limiter(using).limit}


def _headway(using: str) -> Mapping[str, Any]:
    limiter = headway_limiter(using, quota="1/d")
    while limiter.limit("k"):
        pass
    return {"limit": limiter.limit}


def _throttled(using: str, denied: bool) -> Mapping[str, Any]:
    from throttled import rate_limiter

    limiter = throttled_limiter(using, quota=rate_limiter.per_day(1) if denied else None)
    while denied and not limiter.limit("k").limited:
        pass
    return {"limit": limiter.limit}


def _limits(denied: bool) -> Mapping[str, Any]:
    from limits import RateLimitItemPerDay

    strategy, item = limits_strategy("FixedWindowRateLimiter")
    item = RateLimitItemPerDay(1) if denied else item
    while denied and strategy.hit(item, "k"):
        pass
    return {"hit": strategy.hit, "item": item}


def _token_bucket(denied: bool) -> Mapping[str, Any]:
    limiter = token_bucket_limiter(1 / 86_400, 1) if denied else token_bucket_limiter()
    while denied and limiter.consume("k"):
        pass
    return {"consume": limiter.consume}


def pairs() -> list[tuple[Contender, Contender]]:
    """(admitted, denied) of everything that is installed."""
    found = []
    for using in ALGORITHMS if has("headway") else ():
        found.append(
            _pair(
                f"headway {using}",
                HEADWAY,
                'limit("k")',
                partial(_headway_open, using),
                partial(_headway, using),
            )
        )
    for using in ("fixed_window", "token_bucket", "gcra") if has("throttled-py") else ():
        found.append(
            _pair(
                f"throttled-py {using}",
                PEER,
                'limit("k")',
                partial(_throttled, using, False),
                partial(_throttled, using, True),
            )
        )
    if has("limits"):
        found.append(
            _pair(
                "limits fixed window",
                PEER,
                'hit(item, "k")',
                partial(_limits, False),
                partial(_limits, True),
            )
        )
    if has("token-bucket"):
        found.append(
            _pair(
                "token-bucket",
                PEER,
                'consume("k")',
                partial(_token_bucket, False),
                partial(_token_bucket, True),
            )
        )
    return found


def _pair(
    label: str, kind: str, statement: str, admitted: Any, denied: Any
) -> tuple[Contender, Contender]:
    return (
        Contender(f"{label} admitted", kind, statement, admitted),
        Contender(f"{label} denied", kind, statement, denied),
    )


def run(settings: Settings) -> Report:
    """Measures and reports."""
    contenders = [count(), *(contender for pair in pairs() for contender in pair)]
    timings = time_in_turn(contenders, settings)
    report = Report(
        NAME,
        "A denied call beside an admitted one",
        "Nanoseconds a call, the loop included; the ratio is that of the denied call to the "
        "admitted call of the same limiter in the same round.",
    )
    rows = []
    for admitted, denied in pairs():
        before, after = find(timings, admitted.label), find(timings, denied.label)
        ratio = spread_of_ratios(after.rounds_ns, before.rounds_ns)
        label = admitted.label.removesuffix(" admitted")
        rows.append(
            Row(label, admitted.kind, after.ns, ratio, f"admitted: {before.ns.median:,.0f} ns")
        )
        if admitted.kind == HEADWAY:
            report.targets.append(
                Target(label.replace("headway ", "a denial, "), ratio, BOUND, "x an admission")
            )
    report.sections.append(
        Section("One denied call", "ns", rows, "the admitted call", plot_ratio=True, limit=BOUND)
    )
    return report

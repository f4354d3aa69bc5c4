"""token_bucket: what does `TokenBucket.allow()` cost, admitted and denied?

Beside it: the token-bucket package, and the bucket that the document would have its reader write,
one lock in plain Python (`reference_bucket.py`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from benchmarks.contenders import NEVER_DENIES, count, has, token_bucket_limiter
from benchmarks.harness import BASELINE, HEADWAY, PEER, Contender, Settings, time_in_turn
from benchmarks.reference_bucket import LockedBucket
from benchmarks.report import Report, Section, rows_of

NAME = "token_bucket"


def _bucket(kind: Callable[..., Any], denied: bool) -> Mapping[str, Any]:
    bucket = kind(1, 1 / 86_400) if denied else kind(NEVER_DENIES, NEVER_DENIES)
    while denied and bucket.allow():
        pass
    return {"allow": bucket.allow}


def _package(denied: bool) -> Mapping[str, Any]:
    limiter = token_bucket_limiter(1 / 86_400, 1) if denied else token_bucket_limiter()
    while denied and limiter.consume("k"):
        pass
    return {"consume": limiter.consume}


def contenders() -> list[Contender]:
    """Everything that is installed, admitted and denied."""
    found = [count()]
    for denied in (False, True):
        end = "denied" if denied else "admitted"
        if has("headway"):
            from headway import TokenBucket

            found.append(
                Contender(
                    f"headway TokenBucket {end}",
                    HEADWAY,
                    "allow()",
                    partial(_bucket, TokenBucket, denied),
                )
            )
        found.append(
            Contender(
                f"one lock in plain Python, {end}",
                BASELINE,
                "allow()",
                partial(_bucket, LockedBucket, denied),
            )
        )
        if has("token-bucket"):
            found.append(
                Contender(
                    f"token-bucket {end}",
                    PEER,
                    'consume("k")',
                    partial(_package, denied),
                    "keyed; takes no lock",
                )
            )
    return found


def run(settings: Settings) -> Report:
    """Measures and reports."""
    timings = time_in_turn(contenders(), settings)
    return Report(
        NAME,
        "TokenBucket.allow()",
        "Nanoseconds a call, the loop included; ratios to `d[key] += 1` of the same round.",
        [Section("One call", "ns", rows_of(timings, timings[0]), "`d[key] += 1`", plot_ratio=True)],
    )

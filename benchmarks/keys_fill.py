"""The contenders of the question `keys`: each makes a limiter that can hold a million keys.

A filler takes the number of keys and returns a function of the key and the object that keeps the
keys alive. Imports happen inside, so that a process can weigh itself before them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from benchmarks.contenders import (
    has,
    headway_limiter,
    limits_strategy,
    throttled_limiter,
    token_bucket_limiter,
)
from benchmarks.harness import BASELINE, HEADWAY, PEER

# One call keeps a key alive for 600 s, so that none expires while the others come; the burst lets
# a hot key go on.
BUCKET_QUOTA = "6/h burst 3000000"
WINDOW_QUOTA = "1000000000/w"

Use = Callable[[str], object]


def _dict(count: int) -> tuple[Use, object]:
    counts: dict[str, float] = {}

    def use(key: str) -> None:
        counts[key] = counts.get(key, 0.0) + 1.0

    return use, counts


def _headway(using: str) -> Callable[[int], tuple[Use, object]]:
    def make(count: int) -> tuple[Use, object]:
        quota = WINDOW_QUOTA if using.endswith("window") else BUCKET_QUOTA
        limiter = headway_limiter(using, count, quota)
        return limiter.limit, limiter

    return make


def _throttled(using: str) -> Callable[[int], tuple[Use, object]]:
    def make(count: int) -> tuple[Use, object]:
        from throttled import rate_limiter

        quota = rate_limiter.per_hour(6, burst=3_000_000)
        if using.endswith("window"):
            quota = rate_limiter.per_week(1_000_000_000)
        limiter = throttled_limiter(using, count, quota)
        return limiter.limit, limiter

    return make


def _limits(count: int) -> tuple[Use, object]:
    from limits import RateLimitItemPerHour

    strategy, _ = limits_strategy("FixedWindowRateLimiter")
    item = RateLimitItemPerHour(1_000_000_000)
    return lambda key: strategy.hit(item, key), strategy


def _token_bucket(count: int) -> tuple[Use, object]:
    limiter = token_bucket_limiter()
    return limiter.consume, limiter


FILLERS: Mapping[str, Callable[[int], tuple[Use, object]]] = {
    "a dict of floats": _dict,
    "headway token_bucket": _headway("token_bucket"),
    "headway sliding_window": _headway("sliding_window"),
    "token-bucket": _token_bucket,
    "limits fixed window": _limits,
    "throttled-py fixed_window": _throttled("fixed_window"),
    "throttled-py token_bucket": _throttled("token_bucket"),
    "throttled-py gcra": _throttled("gcra"),
}


def kind_of(label: str) -> str:
    """Which kind of contender a label of FILLERS is."""
    if label.startswith("headway"):
        return HEADWAY
    return BASELINE if label.startswith("a dict") else PEER


def installed() -> list[str]:
    """The labels of FILLERS whose package is there."""
    return [label for label in FILLERS if kind_of(label) == BASELINE or has(label.split()[0])]

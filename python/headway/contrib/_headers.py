"""What a client is told: RateLimit and RateLimit-Policy, X-RateLimit-*, and Retry-After.

RateLimit-Policy and RateLimit are those of draft-ietf-httpapi-ratelimit-headers-10, lists of
structured fields (RFC 9651), one member for each rule:

    RateLimit-Policy: "default";q=100;w=60, "login";q=5;w=60
    RateLimit: "default";r=99;t=1, "login";r=4;t=12

X-RateLimit-Limit, -Remaining and -Reset tell the tightest rule alone. All seconds are whole and
rounded up, so whoever waits so long is never early.
"""

from collections.abc import Sequence
from fractions import Fraction
from math import ceil, isfinite

from headway import _core

__all__ = ["HEADERS", "RESETS", "Report", "fields", "policy_members", "whole_seconds"]

HEADERS = ("both", "ietf", "x", "none")
RESETS = ("after", "at")
_COUNT_MAX = 10**12
"""The largest limit that a quota may have; readers need not take more."""


Report = tuple[str, str, int, int, int]
"""What one rule says of one request: its name as it stands in RateLimit, quoted; its members of
RateLimit-Policy; limit, remaining, and whole seconds until the reset. A tuple, so that the fields
of equal reports need not be made again.
"""


def policy_members(name: str, quotas: Sequence[_core.Quota]) -> list[tuple[str, str]]:
    """For each quota its name, quoted, and its member of RateLimit-Policy.

    A period that is no whole number of seconds is told as the shortest multiple that is one; where
    it has fractions of milliseconds too, as the next whole second and what fits into that.
    """
    found = []
    for number, quota in enumerate(quotas, 1):
        member = f'"{name}"' if len(quotas) == 1 else f'"{name}-{number}"'
        period = quota.rate.period
        seconds = Fraction((period.days * 86400 + period.seconds) * 10**6 + period.microseconds)
        seconds /= 10**6
        if seconds.denominator <= 1000:
            window, count = seconds.numerator, quota.rate.limit * seconds.denominator
        else:
            window = ceil(seconds)
            count = max(1, int(quota.rate.limit * window / seconds))
        found.append((member, f"{member};q={min(count, _COUNT_MAX)};w={window}"))
    return found


def whole_seconds(seconds: float) -> int | None:
    """Rounded up, at least 1; None for never."""
    return max(1, ceil(seconds)) if isfinite(seconds) else None


def fields(reports: Sequence[Report], style: str, reset: str, now: float) -> list[tuple[str, str]]:
    """The fields of a response, with names in small letters. `now`: the wall clock, for "at"."""
    if not reports:
        return []
    tightest = reports[0]
    member, policies, limit, remaining, after = tightest
    ietf = f"{member};r={remaining};t={after}"
    for report in reports[1:]:
        member, policy, _, remaining, after = report
        policies = f"{policies}, {policy}"
        ietf = f"{ietf}, {member};r={remaining};t={after}"
        if remaining < tightest[3]:
            tightest = report
    found = [("ratelimit-policy", policies), ("ratelimit", ietf)] if style != "x" else []
    if style != "ietf":
        _, _, limit, remaining, after = tightest
        found += (
            ("x-ratelimit-limit", str(limit)),
            ("x-ratelimit-remaining", str(remaining)),
            ("x-ratelimit-reset", str(after if reset == "after" else ceil(now + after))),
        )
    return found

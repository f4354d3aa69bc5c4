"""How APIs tell of their limits: from where a limit stands to the headers of a response."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from typing import NamedTuple


class Standing(NamedTuple):
    """Where a limit stands, by the server's clock, in seconds."""

    limit: int
    remaining: int
    reset: float
    window: float
    now: float
    wait: float

    @property
    def after(self) -> float:
        return max(0.0, self.reset - self.now)


Headers = list[tuple[str, str]]
Dialect = Callable[[list[Standing], "float | None"], Headers]
DIALECTS: dict[str, Dialect] = {}


def dialect(function: Dialect) -> Dialect:
    DIALECTS[function.__name__] = function
    return function


def _retry(retry: float | None) -> Headers:
    return [] if retry is None else [("Retry-After", str(math.ceil(retry)))]


def _three(prefix: str, standing: Standing, reset: str) -> Headers:
    return [
        (f"{prefix}Limit", str(standing.limit)),
        (f"{prefix}Remaining", str(standing.remaining)),
        (f"{prefix}Reset", reset),
    ]


@dialect
def x_ratelimit(standings: list[Standing], retry: float | None) -> Headers:
    """Epoch seconds, rounded up."""
    first = standings[0]
    return _three("X-RateLimit-", first, str(math.ceil(first.reset))) + _retry(retry)


@dialect
def x_ratelimit_ms(standings: list[Standing], retry: float | None) -> Headers:
    first = standings[0]
    return _three("X-RateLimit-", first, str(math.ceil(first.reset * 1000))) + _retry(retry)


@dialect
def ratelimit_delta(standings: list[Standing], retry: float | None) -> Headers:
    """The IETF draft until its version 7, with delta seconds."""
    first = standings[0]
    return _three("RateLimit-", first, str(math.ceil(first.after))) + _retry(retry)


@dialect
def structured(standings: list[Standing], retry: float | None) -> Headers:
    """The IETF draft of today."""
    policies = ", ".join(f'"p{n}";q={s.limit};w={s.window:g}' for n, s in enumerate(standings))
    told = ", ".join(
        f'"p{n}";r={s.remaining};t={math.ceil(s.after)}' for n, s in enumerate(standings)
    )
    return [("RateLimit-Policy", policies), ("RateLimit", told), *_retry(retry)]


@dialect
def github(standings: list[Standing], retry: float | None) -> Headers:
    first = standings[0]
    told = _three("X-RateLimit-", first, str(math.ceil(first.reset)))
    told += [
        ("X-RateLimit-Used", str(first.limit - first.remaining)),
        ("X-RateLimit-Resource", "core"),
    ]
    return told + _retry(retry)


@dialect
def twitter(standings: list[Standing], retry: float | None) -> Headers:
    first = standings[0]
    return _three("x-rate-limit-", first, str(math.ceil(first.reset)))


def _duration(seconds: float) -> str:
    if seconds < 1:
        return f"{math.ceil(seconds * 1000)}ms"
    minutes, rest = divmod(math.ceil(seconds * 1000) / 1000, 60)
    return f"{int(minutes)}m{rest:g}s" if minutes else f"{rest:g}s"


@dialect
def openai(standings: list[Standing], retry: float | None) -> Headers:
    told: Headers = []
    for name, standing in zip(("requests", "tokens"), standings, strict=False):
        told += [
            (f"x-ratelimit-limit-{name}", str(standing.limit)),
            (f"x-ratelimit-remaining-{name}", str(standing.remaining)),
            (f"x-ratelimit-reset-{name}", _duration(standing.after)),
        ]
    return told + _retry(retry)


@dialect
def anthropic(standings: list[Standing], retry: float | None) -> Headers:
    told: Headers = []
    for name, standing in zip(("requests", "tokens"), standings, strict=False):
        reset = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(math.ceil(standing.reset)))
        prefix = f"anthropic-ratelimit-{name}-"
        told += [
            (f"{prefix}limit", str(standing.limit)),
            (f"{prefix}remaining", str(standing.remaining)),
            (f"{prefix}reset", reset),
        ]
    return told + _retry(retry)


@dialect
def slack(standings: list[Standing], retry: float | None) -> Headers:
    """Nothing until it is too late."""
    return _retry(retry)


@dialect
def discord(standings: list[Standing], retry: float | None) -> Headers:
    first = standings[0]
    told = _three("X-RateLimit-", first, f"{first.reset:.3f}")
    told += [("X-RateLimit-Reset-After", f"{first.after:.3f}"), ("X-RateLimit-Bucket", "abcd1234")]
    if retry is not None:
        told += [("Retry-After", f"{retry:.3f}"), ("X-RateLimit-Scope", "user")]
    return told


@dialect
def shopify(standings: list[Standing], retry: float | None) -> Headers:
    first = standings[0]
    used = first.limit - first.remaining
    told = [("X-Shopify-Shop-Api-Call-Limit", f"{used}/{first.limit}")]
    return told + ([] if retry is None else [("Retry-After", f"{retry:.1f}")])


@dialect
def hubspot(standings: list[Standing], retry: float | None) -> Headers:
    first = standings[0]
    return [
        ("X-HubSpot-RateLimit-Max", str(first.limit)),
        ("X-HubSpot-RateLimit-Remaining", str(first.remaining)),
        ("X-HubSpot-RateLimit-Interval-Milliseconds", str(int(first.window * 1000))),
        *_retry(retry),
    ]


@dialect
def reddit(standings: list[Standing], retry: float | None) -> Headers:
    first = standings[0]
    return [
        ("x-ratelimit-used", str(first.limit - first.remaining)),
        ("x-ratelimit-remaining", f"{float(first.remaining)}"),
        ("x-ratelimit-reset", str(math.ceil(first.after))),
        *_retry(retry),
    ]


@dialect
def gitlab(standings: list[Standing], retry: float | None) -> Headers:
    first = standings[0]
    told = _three("RateLimit-", first, str(math.ceil(first.reset)))
    return [*told, ("RateLimit-Observed", str(first.limit - first.remaining)), *_retry(retry)]


@dialect
def atlassian(standings: list[Standing], retry: float | None) -> Headers:
    first = standings[0]
    reset = time.strftime("%Y-%m-%dT%H:%MZ", time.gmtime(math.ceil(first.reset / 60) * 60))
    return _three("X-RateLimit-", first, reset) + _retry(retry)

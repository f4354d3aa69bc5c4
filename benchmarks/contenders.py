"""The contenders: headway and the released peers, each used as its own documentation says.

A peer that is not installed is left out, and the run says so; so is headway where it is not
built, which lets the peers be measured alone. Quotas are so large that nothing is ever denied,
unless a benchmark asks for another one.

What each is given to do its best: throttled-py, limits and headway a store in memory;
pyrate-limiter both its default (a log of every call) and its token bucket in constant memory,
asked not to wait; token-bucket a capacity equal to its rate. token-bucket takes no lock (its
source says so), so its figures are those of a limiter that may miscount under threads.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from benchmarks.harness import BASELINE, HEADWAY, PEER, Contender
from benchmarks.machine import PACKAGES, version

ALGORITHMS = ("fixed_window", "sliding_window", "token_bucket", "leaking_bucket", "gcra")
NEVER_DENIES = 1_000_000_000
"""Calls a second."""

COUNT_LABEL = "d[key] += 1"

Maker = Callable[[], Mapping[str, Any]]


def count() -> Contender:
    """The unit of most ratios here."""
    return Contender(COUNT_LABEL, BASELINE, "d[key] += 1", lambda: {"d": {"k": 0}, "key": "k"})


def empty_loop() -> Contender:
    """What the loop itself costs; it is part of every other figure."""
    return Contender("the empty loop", BASELINE, "pass", lambda: {"unused": None})


def has(package: str) -> bool:
    """Whether that distribution is installed."""
    return version(package) is not None


def missing() -> list[str]:
    """A sentence for every contender that is not installed."""
    return [f"{name} is not installed and was left out" for name in PACKAGES if not has(name)]


def headway_limiter(
    using: str, size: int | None = None, quota: str = f"{NEVER_DENIES}/s", **more: Any
) -> Any:
    """A headway limiter with a store of its own; `more` are further arguments of Throttled."""
    from headway import MemoryStore, Throttled

    options = None if size is None else {"MAX_SIZE": size}
    return Throttled(using=using, quota=quota, store=MemoryStore(options=options), **more)


def throttled_limiter(using: str, size: int | None = None, quota: Any = None) -> Any:
    """A throttled-py limiter with a store of its own."""
    import throttled
    from throttled import rate_limiter

    options = None if size is None else {"MAX_SIZE": size}
    return throttled.Throttled(
        using=using,
        quota=rate_limiter.per_sec(NEVER_DENIES) if quota is None else quota,
        store=throttled.MemoryStore(options=options),
    )


def limits_strategy(name: str) -> tuple[Any, Any]:
    """A strategy of limits over a store of its own, and the item that it is asked with."""
    from limits import RateLimitItemPerSecond, storage, strategies

    strategy = getattr(strategies, name)(storage.MemoryStorage())
    return strategy, RateLimitItemPerSecond(NEVER_DENIES)


def token_bucket_limiter(per_second: float = NEVER_DENIES, capacity: int = NEVER_DENIES) -> Any:
    """A limiter of the token-bucket package with a store of its own."""
    import token_bucket

    return token_bucket.Limiter(per_second, capacity, token_bucket.MemoryStorage())


def pyrate_limiter_(kind: str) -> Any:
    """A pyrate-limiter: `log`, its default, or `state`, its token bucket in constant memory."""
    import pyrate_limiter as pyrate

    rate = pyrate.Rate(NEVER_DENIES, pyrate.Duration.SECOND)
    return pyrate.Limiter(rate if kind == "log" else pyrate.StateBucket([rate]))


def headway_limits(using: str) -> Contender:
    """`limit("k")` of headway."""

    def make() -> Mapping[str, Any]:
        limiter = headway_limiter(using)
        if not limiter.limit("k"):
            raise RuntimeError(f"headway {using} denies what this benchmark wants admitted")
        return {"limit": limiter.limit}

    return Contender(f"headway {using}", HEADWAY, 'limit("k")', make)


def throttled_limits(using: str) -> Contender:
    """`limit("k")` of throttled-py."""
    return Contender(
        f"throttled-py {using}",
        PEER,
        'limit("k")',
        lambda: {"limit": throttled_limiter(using).limit},
    )


def limits_hits(label: str, strategy_name: str, note: str = "") -> Contender:
    """`hit(item, "k")` of limits."""

    def make() -> Mapping[str, Any]:
        strategy, item = limits_strategy(strategy_name)
        return {"hit": strategy.hit, "item": item}

    return Contender(f"limits {label}", PEER, 'hit(item, "k")', make, note)


def pyrate_acquires(kind: str, note: str = "") -> Contender:
    """`try_acquire("k", blocking=False)` of pyrate-limiter."""

    def make() -> Mapping[str, Any]:
        limiter = pyrate_limiter_(kind)
        return {"acquire": limiter.try_acquire, "close": limiter.close}

    return Contender(f"pyrate-limiter {kind}", PEER, 'acquire("k", blocking=False)', make, note)


def token_bucket_consumes() -> Contender:
    """`consume("k")` of token-bucket."""
    return Contender(
        "token-bucket",
        PEER,
        'consume("k")',
        lambda: {"consume": token_bucket_limiter().consume},
        "takes no lock",
    )


def allowed_calls() -> list[Contender]:
    """One admitted call on one key, for each algorithm of what is installed."""
    found: list[Contender] = []
    if has("headway"):
        found += [headway_limits(using) for using in ALGORITHMS]
    if has("token-bucket"):
        found.append(token_bucket_consumes())
    if has("limits"):
        found.append(limits_hits("fixed window", "FixedWindowRateLimiter"))
        found.append(
            limits_hits(
                "moving window",
                "MovingWindowRateLimiter",
                "grows with its entries: fresh each batch",
            )
        )
        found.append(limits_hits("sliding counter", "SlidingWindowCounterRateLimiter"))
    if has("throttled-py"):
        found += [throttled_limits(using) for using in ALGORITHMS]
    if has("pyrate-limiter"):
        found.append(pyrate_acquires("state"))
        found.append(
            pyrate_acquires("log", "its default; grows with its entries: fresh each batch")
        )
    return found

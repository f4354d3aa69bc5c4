"""What is known of a limit: the status that users read, its dimensions, and a bucket of tokens.

All times are timezone-aware and in UTC. A naive time is taken for UTC, and one of another zone is
converted, so that two times can always be compared.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta, timezone
from fractions import Fraction

from headway.smartratelimit._arguments import invalid

__all__ = [
    "REQUESTS",
    "LimitDimension",
    "RateLimit",
    "RateLimitStatus",
    "TokenBucket",
    "utcnow",
]

REQUESTS = "requests"
"""The dimension that every API limits: one unit for each request."""

_MICROSECOND = timedelta(microseconds=1)


def utcnow() -> datetime:
    """The time now, timezone-aware."""
    return datetime.now(timezone.utc)


def in_utc(name: str, value: datetime) -> datetime:
    """Return the same instant in UTC; a naive time is in UTC already."""
    if not isinstance(value, datetime):
        invalid(name, value, "a datetime")
    if value.tzinfo is None:
        return value.replace(tzinfo=timezone.utc)
    return value.astimezone(timezone.utc)


@dataclass
class LimitDimension:
    """One axis of a limit: requests, tokens, requests of a day.

    A request must fit in every dimension that it spends.
    """

    name: str
    limit: int
    remaining: int
    reset_time: datetime
    window: timedelta
    confidence: str = "confirmed"

    def __post_init__(self) -> None:
        self.reset_time = in_utc("reset_time", self.reset_time)


@dataclass
class RateLimitStatus:
    """What is known of the limit of an endpoint."""

    endpoint: str
    limit: int
    remaining: int
    reset_time: datetime | None = None
    window: timedelta | None = None
    confidence: str = "confirmed"
    """`confirmed`: by the server; `estimated`: it named no window; `configured`: by the user;
    `registry`: by a provider's profile, until the server says something."""
    dimensions: dict[str, LimitDimension] = field(default_factory=dict)
    """Every dimension by its name, `requests` included."""

    def __post_init__(self) -> None:
        if self.reset_time is not None:
            self.reset_time = in_utc("reset_time", self.reset_time)

    @property
    def reset_in(self) -> float | None:
        """Seconds until the limit resets, 0 when that has passed; None where it is not known."""
        if self.reset_time is None:
            return None
        return max(0.0, (self.reset_time - utcnow()).total_seconds())

    @property
    def is_exceeded(self) -> bool:
        """Whether nothing remains."""
        return self.remaining <= 0

    @property
    def utilization(self) -> float:
        """The share of the limit that is used, from 0.0 to 1.0."""
        if self.limit <= 0 or self.remaining <= 0:
            return 1.0
        if self.remaining >= self.limit:
            return 0.0
        return 1.0 - self.remaining / self.limit


@dataclass
class RateLimit:
    """The limits of one scope; the flat fields are those of its `requests` dimension."""

    endpoint: str
    limit: int
    remaining: int
    reset_time: datetime
    window: timedelta
    last_updated: datetime = field(default_factory=utcnow)
    confidence: str = "confirmed"
    dimensions: dict[str, LimitDimension] = field(default_factory=dict)
    """The dimensions besides `requests`, by name."""

    def __post_init__(self) -> None:
        self.reset_time = in_utc("reset_time", self.reset_time)
        self.last_updated = in_utc("last_updated", self.last_updated)

    def all_dimensions(self) -> Iterator[LimitDimension]:
        """Every dimension, `requests` first."""
        yield LimitDimension(
            REQUESTS, self.limit, self.remaining, self.reset_time, self.window, self.confidence
        )
        yield from self.dimensions.values()

    def dimension(self, name: str) -> LimitDimension | None:
        """The dimension of that name, or None."""
        if name == REQUESTS:
            return next(self.all_dimensions())
        return self.dimensions.get(name)

    def with_dimension(self, dimension: LimitDimension) -> "RateLimit":
        """A copy, updated now, in which `dimension` is added or replaced."""
        if dimension.name != REQUESTS:
            merged = {**self.dimensions, dimension.name: dimension}
            return replace(self, dimensions=merged, last_updated=utcnow())
        return RateLimit(
            endpoint=self.endpoint,
            limit=dimension.limit,
            remaining=dimension.remaining,
            reset_time=dimension.reset_time,
            window=dimension.window,
            confidence=dimension.confidence,
            dimensions=dict(self.dimensions),
        )

    def to_status(self) -> RateLimitStatus:
        """What users see of it: a copy, whose dimensions are copies too."""
        return RateLimitStatus(
            endpoint=self.endpoint,
            limit=self.limit,
            remaining=self.remaining,
            reset_time=self.reset_time,
            window=self.window,
            confidence=self.confidence,
            dimensions={found.name: replace(found) for found in self.all_dimensions()},
        )


class TokenBucket:
    """A bucket of `capacity` tokens that fills by `refill_rate` a second.

    The tokens are kept as a fraction, so nothing is rounded however many calls there are; what is
    read from `tokens` is the nearest float. It is a value to look at and to compute with, for one
    thread. To limit calls use `headway.TokenBucket`, whose arithmetic is the same.
    """

    __match_args__ = ("capacity", "tokens", "refill_rate", "last_update")
    __hash__ = None  # type: ignore[assignment] # it changes

    def __init__(
        self,
        capacity: float,
        tokens: float,
        refill_rate: float,
        last_update: datetime | None = None,
    ) -> None:
        self.capacity = capacity
        self.tokens = tokens
        self.refill_rate = refill_rate
        self.last_update = utcnow() if last_update is None else last_update

    @property
    def capacity(self) -> float:
        """What the bucket holds."""
        return float(self._capacity)

    @capacity.setter
    def capacity(self, value: float) -> None:
        self._capacity = _exact("capacity", value, least=0)
        self._tokens = min(getattr(self, "_tokens", self._capacity), self._capacity)

    @property
    def tokens(self) -> float:
        """What was in it at `last_update`: never above the capacity, below 0 if one set it so."""
        return float(self._tokens)

    @tokens.setter
    def tokens(self, value: float) -> None:
        self._tokens = min(_exact("tokens", value), self._capacity)

    @property
    def refill_rate(self) -> float:
        """Tokens a second; with 0 it never fills."""
        return float(self._rate)

    @refill_rate.setter
    def refill_rate(self, value: float) -> None:
        self._rate = _exact("refill_rate", value, least=0)

    @property
    def last_update(self) -> datetime:
        """The instant for which `tokens` was true."""
        return self._last_update

    @last_update.setter
    def last_update(self, value: datetime) -> None:
        self._last_update = in_utc("last_update", value)

    def refill(self, now: datetime | None = None) -> None:
        """Add what has come in until `now`. A time before `last_update` changes nothing."""
        instant = utcnow() if now is None else in_utc("now", now)
        microseconds = (instant - self._last_update) // _MICROSECOND
        if microseconds > 0:
            come_in = self._rate * Fraction(microseconds, 1_000_000)
            self._tokens = min(self._capacity, self._tokens + come_in)
            self._last_update = instant

    def consume(self, tokens: float = 1.0, now: datetime | None = None) -> bool:
        """Take `tokens` if they are there; else take nothing and return False."""
        wanted = _exact("tokens", tokens, least=0)
        self.refill(now)
        if self._tokens < wanted:
            return False
        self._tokens -= wanted
        return True

    def wait_time(self, tokens: float = 1.0, now: datetime | None = None) -> float:
        """Seconds until `tokens` are there, rounded up to a microsecond; inf: never.

        After that time they are there, if nobody takes any.
        """
        wanted = _exact("tokens", tokens, least=0)
        self.refill(now)
        if self._tokens >= wanted:
            return 0.0
        if self._rate == 0 or wanted > self._capacity:
            return math.inf
        return math.ceil((wanted - self._tokens) / self._rate * 1_000_000) / 1_000_000

    def reset(self) -> None:
        """Fill it."""
        self._tokens = self._capacity
        self._last_update = utcnow()

    def __repr__(self) -> str:
        return (
            f"TokenBucket(capacity={self.capacity!r}, tokens={self.tokens!r}, "
            f"refill_rate={self.refill_rate!r}, last_update={self.last_update!r})"
        )

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, TokenBucket):
            return NotImplemented
        return vars(self) == vars(other)


def _exact(name: str, value: object, least: float | None = None) -> Fraction:
    """Return what the number is exactly; a float is a fraction of a power of two."""
    bound = "a finite number" if least is None else f"a finite number, at least {least:g}"
    if not isinstance(value, (int, float, Fraction)) or isinstance(value, bool):
        invalid(name, value, bound)
    if isinstance(value, float) and not math.isfinite(value):
        invalid(name, value, bound)
    if least is not None and value < least:
        invalid(name, value, bound)
    return Fraction(value)

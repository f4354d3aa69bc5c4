"""choked's protocol: `GET /choked/acquire?key=…` is a call that needs requests and tokens.

Both limits are buckets that hold a capacity and refill at so many a second; a capacity of 0 is no
limit. Either what is needed is taken from both, and the answer is 200, or from none, and it is 429
with Retry-After, in whole seconds as HTTP has it, and Retry-After-Ms, which is exact. `timeout`
lets the service wait, which choked itself does not ask for. Buckets are kept as gcra, whose times
are exact; a call of no tokens counts as one of one.

A query says the same for every call of a function, so what it means is kept by its bytes.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from fractions import Fraction
from functools import partial
from urllib.parse import parse_qsl

from headway._core import AsyncThrottled, Quota, Rate
from headway.exceptions import DataError
from headway.serve.answers import JSON, Answer, Refused, failure
from headway.serve.asking import check_key, result_text, shown
from headway.serve.limiters import Kept, Limited
from headway.serve.tokens import Tenant

__all__ = ["Call", "Calls", "acquire", "settle"]

MOST_QUERY = 8192
_MOST_KEPT = 1024
"""Bytes of a query that is kept."""
_MOST_FIELDS = 16
_MOST = 10**12
_PERIOD_MAX_S = 3650 * 86400


@dataclass(slots=True)
class Call:
    """A query, checked."""

    tenant: Tenant
    key: str
    limited: Limited | None
    """None where there is nothing to be taken."""
    cost: int
    timeout: float | None
    token_rule: int | None
    """Which rule of the limiter counts tokens."""
    surplus: int


class Calls:
    """The queries of late, by their bytes."""

    def __init__(self, max_wait: float) -> None:
        self._max_wait = max_wait
        self._known: Kept[Call] = Kept()

    def read(self, tenant: Tenant, query: bytes) -> Call:
        """Return what a query asks for. Raises Refused or DataError naming the parameter."""
        ident = (tenant, query)
        call = self._known.get(ident)
        if call is None:
            if len(query) > MOST_QUERY:
                raise Refused.because(414, f"The query is longer than {MOST_QUERY} bytes.")
            call = _read(tenant, query, self._max_wait)
            if len(query) <= _MOST_KEPT:
                self._known.put(ident, call)
        return call

    def forget(self) -> None:
        """Forget all, since tenants may have gone."""
        self._known.forget()


async def acquire(call: Call) -> Answer:
    """Take what a call needs. Raises StoreUnavailableError."""
    limited = call.limited
    if limited is None:
        return _NOTHING_TO_TAKE
    result = await limited.limit(call.tenant.activity, call.key, call.cost, call.timeout)
    body = result_text(result)
    if not result.limited:
        return Answer(200, body, JSON, call.cost > 0)
    retry_after = result.state.retry_after
    if math.isinf(retry_after):
        return failure(400, "The call needs more than the bucket can ever hold.")
    headers = (
        *JSON,
        (b"retry-after", b"%d" % math.ceil(retry_after)),
        (b"retry-after-ms", b"%d" % math.ceil(retry_after * 1000)),
    )
    return Answer(429, body, headers)


async def settle(call: Call) -> Answer:
    """Give back tokens that a call did not need, or charge what it needed more."""
    if call.limited is not None and call.token_rule is not None and call.surplus:
        call.limited.limiter._settle(call.key, call.token_rule, call.surplus)
    return Answer(200, b"{}", charged=True)


_NOTHING_TO_TAKE = Answer(200, b'{"limited": false}')


def _read(tenant: Tenant, query: bytes, max_wait: float) -> Call:
    try:
        pairs = parse_qsl(
            query.decode("ascii"),
            keep_blank_values=True,
            strict_parsing=bool(query),
            errors="strict",
            max_num_fields=_MOST_FIELDS,
        )
    except ValueError:  # UnicodeError is one
        raise DataError("The query is not one, has too many fields, or is no UTF-8.") from None
    fields = dict(pairs)
    if len(fields) < len(pairs):
        twice = next(name for name, _ in pairs if [n for n, _ in pairs].count(name) > 1)
        raise DataError(f"Invalid {shown(twice)}: given more than once.")
    key = fields.get("key", "")
    check_key(key)
    requests = _bucket(fields, "request", 1)
    tokens = _bucket(fields, "token", 0)
    # A client that would wait for longer asks again; it need not know how long is kept here.
    timeout = min(_number(fields, "timeout", 0.0, _PERIOD_MAX_S), max_wait)
    surplus = _integer(fields, "surplus", 0, -_MOST, _MOST)
    limited, cost, token_rule = _limited(tenant, requests, tokens)
    return Call(tenant, key, limited, cost, timeout or None, token_rule, surplus)


def _bucket(fields: dict[str, str], kind: str, needs: int) -> tuple[Quota | None, int]:
    """Return the quota of a bucket, None for no limit, and what is needed of it."""
    capacity = _integer(fields, f"{kind}_capacity", 0, 0, _MOST)
    rate = _number(fields, f"{kind}_refill_rate", 0.0, _MOST * 1e6)
    needed = _integer(fields, f"{kind}s_needed", needs if capacity else 0, 0, _MOST)
    if not capacity:
        if needed:
            raise DataError(
                f"Invalid {kind}s_needed: {needed}, must be 0 where {kind}_capacity is 0."
            )
        return None, 0
    if needed > capacity:
        raise DataError(
            f"Invalid {kind}s_needed: {needed}, the bucket never holds more than {capacity}."
        )
    return _quota(kind, capacity, rate), needed


def _quota(kind: str, capacity: int, rate: float) -> Quota:
    """Return the bucket of a capacity and a rate: exactly, where microseconds can say it."""
    if rate <= 0 or not 1 <= capacity / rate * 1_000_000 <= _PERIOD_MAX_S * 1_000_000:
        raise DataError(
            f"Invalid {kind}_refill_rate: {rate:g}, must be a number a second that fills "
            f"{kind}_capacity in a microsecond at least and 3650 days at most."
        )
    period_us = capacity / rate * 1_000_000
    whole = round(period_us)
    limit = capacity
    if abs(period_us - whole) > 1e-9 * period_us:
        exact = Fraction(rate).limit_denominator(1_000_000)
        if abs(exact - rate) <= 1e-12 * rate and exact.numerator <= _MOST:
            limit, whole = exact.numerator, exact.denominator * 1_000_000
    return Quota(Rate(timedelta(microseconds=whole), limit), capacity)


def _limited(
    tenant: Tenant, requests: tuple[Quota | None, int], tokens: tuple[Quota | None, int]
) -> tuple[Limited | None, int, int | None]:
    """Return the limiter of a call, its cost, and which rule counts tokens."""
    (calls, n), (words, m) = requests, tokens
    rules = tuple(rule for rule in (calls, words) if rule is not None)
    token_rule = None if words is None else len(rules) - 1
    if not rules or not n + m:
        return None, 0, token_rule
    if len(rules) == 1:
        return _limiter(tenant, rules, None), n + m, token_rule
    m = max(m, 1)
    if n == m:
        return _limiter(tenant, rules, None), n, token_rule
    if n == 1:
        return _limiter(tenant, rules, 0), m, token_rule
    if m == 1 and n:
        return _limiter(tenant, rules, 1), n, token_rule
    raise DataError(
        f"Invalid requests_needed: {n}, must be 1 where tokens are limited too and more of them "
        "are needed."
    )


def _limiter(tenant: Tenant, rules: tuple[Quota, ...], of_one: int | None) -> Limited:
    """Return the limiter of some rules, of which rule `of_one` takes 1 of every call."""
    ident = ("choked", of_one, *map(str, rules))
    make: Callable[[], tuple[str, tuple[Quota, ...]]] = partial(_gcra, rules)
    limited = tenant.limiters.get(ident, make)
    limiter: AsyncThrottled = limited.limiter
    if of_one is not None:
        limiter._charge_per_call(of_one)  # says the same each time
    return limited


def _gcra(rules: tuple[Quota, ...]) -> tuple[str, tuple[Quota, ...]]:
    return "gcra", rules


def _integer(fields: dict[str, str], name: str, default: int, least: int, most: int) -> int:
    text = fields.get(name)
    if text is None:
        return default
    value = _real(text)
    # "5.0" is 5 too: a client may count in floats.
    if not least <= value <= most or not value.is_integer():
        raise DataError(
            f"Invalid {name}: {shown(text)}, must be an integer from {least} to {most}."
        )
    return int(value)


def _number(fields: dict[str, str], name: str, default: float, most: float) -> float:
    text = fields.get(name)
    if text is None:
        return default
    value = _real(text)
    if not 0 <= value <= most:
        raise DataError(f"Invalid {name}: {shown(text)}, must be a number from 0 to {most:g}.")
    return value


def _real(text: str) -> float:
    """Read a number; NaN, which is in no range, for what is none. Integers to 10^15 are exact."""
    try:
        return float(text) if len(text) <= 40 and text.isascii() and "_" not in text else math.nan
    except ValueError:
        return math.nan

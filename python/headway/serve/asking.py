"""The JSON API: a question in an object, its answer in another.

    POST /v1/limit   {"key": "alice", "quota": "100/m", "cost": 1, "using": "gcra", "timeout": 2.5}
    POST /v1/peek    {"key": "alice", "quota": "100/m"}
    POST /v1/reset   {"key": "alice", "quota": "100/m"}

or {"requests": [...]} of up to `MOST_IN_BATCH` such objects, answered by {"results": [...]}. All of
a batch is checked before any of it is decided. Where the store fails in the midst of a batch, what
it could not decide has {"error": ...} for a result.

Who is denied is answered by 200 and `"limited": true`: the question was answered. A number that is
infinite is null, such as `retry_after` of a cost that can never fit.
"""

from __future__ import annotations

import asyncio
import json
import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

from headway._core import ALGORITHMS, RateLimitResult, RateLimitState, parse_quota
from headway.exceptions import DataError, SetUpError, StoreUnavailableError
from headway.serve.answers import JSON, Answer, Refused, failure
from headway.serve.limiters import Kept, Limited
from headway.serve.tokens import Tenant, Tenants

__all__ = ["ANSWERED", "MOST_IN_BATCH", "MOST_KEY_BYTES", "Question", "Questions", "answer_all"]

MOST_IN_BATCH = 100
MOST_KEY_BYTES = 1024
_MOST_QUOTA = 256
_MOST_KEPT = 512
"""Bytes of a body that is kept."""
_COST_MAX = 10**12
_FIELDS = frozenset({"key", "quota", "cost", "using", "timeout", "tenant"})
_LOOKING = frozenset({"key", "quota", "using", "tenant"})
# Seconds are rounded to the nanosecond, which is what a state is kept in.
_ADMITTED = (
    b'{"limited": false, "limit": %d, "remaining": %d, "reset_after": %.9g, "retry_after": 0}'
)
_STATE = b'"limit": %d, "remaining": %d, "reset_after": %.9g, "retry_after": %.9g'
_NEVER = b'"limit": %d, "remaining": %d, "reset_after": %.9g, "retry_after": null'
_scan: Callable[[str, int], tuple[Any, int]] = json.JSONDecoder().scan_once  # type: ignore[attr-defined]


@dataclass(slots=True)
class Question:
    """One object of a request, checked."""

    tenant: Tenant
    limited: Limited
    key: str
    cost: int = 1
    timeout: float | None = None


class Questions:
    """Bodies become questions; those of late are kept by their bytes."""

    def __init__(self, max_wait: float) -> None:
        self._max_wait = max_wait
        self._known: Kept[Question] = Kept()

    def read(
        self, body: bytes, what: str, tenant: Tenant, tenants: Tenants | None
    ) -> Question | list[Question]:
        """Return the question of a body, or the list of a batch.

        `what` is limit, peek or reset; `tenants` are those that the asker may speak for, None for
        nobody but itself. Raises Refused, DataError or SetUpError naming what is wrong.
        """
        ident = (tenant, tenants is None, what, body)
        question = self._known.get(ident)
        if question is not None:
            return question
        data = _object(body)
        if "requests" in data:
            return _batch(data, what, tenant, tenants)
        question = _question(data, what, tenant, tenants, self._max_wait)
        if len(body) <= _MOST_KEPT:
            self._known.put(ident, question)
        return question

    def forget(self) -> None:
        """Forget all, since tenants may have gone."""
        self._known.forget()


def _batch(
    data: dict[str, Any], what: str, tenant: Tenant, tenants: Tenants | None
) -> list[Question]:
    many = data["requests"]
    if type(many) is not list or len(data) > 1:
        raise Refused.because(400, 'A batch is {"requests": [...]}, and nothing else.')
    if not 1 <= len(many) <= MOST_IN_BATCH:
        raise Refused.because(
            413 if many else 400,
            f"Invalid requests: {len(many)} of them, must be 1 to {MOST_IN_BATCH}.",
        )
    questions = []
    for number, one in enumerate(many):
        try:
            if type(one) is not dict:
                raise DataError("must be an object.")
            if "timeout" in one:
                raise DataError("Invalid timeout: a batch does not wait.")
            questions.append(_question(one, what, tenant, tenants, 0.0))
        except (DataError, SetUpError) as error:
            raise DataError(f"requests[{number}]: {error}") from None
    return questions


def _object(body: bytes) -> dict[str, Any]:
    try:
        text = body.decode()
        # As json.loads, which spends half its time on finding the encoding and blanks.
        data, end = _scan(text, 0) if text[:1] == "{" else (json.loads(text), len(text))
        if type(data) is dict and (end == len(text) or text[end:].strip(" \t\r\n") == ""):
            return data
    except (ValueError, RecursionError, StopIteration):
        pass
    raise Refused.because(400, "The body must be an object in JSON.")


def _question(
    data: dict[str, Any], what: str, tenant: Tenant, tenants: Tenants | None, max_wait: float
) -> Question:
    key, quota, using = data.get("key"), data.get("quota"), data.get("using", "token_bucket")
    fields = _FIELDS if what == "limit" else _LOOKING
    if not data.keys() <= fields:
        odd = ", ".join(repr(name[:40]) for name in sorted(data.keys() - fields)[:3])
        raise DataError(f"Unknown field: {odd}, must be one of {', '.join(sorted(fields))}.")
    check_key(key)
    if type(quota) is list and quota and all(type(rule) is str for rule in quota):
        quota = "; ".join(quota)
    if type(quota) is not str or not 0 < len(quota) <= _MOST_QUOTA:
        raise DataError(
            f"Invalid quota: {shown(quota)}, must be text such as '100/m burst 200', up to "
            f"{_MOST_QUOTA} characters."
        )
    if using not in ALGORITHMS:
        raise DataError(f"Invalid using: {shown(using)}, must be one of {', '.join(ALGORITHMS)}.")
    if "tenant" in data:
        tenant = _other(data["tenant"], tenant, tenants)
    limited = tenant.limiters.get((using, quota), partial(_rules, using, quota))
    question = Question(tenant, limited, str(key))
    if what == "limit":
        cost = data.get("cost", 1)
        if type(cost) is not int or not 0 <= cost <= _COST_MAX:
            raise DataError(
                f"Invalid cost: {shown(cost)}, must be an integer from 0 to {_COST_MAX}."
            )
        question.cost = cost
        timeout = data.get("timeout")
        if timeout is not None:
            question.timeout = _seconds(timeout, max_wait)
    return question


def _rules(using: str, quota: str) -> tuple[str, Any]:
    return using, parse_quota(quota)


def _other(name: object, tenant: Tenant, tenants: Tenants | None) -> Tenant:
    if name == tenant.name:
        return tenant
    other = tenants.by_name(name) if tenants is not None and isinstance(name, str) else None
    if other is None:
        # The same words whether there is such a tenant or not.
        raise Refused.because(403, f"Invalid tenant: {shown(name)}, this token may not speak for.")
    return other


def check_key(key: object) -> None:
    """Raise DataError where a key is empty, too long or no text."""
    if type(key) is str and key:
        # Most keys are short and ASCII, and need no encoding to be measured.
        if len(key) <= MOST_KEY_BYTES and key.isascii():
            return
        try:
            if len(key) <= MOST_KEY_BYTES and len(key.encode()) <= MOST_KEY_BYTES:
                return
        except UnicodeEncodeError:
            raise DataError("Invalid key: it holds half of a surrogate pair.") from None
    raise DataError(
        f"Invalid key: {shown(key)}, must be text of 1 to {MOST_KEY_BYTES} bytes in UTF-8."
    )


def shown(value: object) -> str:
    """Return a value as an error message quotes it, shortened."""
    text = ascii(value)
    return text if len(text) <= 60 else f"{text[:60]}…"


def _seconds(timeout: object, max_wait: float) -> float | None:
    if isinstance(timeout, (int, float)) and not isinstance(timeout, bool):
        if timeout == -1:
            return None
        if 0 < timeout <= max_wait:
            return float(timeout)
    raise DataError(
        f"Invalid timeout: {shown(timeout)}, must be seconds above 0, up to {max_wait:g}, or -1 "
        "to be told at once."
    )


_FAILED = failure(503, "The store cannot answer.")
"""In a batch of which other questions were decided."""


async def answer_all(questions: list[Question], what: str) -> Answer:
    """Decide a batch. Raises StoreUnavailableError where the store has decided none of it."""
    # Together: on a server they are one write.
    asked = [ANSWERED[what](question) for question in questions]
    done = await asyncio.gather(*asked, return_exceptions=True)
    answers: list[Answer] = []
    failed: StoreUnavailableError | None = None
    for one in done:
        if isinstance(one, StoreUnavailableError):
            failed = one
            answers.append(_FAILED)
        elif isinstance(one, BaseException):
            raise one
        else:
            answers.append(one)
    charged = any(one.charged for one in answers)
    if failed is not None and not charged:
        raise failed
    # What was charged must be answered, and remembered, beside what the store could not decide.
    body = b'{"results": [' + b", ".join(one.body for one in answers) + b"]}"
    return Answer(200, body, charged=charged)


async def limit(question: Question) -> Answer:
    """Decide, waiting for its turn where the question says so. Raises StoreUnavailableError."""
    result = await question.limited.limit(
        question.tenant.activity, question.key, question.cost, question.timeout
    )
    return Answer(200, result_text(result), JSON, not result.limited and question.cost > 0)


async def _peek(question: Question) -> Answer:
    state = await question.limited.limiter.peek(question.key)
    return Answer(200, b"{" + _state_text(state) + b"}")


async def _reset(question: Question) -> Answer:
    limited = question.limited
    await limited.limiter.reset(question.key)
    who = (question.key, limited.algorithm, limited.quota, limited.store)
    question.tenant.activity.reset(*who)
    return Answer(200, b'{"reset": true}')


ANSWERED = {"limit": limit, "peek": _peek, "reset": _reset}
"""What answers a question, by the name of what is asked."""


def result_text(result: RateLimitResult) -> bytes:
    """Return a decision in JSON."""
    state = result.state
    if not result.limited:
        return _ADMITTED % (state.limit, state.remaining, state.reset_after)
    return b'{"limited": true, ' + _state_text(state) + b"}"


def _state_text(state: RateLimitState) -> bytes:
    numbers = (state.limit, state.remaining, state.reset_after)
    if state.retry_after == math.inf:
        return _NEVER % numbers
    return _STATE % (*numbers, state.retry_after)

"""What a decision is made of: RateLimitState, RateLimitResult and the exceptions, as plain
immutable values.
"""

from __future__ import annotations

import copy
import pickle
from typing import Any

import pytest

import headway
from headway import RateLimitResult, RateLimitState, Throttled, per_min
from headway.exceptions import (
    BaseThrottledError,
    DataError,
    LimitedError,
    SetUpError,
    StoreUnavailableError,
)

STATE = RateLimitState(limit=60, remaining=59, reset_after=1, retry_after=0)
DENIED = RateLimitResult(limited=True, state=RateLimitState(1, 0, 60, 60))
ALLOWED = RateLimitResult(limited=False, state=STATE)


@Throttled(key="ping", quota=per_min(2), store=headway.MemoryStore())
def ping(word: str = "ping") -> str:
    return word


def test_a_state_prints_as_the_document_shows_it() -> None:
    assert repr(STATE) == "RateLimitState(limit=60, remaining=59, reset_after=1, retry_after=0)"
    assert repr(ALLOWED) == (
        "RateLimitResult(limited=False, "
        "state=RateLimitState(limit=60, remaining=59, reset_after=1, retry_after=0))"
    )


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [(0, "0"), (1.0, "1"), (60.0, "60"), (0.01, "0.01"), (1.5, "1.5"), (float("inf"), "inf")],
)
def test_whole_seconds_are_printed_without_a_fraction(seconds: float, shown: str) -> None:
    assert f"reset_after={shown}, retry_after={shown})" in repr(
        RateLimitState(1, 0, seconds, seconds)
    )


def test_the_fields_are_what_was_given() -> None:
    state = RateLimitState(10, 4, 2.5, 0.25)
    assert (state.limit, state.remaining) == (10, 4)
    assert (state.reset_after, state.retry_after) == (2.5, 0.25)
    assert RateLimitState(10, 4, 2.5).retry_after == 0
    result = RateLimitResult(True, state)
    assert result.limited is True
    assert result.state == state
    assert RateLimitResult(limited=False, state=state).limited is False


def test_a_result_is_true_when_the_request_is_allowed() -> None:
    assert bool(ALLOWED) is True
    assert bool(DENIED) is False


def test_a_real_decision_equals_the_same_decision_made_by_hand() -> None:
    throttle = Throttled(store=headway.MemoryStore(clock=headway.VirtualClock()))
    result = throttle.limit("key")
    assert result == ALLOWED
    assert hash(result) == hash(ALLOWED)
    assert result.state == STATE
    assert result.state is result.state or result.state == result.state
    assert repr(result) == repr(ALLOWED)


def test_an_old_result_keeps_its_values_when_later_calls_are_made() -> None:
    throttle = Throttled(store=headway.MemoryStore(clock=headway.VirtualClock()))
    first = throttle.limit("key")
    held = [throttle.limit("key") for _ in range(100)]
    assert first == ALLOWED
    assert [result.state.remaining for result in held[:59]] == list(range(58, -1, -1))
    assert [result.limited for result in held] == [False] * 59 + [True] * 41


@pytest.mark.parametrize("value", [STATE, ALLOWED, DENIED, DENIED.state])
def test_a_value_is_immutable_and_survives_pickle_and_copy(value: Any) -> None:
    for name in ("limit", "limited", "state", "remaining", "anything"):
        with pytest.raises(AttributeError):
            setattr(value, name, 1)
    copies = [pickle.loads(pickle.dumps(value, n)) for n in range(pickle.HIGHEST_PROTOCOL + 1)]
    for copied in [*copies, copy.copy(value), copy.deepcopy(value)]:
        assert copied == value
        assert hash(copied) == hash(value)
        assert repr(copied) == repr(value)


def test_values_compare_by_their_fields_and_with_nothing_else() -> None:
    same = RateLimitState(60, 59, 1.0, 0.0)
    assert same == STATE
    assert hash(same) == hash(STATE)
    for other in (
        RateLimitState(61, 59, 1, 0),
        RateLimitState(60, 58, 1, 0),
        RateLimitState(60, 59, 2, 0),
        RateLimitState(60, 59, 1, 1),
        ALLOWED,
        (60, 59, 1, 0),
        None,
    ):
        assert other != STATE
    assert ALLOWED != DENIED
    assert RateLimitResult(True, STATE) != RateLimitResult(False, STATE)
    assert len({STATE, RateLimitState(60, 59, 1, 0), DENIED.state}) == 2
    with pytest.raises(TypeError):
        sorted([STATE, DENIED.state])  # type: ignore[type-var]


def test_results_can_be_taken_apart_by_match() -> None:
    match DENIED:
        case RateLimitResult(True, RateLimitState(limit, remaining, reset, retry)):
            assert (limit, remaining, reset, retry) == (1, 0, 60, 60)
        case _:
            pytest.fail("a denial did not match")
    match ALLOWED:
        case RateLimitResult(limited=False, state=RateLimitState(remaining=59)):
            pass
        case _:
            pytest.fail("an admission did not match")


@pytest.mark.parametrize(
    "make",
    [
        lambda: RateLimitState(),  # type: ignore[call-arg]
        lambda: RateLimitState(1, 2),  # type: ignore[call-arg]
        lambda: RateLimitState("1", 2, 3),  # type: ignore[arg-type]
        lambda: RateLimitState(1, 2, "3"),  # type: ignore[arg-type]
        lambda: RateLimitState(1, 2, 3, 4, 5),  # type: ignore[call-arg]
        lambda: RateLimitResult(True),  # type: ignore[call-arg]
        lambda: RateLimitResult(True, "state"),  # type: ignore[arg-type]
    ],
)
def test_a_value_made_of_the_wrong_things_is_refused(make: Any) -> None:
    with pytest.raises((TypeError, DataError)):
        make()


@pytest.mark.parametrize("kind", [SetUpError, DataError, StoreUnavailableError, LimitedError])
def test_every_exception_is_a_base_throttled_error(kind: type[BaseThrottledError]) -> None:
    assert issubclass(kind, BaseThrottledError)
    assert issubclass(kind, Exception)
    assert getattr(headway, kind.__name__) is kind


def test_limited_error_prints_what_the_document_shows_and_carries_the_result() -> None:
    error = LimitedError(rate_limit_result=DENIED)
    assert error.rate_limit_result == DENIED
    assert str(error) == "Rate limit exceeded: remaining=0, reset_after=60, retry_after=60."
    assert LimitedError().rate_limit_result is None
    assert str(LimitedError())


@pytest.mark.parametrize(
    "error",
    [
        SetUpError("unknown algorithm"),
        DataError("Invalid key: None, must be a non-empty key."),
        StoreUnavailableError("no answer"),
        LimitedError(rate_limit_result=DENIED),
        LimitedError(),
    ],
)
def test_an_exception_survives_pickle(error: BaseThrottledError) -> None:
    copied = pickle.loads(pickle.dumps(error))
    assert type(copied) is type(error)
    assert str(copied) == str(error)
    assert getattr(copied, "rate_limit_result", None) == getattr(error, "rate_limit_result", None)


def test_a_decorated_function_is_pickled_by_its_name() -> None:
    assert pickle.loads(pickle.dumps(ping)) is ping
    assert copy.copy(ping) is ping
    assert copy.deepcopy(ping) is ping


def test_a_throttled_and_a_store_say_what_they_are() -> None:
    store = headway.MemoryStore()
    assert "MemoryStore" in repr(store)
    assert "Throttled" in repr(Throttled(key="k", store=store))

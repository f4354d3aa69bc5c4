"""Bad input: the error that the contract names, with its exact message, before any state changes.

And the input that only looks bad: keys with NUL, emoji, lone surrogates or 64 KiB are keys like any
other.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest

from headway import MemoryStore, RateLimitState, Throttled, VirtualClock, per_min
from headway.algorithms import step
from headway.exceptions import DataError, SetUpError

KIB_64 = 64 * 1024
UNTOUCHED = RateLimitState(10, 7, 18, 0)


@pytest.fixture
def throttle(store: MemoryStore) -> Throttled:
    """A limiter whose key `key` has used 3 of 10."""
    throttle = Throttled(quota=per_min(10), store=store)
    throttle.limit("key", 3)
    assert throttle.peek("key") == UNTOUCHED
    return throttle


def refused(call: Callable[[], object], message: str | None = None) -> str:
    with pytest.raises(DataError) as caught:
        call()
    if message is not None:
        assert str(caught.value) == message
    return str(caught.value)


@pytest.mark.parametrize("key", ["", b""])
def test_an_empty_key_is_a_data_error(throttle: Throttled, key: str | bytes) -> None:
    message = f"Invalid key: {key!s}, must be a non-empty key." if key == "" else None
    for call in (throttle.limit, throttle.peek, throttle.reset):
        refused(lambda call=call: call(key), message)  # type: ignore[misc]
    assert len(throttle.store) == 1


def test_no_key_at_all_is_a_data_error(throttle: Throttled) -> None:
    message = "Invalid key: None, must be a non-empty key."
    refused(lambda: throttle.limit(), message)
    refused(lambda: throttle.limit(None), message)
    refused(lambda: throttle.peek(), message)
    refused(lambda: throttle.reset(), message)
    refused(throttle.__enter__, message)
    assert len(throttle.store) == 1


@pytest.mark.parametrize("key", [5, 1.5, ["key"], ("key",), bytearray(b"key"), object, True])
def test_a_key_of_another_type_is_a_data_error(throttle: Throttled, key: Any) -> None:
    for call in (throttle.limit, throttle.peek, throttle.reset):
        assert "key" in refused(lambda call=call: call(key))  # type: ignore[misc]
    assert len(throttle.store) == 1


ODD_KEYS: list[str | bytes] = [
    "\0",
    "nul\0inside",
    "nul\0inside too",
    "🚀",
    "é",
    "e\u0301",
    "\ud800",
    "\udfff",
    "lone \ud83d surrogate",
    "\U0010ffff",
    " ",
    "\n",
    "k" * KIB_64,
    "k" * (KIB_64 - 1) + "x",
    "é" * (KIB_64 // 2),
    "🚀" * (KIB_64 // 4),
    b"\xff\xfe",
    b"\x80" * KIB_64,
]


@pytest.mark.parametrize("key", ODD_KEYS, ids=lambda key: repr(key)[:20])
def test_an_odd_key_works_like_any_other(key: str | bytes, store: MemoryStore) -> None:
    throttle = Throttled(quota=per_min(2), store=store)
    assert [bool(throttle.limit(key)) for _ in range(3)] == [True, True, False]
    assert throttle.peek(key).remaining == 0
    throttle.reset(key)
    assert throttle.peek(key).remaining == 2


def test_odd_keys_are_all_different_keys(store: MemoryStore) -> None:
    throttle = Throttled(quota=per_min(1), store=store)
    for key in ODD_KEYS:
        assert throttle.limit(key), repr(key)[:40]
    for key in ODD_KEYS:
        assert not throttle.limit(key), repr(key)[:40]
    assert len(store) == len(ODD_KEYS)


@pytest.mark.parametrize(
    "key",
    ["k" * (KIB_64 + 1), b"k" * (KIB_64 + 1), "é" * (KIB_64 // 2) + "k", "🚀" * (KIB_64 // 4 + 1)],
    ids=["ascii", "bytes", "two bytes each", "four bytes each"],
)
def test_a_key_longer_than_64_kib_is_a_data_error(throttle: Throttled, key: str | bytes) -> None:
    for call in (throttle.limit, throttle.peek, throttle.reset):
        message = refused(lambda call=call: call(key))  # type: ignore[misc]
        assert "64 KiB" in message or "65536" in message or "65,536" in message
        assert len(message) < 500, "the message repeats the whole key"
    assert len(throttle.store) == 1


@pytest.mark.parametrize("text", ["plain", "nul\0", "é", "🚀" * 100, "k" * KIB_64])
def test_text_and_its_utf8_bytes_are_the_same_key(text: str, store: MemoryStore) -> None:
    throttle = Throttled(quota=per_min(2), store=store)
    assert throttle.limit(text)
    assert throttle.limit(text.encode())
    assert not throttle.limit(text)
    assert len(store) == 1


def test_equal_keys_of_different_string_objects_are_one_key(store: MemoryStore) -> None:
    class Name(str):
        def __hash__(self) -> int:
            raise RuntimeError("a store hashes text itself")

        def __eq__(self, other: object) -> bool:
            raise RuntimeError("a store compares text itself")

    throttle = Throttled(quota=per_min(3), store=store)
    for key in ("key", "".join(["k", "ey"]), Name("key")):
        assert throttle.limit(key)
    assert not throttle.limit("key")
    assert len(store) == 1


BAD_COSTS = [-1, -(10**30), 1.0, 1.5, "1", b"1", [], float("nan"), 2**63, 10**30]


@pytest.mark.parametrize("cost", BAD_COSTS, ids=repr)
def test_a_cost_that_is_no_count_is_a_data_error(throttle: Throttled, cost: Any) -> None:
    message = f"Invalid cost: {cost}, must be an integer greater than or equal to 0."
    if not isinstance(cost, int) or cost < 0:
        refused(lambda: throttle.limit("key", cost), message)
        refused(lambda: throttle.limit("key", cost=cost), message)
        refused(lambda: throttle.limit("new", cost), message)
    else:
        assert str(cost) in refused(lambda: throttle.limit("key", cost))
    assert "cost" in refused(lambda: Throttled(cost=cost))
    assert "cost" in refused(lambda: step(None, per_min(10), cost, 0))
    assert throttle.peek("key") == UNTOUCHED
    assert len(throttle.store) == 1


def test_a_bool_is_the_integer_that_python_says_it_is(throttle: Throttled) -> None:
    throttle.limit("key", True)
    throttle.limit("key", False)
    assert throttle.peek("key").remaining == 6


def test_a_cost_above_the_quota_is_denied_for_ever_and_not_an_error(throttle: Throttled) -> None:
    for cost in (11, 10**12):
        result = throttle.limit("key", cost)
        assert not result
        assert math.isinf(result.state.retry_after)
        assert result.state.remaining == 7
        assert not throttle.limit("key", cost, timeout=3600)
    assert throttle.peek("key") == UNTOUCHED


BAD_TIMEOUTS = [0, 0.0, -0.5, -2, -math.inf, math.nan, "1", b"1", [], -1.5]


@pytest.mark.parametrize("timeout", BAD_TIMEOUTS, ids=repr)
def test_a_timeout_that_is_no_duration_is_a_data_error(throttle: Throttled, timeout: Any) -> None:
    message = f"Invalid timeout: {timeout}, must be a positive float or -1(non-blocking)."
    refused(lambda: throttle.limit("key", timeout=timeout), message)
    refused(lambda: throttle.limit("key", 1, timeout), message)
    refused(lambda: throttle.limit("key", 11, timeout=timeout), message)
    refused(lambda: Throttled(timeout=timeout), message)
    assert throttle.peek("key") == UNTOUCHED


@pytest.mark.parametrize("timeout", [-1, -1.0, 1, 0.001, 10**9, 1e300, math.inf, None])
def test_a_timeout_that_is_a_duration_or_minus_one_is_taken(
    throttle: Throttled, timeout: Any
) -> None:
    assert throttle.limit("key", timeout=timeout)
    assert Throttled(key="key", timeout=timeout, store=throttle.store).limit()
    assert throttle.peek("key").remaining == 5


@pytest.mark.parametrize("prefix", ["", " ", "\t\n", ":", ":a", "a:", ":a:", 5, b"bytes"])
def test_a_prefix_that_makes_no_key_is_a_data_error(prefix: Any) -> None:
    assert "key_prefix" in refused(lambda: Throttled(key_prefix=prefix))


@pytest.mark.parametrize("prefix", ["headway", "a:b", "é", "🚀", " a"])
def test_any_other_prefix_is_taken(prefix: str, store: MemoryStore) -> None:
    throttle = Throttled(key_prefix=prefix, quota=per_min(1), store=store)
    assert throttle.key_prefix == prefix
    assert throttle.limit("key")
    assert not throttle.limit("key")


@pytest.mark.parametrize("quota", ["", "fast", "0/s", [], ["1/s", "x"], 5, [5], b"1/s", {}, [[]]])
def test_a_quota_that_is_none_is_a_data_error(quota: Any) -> None:
    with pytest.raises(DataError):
        Throttled(quota=quota)
    with pytest.raises(DataError):
        step(None, quota, 1, 0)


def test_more_rules_than_a_quota_can_hold_are_a_data_error() -> None:
    assert "16" in refused(lambda: Throttled(quota="; ".join(["1/s"] * 17)))
    assert "16" in refused(lambda: Throttled(quota=[per_min(1)] * 17))
    assert Throttled(quota=[per_min(1)] * 16).limit("key")


@pytest.mark.parametrize("made", [None, "fast", 5, []])
def test_a_quota_function_that_gives_no_quota_is_a_data_error(
    store: MemoryStore, made: Any
) -> None:
    throttle = Throttled(quota=lambda key: made, store=store)
    refused(lambda: throttle.limit("key"))
    refused(lambda: throttle.peek("key"))
    assert len(store) == 0


@pytest.mark.parametrize("now_ns", [-1, -(2**63), 2**62, 2**63, 10**30, 1.5, "0", None])
def test_an_instant_outside_the_clock_is_refused(now_ns: Any) -> None:
    with pytest.raises((DataError, TypeError)):
        step(None, per_min(1), 1, now_ns)
    with pytest.raises((DataError, TypeError)):
        VirtualClock(now_ns=now_ns)
    clock = VirtualClock(now_ns=7)
    with pytest.raises((DataError, TypeError)):
        clock.set(now_ns)
    assert clock.now_ns == 7


@pytest.mark.parametrize("seconds", [-1, math.nan, math.inf, -math.inf, 1e300, "1", None])
def test_a_virtual_clock_refuses_to_go_back_or_nowhere(seconds: Any) -> None:
    clock = VirtualClock(now_ns=7)
    with pytest.raises((DataError, TypeError)):
        clock.advance(seconds)
    with pytest.raises((DataError, TypeError)):
        clock.advance(ns=-1)
    with pytest.raises((DataError, TypeError)):
        clock.advance(ns=2**62)
    assert clock.now_ns == 7


@pytest.mark.parametrize("state", ["text", 5, bytearray(24), [b""]])
def test_a_state_that_is_no_bytes_is_refused(state: Any) -> None:
    with pytest.raises((DataError, TypeError)):
        step(state, per_min(1), 1, 0)


@pytest.mark.parametrize("state", [b"", b"x", b"x" * 7, b"x" * 1000])
def test_a_state_of_another_length_is_a_data_error(state: bytes) -> None:
    refused(lambda: step(state, per_min(1), 1, 0))


def test_step_knows_the_algorithms_by_name() -> None:
    with pytest.raises(SetUpError, match="gcra"):
        step(None, per_min(1), 1, 0, using="leaky")


def test_arguments_that_do_not_exist_are_type_errors(throttle: Throttled) -> None:
    calls: list[Callable[[], object]] = [
        lambda: throttle.limit("key", 1, None, None),  # type: ignore[call-arg]
        lambda: throttle.limit("key", costs=1),  # type: ignore[call-arg]
        lambda: throttle.limit("key", 1, cost=1),  # type: ignore[misc]
        lambda: throttle.limit("key", key="key"),  # type: ignore[misc]
        lambda: throttle.peek("key", 1),  # type: ignore[call-arg]
        lambda: Throttled(keys="key"),  # type: ignore[call-arg]
        lambda: throttle(5),  # type: ignore[arg-type]
        lambda: VirtualClock(1, 2),  # type: ignore[call-arg]
    ]
    for call in calls:
        with pytest.raises((TypeError, DataError)):
            call()
    assert throttle.peek("key") == UNTOUCHED


@pytest.mark.parametrize("store", [5, object(), "ftp://host", "memory:/", "redis"])
def test_a_store_that_is_none_is_refused_with_its_value(store: Any) -> None:
    with pytest.raises((SetUpError, DataError, TypeError)) as caught:
        Throttled(store=store)
    assert len(str(caught.value)) > 20


class Whole:
    """What NumPy's integers and others offer: __index__ and nothing else."""

    def __init__(self, value: int) -> None:
        self.value = value

    def __index__(self) -> int:
        return self.value

    def __repr__(self) -> str:
        return f"Whole({self.value})"


class Real:
    """What decimals and NumPy's floats offer: __float__."""

    def __float__(self) -> float:
        return 0.25


class Broken:
    """Its conversion fails with an error of its own."""

    def __index__(self) -> int:
        raise ZeroDivisionError("own")


def test_whatever_is_an_integer_is_one(throttle: Throttled) -> None:
    assert throttle.limit("key", Whole(2)).state.remaining == 5  # type: ignore[arg-type]
    refused(
        lambda: throttle.limit("key", Whole(-1)),  # type: ignore[arg-type]
        "Invalid cost: Whole(-1), must be an integer greater than or equal to 0.",
    )
    refused(lambda: throttle.limit("key", Whole(2**63)))  # type: ignore[arg-type]
    with pytest.raises(ZeroDivisionError, match="own"):
        throttle.limit("key", Broken())  # type: ignore[arg-type]
    assert throttle.peek("key").remaining == 5
    assert per_min(Whole(10)) == per_min(10)  # type: ignore[arg-type]
    assert VirtualClock(Whole(5)).now_ns == 5  # type: ignore[arg-type]
    assert MemoryStore(options={"MAX_SIZE": Whole(7)}).max_size == 7


def test_a_timeout_is_any_real_number_but_no_truth_value(throttle: Throttled) -> None:
    for timeout in (Real(), Whole(1)):
        assert throttle.limit("key", timeout=timeout)  # type: ignore[arg-type]
    for truth in (True, False):
        refused(
            lambda truth=truth: throttle.limit("key", timeout=truth),
            f"Invalid timeout: {truth}, must be a positive float or -1(non-blocking).",
        )
    with pytest.raises(ZeroDivisionError, match="own"):
        throttle.limit("key", timeout=Broken())  # type: ignore[arg-type]


def test_options_that_change_while_they_are_read_do_no_harm() -> None:
    class Clearing:
        def __index__(self) -> int:
            options.clear()
            return 5

    options: dict[Any, Any] = {"MAX_SIZE": Clearing(), "ON_FULL": "deny"}
    assert MemoryStore(options=options).max_size == 5

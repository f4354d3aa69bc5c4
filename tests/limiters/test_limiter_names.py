"""What a name stands for, where its state lives, and what is refused: limiters of one name share,
the first definition holds, and a bad value is named.
"""

from __future__ import annotations

import gc
import logging
import math
from collections.abc import Callable
from typing import Any

import pytest

import headway
from headway import MemoryStore
from headway.exceptions import BaseThrottledError, SetUpError
from headway.limiters import (
    AsyncSemaphore,
    AsyncTokenBucket,
    MaxSleepExceededError,
    SyncSemaphore,
    SyncTokenBucket,
)

SECRET = "hunter2"
SEMAPHORES = [SyncSemaphore, AsyncSemaphore]
BUCKETS = [SyncTokenBucket, AsyncTokenBucket]
BUCKET = {"capacity": 5, "refill_frequency": 1.0, "refill_amount": 1}


def build(kind: Any, name: Any, **options: Any) -> Any:
    """A limiter of any kind, of capacity 5 unless told otherwise."""
    values = BUCKET if kind in BUCKETS else {"capacity": 5}
    return kind(name=name, **{**values, **options})


def logged(caplog: pytest.LogCaptureFixture, level: int) -> list[str]:
    """What was said at a level, in order."""
    return [record.getMessage() for record in caplog.records if record.levelno == level]


every_kind = pytest.mark.parametrize("kind", [*SEMAPHORES, *BUCKETS])


class TestSharing:
    def test_semaphores_of_one_name_share_their_permits(
        self, name: str, store: MemoryStore
    ) -> None:
        with build(SyncSemaphore, name, connection=store):
            other = build(AsyncSemaphore, name, connection=store)
            assert other._pool.held == 1

    def test_semaphores_of_other_names_or_stores_do_not(
        self, name: str, store: MemoryStore
    ) -> None:
        with build(SyncSemaphore, name, connection=store):
            for other in (
                build(SyncSemaphore, name + "'", connection=store),
                build(SyncSemaphore, name, connection=MemoryStore()),
                build(SyncSemaphore, name),
            ):
                assert other._pool.held == 0

    def test_a_permit_that_is_held_outlives_the_semaphore_it_was_taken_from(
        self, name: str, store: MemoryStore
    ) -> None:
        build(SyncSemaphore, name, connection=store).__enter__()
        gc.collect()
        assert build(SyncSemaphore, name, connection=store)._pool.held == 1

    @every_kind
    def test_without_a_connection_the_whole_process_shares(self, kind: Any, name: str) -> None:
        one, other = build(kind, name), build(kind, name, connection="memory://")
        if kind in SEMAPHORES:
            assert one._pool is other._pool
        else:
            assert one.store is other.store

    def test_a_semaphore_and_a_bucket_of_one_name_do_not_meet(
        self, name: str, store: MemoryStore, caplog: pytest.LogCaptureFixture
    ) -> None:
        with build(SyncSemaphore, name, capacity=1, connection=store):
            with build(SyncTokenBucket, name, connection=store):
                pass
        assert logged(caplog, logging.WARNING) == []


class TestTwoDefinitions:
    @pytest.mark.parametrize("kind", SEMAPHORES)
    def test_the_first_capacity_of_a_semaphore_holds(
        self, kind: Any, name: str, store: MemoryStore, caplog: pytest.LogCaptureFixture
    ) -> None:
        build(kind, name, capacity=2, connection=store)
        first = build(kind, name, capacity=2, connection=store)
        second = build(kind, name, capacity=7, connection=store)
        assert first.capacity == second.capacity == 2
        (warning,) = logged(caplog, logging.WARNING)
        for part in (name, "capacity=2", "capacity=7", "test_limiter_names.py:"):
            assert part in warning

    @pytest.mark.parametrize("kind", BUCKETS)
    @pytest.mark.parametrize(
        "change", [{"capacity": 7}, {"refill_frequency": 2}, {"refill_amount": 3}]
    )
    def test_the_first_parameters_of_a_bucket_hold(
        self,
        kind: Any,
        change: dict[str, float],
        name: str,
        store: MemoryStore,
        caplog: pytest.LogCaptureFixture,
    ) -> None:
        first = build(kind, name, connection=store)
        second = build(kind, name, connection=store, **change)
        for field, value in BUCKET.items():
            assert getattr(second, field) == getattr(first, field) == value
        assert second.quota == first.quota
        (warning,) = logged(caplog, logging.WARNING)
        assert name in warning
        assert all(field in warning for field in change)

    @every_kind
    def test_another_max_sleep_or_expiry_is_no_other_definition(
        self, kind: Any, name: str, store: MemoryStore, caplog: pytest.LogCaptureFixture
    ) -> None:
        first = build(kind, name, connection=store, max_sleep=1, expiry=10)
        second = build(kind, name, connection=store, max_sleep=2, expiry=20)
        assert (first.max_sleep, second.max_sleep) == (1, 2)
        assert logged(caplog, logging.WARNING) == []

    def test_when_all_of_a_name_are_gone_it_may_be_defined_anew(
        self, name: str, store: MemoryStore, caplog: pytest.LogCaptureFixture
    ) -> None:
        with build(SyncSemaphore, name, capacity=2, connection=store):
            pass
        gc.collect()
        assert build(SyncSemaphore, name, capacity=7, connection=store).capacity == 7
        assert logged(caplog, logging.WARNING) == []


NO_COUNT = [0, -1, 1.5, math.nan, math.inf, True, "5", None, pytest.param(10**30, id="huge")]
NO_TIME = [0, -1, -0.5, math.nan, math.inf, True, "5", pytest.param(10**400, id="huge")]
NO_SLEEP = [-1, -0.5, math.nan, True, "5", None]


class TestBadInput:
    @every_kind
    @pytest.mark.parametrize("value", ["", None, 7, b"name"])
    def test_a_name_that_is_no_text_is_named(self, kind: Any, value: Any) -> None:
        with pytest.raises(ValueError, match="name") as caught:
            build(kind, value)
        assert repr(value) in str(caught.value)

    @every_kind
    @pytest.mark.parametrize("value", NO_COUNT)
    def test_a_capacity_that_is_no_count_is_named(self, kind: Any, value: Any, name: str) -> None:
        with pytest.raises(ValueError, match="capacity") as caught:
            build(kind, name, capacity=value)
        assert repr(value) in str(caught.value)

    @every_kind
    @pytest.mark.parametrize("value", NO_SLEEP)
    def test_a_max_sleep_that_is_no_time_is_named(self, kind: Any, value: Any, name: str) -> None:
        with pytest.raises(ValueError, match="max_sleep") as caught:
            build(kind, name, max_sleep=value)
        assert repr(value) in str(caught.value)

    @every_kind
    @pytest.mark.parametrize("value", NO_TIME)
    def test_an_expiry_that_is_no_time_is_named(self, kind: Any, value: Any, name: str) -> None:
        with pytest.raises(ValueError, match="expiry") as caught:
            build(kind, name, expiry=value)
        assert repr(value) in str(caught.value)

    @pytest.mark.parametrize("kind", BUCKETS)
    @pytest.mark.parametrize("value", NO_TIME)
    def test_a_refill_frequency_that_is_no_time_is_named(
        self, kind: Any, value: Any, name: str
    ) -> None:
        with pytest.raises(ValueError, match="refill_frequency") as caught:
            build(kind, name, refill_frequency=value)
        assert repr(value) in str(caught.value)

    @pytest.mark.parametrize("kind", BUCKETS)
    @pytest.mark.parametrize("value", NO_COUNT)
    def test_a_refill_amount_that_is_no_count_is_named(
        self, kind: Any, value: Any, name: str
    ) -> None:
        with pytest.raises(ValueError, match="refill_amount") as caught:
            build(kind, name, refill_amount=value)
        assert repr(value) in str(caught.value)

    @pytest.mark.parametrize("kind", BUCKETS)
    @pytest.mark.parametrize("value", [*NO_COUNT, 6])
    def test_more_tokens_than_it_holds_or_none_cannot_be_consumed(
        self, kind: Any, value: Any, name: str
    ) -> None:
        with pytest.raises(ValueError, match="tokens_to_consume") as caught:
            build(kind, name, tokens_to_consume=value)
        assert repr(value) in str(caught.value)

    @pytest.mark.parametrize("kind", BUCKETS)
    @pytest.mark.parametrize("value", [-1, 6, 1.5, True, "5", math.nan])
    def test_it_cannot_start_with_more_tokens_than_it_holds(
        self, kind: Any, value: Any, name: str
    ) -> None:
        with pytest.raises(ValueError, match="initial_tokens") as caught:
            build(kind, name, initial_tokens=value)
        assert repr(value) in str(caught.value)

    @every_kind
    def test_a_definition_that_is_refused_does_not_hold(self, kind: Any, name: str) -> None:
        with pytest.raises(ValueError, match="max_sleep"):
            build(kind, name, capacity=3, max_sleep=-1)
        assert build(kind, name, capacity=4).capacity == 4

    @every_kind
    @pytest.mark.parametrize("value", [7, object(), ["memory://"]])
    def test_a_connection_that_is_none_is_named(self, kind: Any, value: Any, name: str) -> None:
        with pytest.raises(SetUpError, match="connection") as caught:
            build(kind, name, connection=value)
        assert repr(value) in str(caught.value)


class TestWhereTheStateIs:
    @every_kind
    @pytest.mark.parametrize("by_argument", [True, False])
    def test_a_url_that_cannot_be_used_is_an_error_that_shows_no_password(
        self, kind: Any, by_argument: bool, name: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        url = f"redis://user:{SECRET}@127.0.0.1:port/0"
        options = {"connection": url}
        if not by_argument:
            monkeypatch.setenv("REDIS_URL", url)
            options = {}
        with pytest.raises(SetUpError, match=r"127\.0\.0\.1") as caught:
            build(kind, name, **options)
        assert SECRET not in str(caught.value)
        assert ("REDIS_URL" in str(caught.value)) is not by_argument

    def test_that_the_state_is_in_the_process_is_said_once(
        self, name: str, caplog: pytest.LogCaptureFixture
    ) -> None:
        caplog.set_level(logging.INFO, "headway.limiters")
        for kind in (*SEMAPHORES, *BUCKETS):
            build(kind, name)
        (said,) = logged(caplog, logging.INFO)
        assert "REDIS_URL" in said
        assert "limiters" in said

    @every_kind
    def test_a_store_that_is_given_is_not_talked_about(
        self, kind: Any, name: str, store: MemoryStore, caplog: pytest.LogCaptureFixture
    ) -> None:
        caplog.set_level(logging.INFO, "headway.limiters")
        build(kind, name, connection=store)
        assert logged(caplog, logging.INFO) == []


class TestWhatTheyTell:
    @every_kind
    def test_a_limiter_shows_what_it_was_made_with(
        self, kind: Any, name: str, store: MemoryStore
    ) -> None:
        limiter = build(kind, name, max_sleep=2.5, connection=store)
        assert (limiter.name, limiter.capacity, limiter.max_sleep) == (name, 5, 2.5)
        for part in (kind.__name__, repr(name), "capacity=5", "max_sleep=2.5"):
            assert part in repr(limiter)

    @every_kind
    def test_positions_and_defaults_are_those_of_the_document(
        self, kind: Any, name: str, store: MemoryStore
    ) -> None:
        values: list[float] = [5] if kind in SEMAPHORES else [5, 1, 1]
        assert kind(name, *values).max_sleep == 30
        limiter = kind(name, *values, 7, 8, store)
        assert (limiter.max_sleep, limiter.capacity) == (7, 5)
        if kind in SEMAPHORES:
            assert limiter.expiry == 8
            assert kind(name, 5).expiry == 30

    def test_the_error_is_one_of_the_tree(self) -> None:
        assert issubclass(MaxSleepExceededError, BaseThrottledError)

    @every_kind
    def test_an_instance_that_was_not_initialized_says_so(self, kind: Any) -> None:
        enter: Callable[[Any], Any] = getattr(kind, "__enter__", None) or kind.__aenter__
        if kind is AsyncTokenBucket:
            enter = kind.__aenter__
        with pytest.raises(RuntimeError, match="__init__"):
            enter(kind.__new__(kind))

    def test_they_are_found_in_the_package(self) -> None:
        from headway import limiters

        assert headway.limiters is limiters
        assert set(limiters.__all__) == {
            "AsyncSemaphore",
            "AsyncTokenBucket",
            "MaxSleepExceededError",
            "SyncSemaphore",
            "SyncTokenBucket",
        }

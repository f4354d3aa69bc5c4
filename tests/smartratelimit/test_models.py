"""Status, dimensions, limits and buckets: names and defaults of release 0.5.1, times in UTC."""

from __future__ import annotations

import copy
import inspect
import math
import pickle
from datetime import datetime, timedelta, timezone
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headway.exceptions import BaseThrottledError, StoreUnavailableError
from headway.smartratelimit import RateLimitExceeded, StorageUnavailable
from headway.smartratelimit.models import (
    LimitDimension,
    RateLimit,
    RateLimitStatus,
    TokenBucket,
    utcnow,
)

NOON = datetime(2026, 3, 1, 12, tzinfo=timezone.utc)
HOUR = timedelta(hours=1)


def fields_of(type_: type) -> list[str]:
    return [
        str(parameter).split(":")[0] for parameter in inspect.signature(type_).parameters.values()
    ]


class TestStatus:
    def test_it_has_the_fields_of_the_document_and_of_the_release_in_order(self) -> None:
        assert fields_of(RateLimitStatus) == [
            "endpoint",
            "limit",
            "remaining",
            "reset_time",
            "window",
            "confidence",
            "dimensions",
        ]
        status = RateLimitStatus("api.example.com", 60, 59)
        assert (status.reset_time, status.window, status.confidence, status.dimensions) == (
            None,
            None,
            "confirmed",
            {},
        )

    def test_a_reset_that_is_not_known_is_in_none_seconds(self) -> None:
        assert RateLimitStatus("e", 1, 1).reset_in is None

    def test_a_reset_in_the_future_is_in_so_many_seconds(self) -> None:
        status = RateLimitStatus("e", 1, 1, utcnow() + HOUR)
        assert status.reset_in is not None
        assert 3500 < status.reset_in <= 3600

    def test_a_reset_that_has_passed_is_in_no_seconds(self) -> None:
        assert RateLimitStatus("e", 1, 1, NOON - 365 * 20 * timedelta(days=1)).reset_in == 0.0

    @pytest.mark.parametrize("remaining", [0, -3])
    def test_it_is_exceeded_when_nothing_remains(self, remaining: int) -> None:
        assert RateLimitStatus("e", 10, remaining).is_exceeded
        assert not RateLimitStatus("e", 10, 1).is_exceeded

    @pytest.mark.parametrize(
        ("limit", "remaining", "share"),
        [
            (100, 25, 0.75),
            (10, 10, 0.0),
            (10, 0, 1.0),
            (10, 12, 0.0),
            (10, -5, 1.0),
            (0, 0, 1.0),
            (-4, 2, 1.0),
            (10**30, 10**30, 0.0),
            (1, 10**400, 0.0),
            (10**400, 1, 1.0),
        ],
    )
    def test_utilization_is_never_outside_of_0_and_1(
        self, limit: int, remaining: int, share: float
    ) -> None:
        assert RateLimitStatus("e", limit, remaining).utilization == share

    def test_it_compares_copies_pickles_and_matches(self) -> None:
        dimension = LimitDimension("tokens", 10, 5, NOON, HOUR)
        status = RateLimitStatus("e", 60, 59, NOON, HOUR, dimensions={"tokens": dimension})

        assert pickle.loads(pickle.dumps(status)) == status == copy.deepcopy(status)
        assert status != RateLimitStatus("e", 60, 58, NOON, HOUR)
        match status:
            case RateLimitStatus(endpoint, limit, remaining):
                assert (endpoint, limit, remaining) == ("e", 60, 59)
            case _:
                pytest.fail("it does not match by position")


class TestTimes:
    @pytest.mark.parametrize(
        "given_time",
        [NOON, NOON.replace(tzinfo=None), NOON.astimezone(timezone(timedelta(hours=-5)))],
        ids=["UTC", "naive", "another zone"],
    )
    def test_every_time_becomes_the_same_instant_in_utc(self, given_time: datetime) -> None:
        times = [
            RateLimitStatus("e", 1, 1, given_time).reset_time,
            LimitDimension("d", 1, 1, given_time, HOUR).reset_time,
            RateLimit("e", 1, 1, given_time, HOUR, given_time).reset_time,
            RateLimit("e", 1, 1, given_time, HOUR, given_time).last_updated,
            TokenBucket(1, 1, 1, given_time).last_update,
        ]
        assert times == [NOON] * 5
        assert {time.tzinfo for time in times if time} == {timezone.utc}

    def test_a_time_that_is_none_is_refused_by_name(self) -> None:
        with pytest.raises(ValueError, match="Invalid reset_time: 'tomorrow', must be a datetime"):
            LimitDimension("d", 1, 1, "tomorrow", HOUR)  # type: ignore[arg-type]


class TestRateLimit:
    def limit(self) -> RateLimit:
        tokens = LimitDimension("tokens", 1000, 900, NOON, HOUR)
        return RateLimit("e", 60, 59, NOON, HOUR, dimensions={"tokens": tokens})

    def test_it_has_the_fields_of_the_release_in_order(self) -> None:
        assert fields_of(RateLimit) == [
            "endpoint",
            "limit",
            "remaining",
            "reset_time",
            "window",
            "last_updated",
            "confidence",
            "dimensions",
        ]
        assert fields_of(LimitDimension) == [
            "name",
            "limit",
            "remaining",
            "reset_time",
            "window",
            "confidence",
        ]

    def test_its_dimensions_begin_with_the_requests(self) -> None:
        assert [d.name for d in self.limit().all_dimensions()] == ["requests", "tokens"]

    def test_a_dimension_is_found_by_its_name(self) -> None:
        limit = self.limit()
        assert limit.dimension("requests") == LimitDimension("requests", 60, 59, NOON, HOUR)
        assert limit.dimension("tokens") is limit.dimensions["tokens"]
        assert limit.dimension("images") is None

    def test_a_dimension_is_added_to_a_copy(self) -> None:
        limit = self.limit()
        more = limit.with_dimension(LimitDimension("images", 5, 5, NOON, HOUR))
        assert sorted(more.dimensions) == ["images", "tokens"]
        assert sorted(limit.dimensions) == ["tokens"]
        assert (more.limit, more.remaining) == (60, 59)

    def test_the_dimension_requests_replaces_the_flat_fields(self) -> None:
        more = self.limit().with_dimension(LimitDimension("requests", 9, 8, NOON, HOUR, "registry"))
        assert (more.limit, more.remaining, more.confidence) == (9, 8, "registry")
        assert sorted(more.dimensions) == ["tokens"]

    def test_changing_a_status_does_not_change_the_limit(self) -> None:
        limit = self.limit()
        status = limit.to_status()
        assert sorted(status.dimensions) == ["requests", "tokens"]
        status.dimensions["tokens"].remaining = 0
        assert limit.dimensions["tokens"].remaining == 900


class TestTokenBucket:
    def test_it_has_the_fields_of_the_release_in_order(self) -> None:
        assert fields_of(TokenBucket) == ["capacity", "tokens", "refill_rate", "last_update"]

    def test_it_fills_with_time_up_to_its_capacity(self) -> None:
        bucket = TokenBucket(10, 0, 2, NOON)
        bucket.refill(NOON + timedelta(seconds=1.5))
        assert bucket.tokens == 3.0
        bucket.refill(NOON + HOUR)
        assert bucket.tokens == 10.0

    def test_a_clock_that_goes_back_changes_nothing(self) -> None:
        bucket = TokenBucket(10, 4, 2, NOON)
        bucket.refill(NOON - HOUR)
        assert (bucket.tokens, bucket.last_update) == (4.0, NOON)

    def test_what_is_not_there_is_not_taken(self) -> None:
        bucket = TokenBucket(10, 4, 1, NOON)
        assert not bucket.consume(5, NOON)
        assert bucket.tokens == 4.0
        assert bucket.consume(4, NOON)
        assert bucket.tokens == 0.0

    def test_a_wait_says_when_the_tokens_are_there(self) -> None:
        bucket = TokenBucket(10, 1, 2, NOON)
        assert bucket.wait_time(1, NOON) == 0.0
        assert bucket.wait_time(2, NOON) == 0.5

    def test_what_never_comes_is_infinitely_far(self) -> None:
        assert TokenBucket(10, 1, 0, NOON).wait_time(2, NOON) == math.inf
        assert TokenBucket(10, 1, 5, NOON).wait_time(11, NOON) == math.inf

    def test_reset_fills_it(self) -> None:
        bucket = TokenBucket(10, 1, 0, NOON)
        bucket.reset()
        assert bucket.tokens == 10.0
        assert bucket.last_update > NOON

    def test_ten_thousand_small_sums_do_not_drift(self) -> None:
        # A tenth each 100 ms at 1/s: as floats the sums are off after a few.
        bucket = TokenBucket(1, 0, 1, NOON)
        now, taken = NOON, 0
        for _ in range(10_000):
            now += timedelta(milliseconds=100)
            taken += bucket.consume(Fraction(1, 10), now)  # type: ignore[arg-type]
        assert taken == 10_000
        assert bucket.tokens == 0.0

    def test_it_compares_copies_pickles_and_matches(self) -> None:
        bucket = TokenBucket(10, 4, 0.1, NOON)
        bucket.refill(NOON + timedelta(seconds=1))
        assert pickle.loads(pickle.dumps(bucket)) == bucket == copy.copy(bucket)
        assert bucket != TokenBucket(10, 4, 0.1, NOON)
        match bucket:
            case TokenBucket(capacity, _, rate):
                assert (capacity, rate) == (10.0, 0.1)
        assert repr(TokenBucket(2, 1, 1, NOON)) == (
            "TokenBucket(capacity=2.0, tokens=1.0, refill_rate=1.0, "
            "last_update=datetime.datetime(2026, 3, 1, 12, 0, tzinfo=datetime.timezone.utc))"
        )

    def test_its_fields_can_be_set_and_tokens_stay_within_the_capacity(self) -> None:
        bucket = TokenBucket(10, 20, 1, NOON)
        assert bucket.tokens == 10.0
        bucket.capacity = 5
        assert bucket.tokens == 5.0
        bucket.tokens = 7
        assert bucket.tokens == 5.0

    @pytest.mark.parametrize("value", [math.nan, math.inf, -1, "1", None, True])
    def test_a_wrong_number_is_refused_by_name(self, value: float) -> None:
        with pytest.raises(ValueError, match="Invalid capacity"):
            TokenBucket(value, 1, 1)
        with pytest.raises(ValueError, match="Invalid refill_rate"):
            TokenBucket(1, 1, value)
        with pytest.raises(ValueError, match="Invalid tokens"):
            TokenBucket(1, 1, 1).consume(value)
        with pytest.raises(ValueError, match="Invalid tokens"):
            TokenBucket(1, 1, 1).wait_time(value)

    @given(
        capacity=st.floats(0.5, 1e6),
        share=st.floats(0, 1),
        rate=st.floats(1e-3, 1e6),
        wanted=st.floats(0, 1),
    )
    def test_after_the_wait_the_tokens_are_there_and_not_before(
        self, capacity: float, share: float, rate: float, wanted: float
    ) -> None:
        bucket = TokenBucket(capacity, capacity * share, rate, NOON)
        cost = capacity * wanted
        wait = timedelta(seconds=bucket.wait_time(cost, NOON))

        if wait > timedelta(0):
            early = copy.copy(bucket)
            assert not early.consume(cost, NOON + wait - timedelta(microseconds=1))
        assert bucket.consume(cost, NOON + wait)


class TestErrors:
    def test_the_text_is_the_message_that_is_given(self) -> None:
        assert str(RateLimitExceeded("no more today")) == "no more today"

    @pytest.mark.parametrize(
        ("endpoint", "retry_after", "text"),
        [
            ("https://e", 2.5, "Rate limit exceeded for https://e. Wait 2.50 seconds."),
            ("https://e", None, "Rate limit exceeded for https://e."),
            (None, None, "Rate limit exceeded."),
            (None, math.inf, "Rate limit exceeded: it can never be met, however long the wait."),
        ],
    )
    def test_without_a_message_it_says_the_scope_and_the_wait(
        self, endpoint: str | None, retry_after: float | None, text: str
    ) -> None:
        error = RateLimitExceeded(endpoint=endpoint, retry_after=retry_after)
        assert str(error) == text
        assert (error.endpoint, error.retry_after) == (endpoint, retry_after)

    @pytest.mark.parametrize("type_", [RateLimitExceeded, StorageUnavailable])
    def test_it_is_pickled_with_what_it_says(self, type_: type[RateLimitExceeded]) -> None:
        error = type_("gone", endpoint="https://e", retry_after=3.0)
        same = pickle.loads(pickle.dumps(error))
        assert type(same) is type_
        assert (str(same), same.endpoint, same.retry_after) == ("gone", "https://e", 3.0)

    def test_it_belongs_to_the_one_tree(self) -> None:
        assert issubclass(RateLimitExceeded, BaseThrottledError)
        assert issubclass(StorageUnavailable, RateLimitExceeded)
        assert issubclass(StorageUnavailable, StoreUnavailableError)

"""How long a retry waits: by its strategy, by what the server asks for, and what may be set."""

from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from retry_play import Response, Run, Time, playing

from headway.exceptions import DataError
from headway.smartratelimit import RetryConfig, RetryHandler, RetryStrategy


class TestDelays:
    @pytest.mark.parametrize(
        ("strategy", "delays"),
        [
            (RetryStrategy.EXPONENTIAL, [1, 2, 4, 8, 16, 32, 60, 60]),
            (RetryStrategy.LINEAR, [1, 2, 3, 4, 5, 6, 7, 8]),
            (RetryStrategy.FIXED, [1] * 8),
            (RetryStrategy.NONE, [0] * 8),
        ],
    )
    def test_each_strategy_grows_in_its_own_way_up_to_max_delay(
        self, strategy: RetryStrategy, delays: list[float]
    ) -> None:
        handler = RetryHandler(RetryConfig(strategy=strategy))
        assert [handler.delay_for_attempt(n) for n in range(1, 9)] == delays

    def test_a_power_that_no_float_holds_is_max_delay(self) -> None:
        handler = RetryHandler(RetryConfig(backoff_factor=10.0))
        assert handler.delay_for_attempt(10_000) == 60.0

    @pytest.mark.parametrize(("luck", "delay"), [(0.0, 9.0), (0.5, 10.0), (0.999999, 11.0)])
    def test_jitter_changes_a_delay_by_its_share_either_way(
        self, time: Time, luck: float, delay: float
    ) -> None:
        handler = time.handler(luck=luck, base_delay=10.0, jitter=0.1)
        assert handler.delay_for_attempt(1) == pytest.approx(delay, abs=1e-4)

    @pytest.mark.parametrize(("luck", "delay"), [(0.0, 0.0), (0.25, 2.0), (0.75, 6.0)])
    def test_full_jitter_is_anything_from_nothing_to_the_delay(
        self, time: Time, luck: float, delay: float
    ) -> None:
        handler = time.handler(luck=luck, base_delay=4.0, full_jitter=True)
        assert handler.delay_for_attempt(2) == delay

    @given(
        st.sampled_from(RetryStrategy),
        st.floats(0, 1e8),
        st.floats(0, 1e8),
        st.floats(1e-6, 1e6),
        st.floats(0, 1),
        st.booleans(),
        st.integers(1, 10_000),
        st.floats(0, 1, exclude_max=True),
    )
    def test_no_delay_is_negative_or_longer_than_max_delay(
        self,
        strategy: RetryStrategy,
        base: float,
        most: float,
        factor: float,
        jitter: float,
        full: bool,
        attempt: int,
        luck: float,
    ) -> None:
        config = RetryConfig(
            strategy=strategy,
            base_delay=base,
            max_delay=most,
            backoff_factor=factor,
            jitter=0.0 if full else jitter,
            full_jitter=full,
        )
        delay = RetryHandler(config, random=lambda: luck).delay_for_attempt(attempt)
        assert 0 <= delay <= most

    @pytest.mark.parametrize("attempt", [0, -1, 1.5, True])
    def test_retries_are_counted_from_one(self, attempt: int) -> None:
        with pytest.raises(ValueError, match="Invalid attempt"):
            RetryHandler().delay_for_attempt(attempt)


class TestRetryAfter:
    @pytest.mark.parametrize(
        ("value", "delay"),
        [("7", 7.0), ("0", 0.0), ("2.5", 2.5), (" 7 ", 7.0), (7, 7.0), (b"7", 7.0)],
    )
    def test_it_is_obeyed(self, run: Run, time: Time, value: object, delay: float) -> None:
        run(time.handler(), playing(Response(429, {"Retry-After": value}), Response(200)))
        assert time.slept == [delay]

    def test_the_name_is_found_in_any_case(self, run: Run, time: Time) -> None:
        run(time.handler(), playing(Response(429, {"retry-AFTER": "7"}), Response(200)))
        assert time.slept == [7.0]

    @pytest.mark.parametrize(
        ("headers", "delay"),
        [
            ({"retry-after-ms": "250"}, 0.25),
            ({"Retry-After": "3", "Retry-After-Ms": "2500"}, 2.5),
            ({"x-ms-retry-after-ms": "40", "X-RateLimit-Reset": "900"}, 0.04),
            ({"X-RateLimit-Remaining": "0", "X-RateLimit-Reset": "900"}, 1.0),
        ],
    )
    def test_what_means_the_same_elsewhere_is_obeyed_and_nothing_else(
        self, run: Run, time: Time, headers: dict[str, str], delay: float
    ) -> None:
        run(time.handler(), playing(Response(429, headers), Response(200)))
        assert time.slept == [delay]

    @pytest.mark.parametrize(
        "date",
        [
            "Sun, 06 Nov 2016 08:49:37 GMT",
            "Sunday, 06-Nov-16 08:49:37 GMT",
            "Sun Nov  6 08:49:37 2016",
        ],
    )
    def test_a_date_counts_from_the_servers_own(self, run: Run, time: Time, date: str) -> None:
        headers = {"Retry-After": date, "Date": "Sun, 06 Nov 2016 08:49:30 GMT"}
        run(time.handler(), playing(Response(503, headers), Response(200)))
        assert time.slept == [7.0]

    def test_a_date_that_has_passed_means_now(self, run: Run, time: Time) -> None:
        headers = {"Retry-After": "Sun, 06 Nov 2016 08:49:37 GMT"}
        run(time.handler(), playing(Response(503, headers), Response(200)))
        assert time.slept == [0.0]

    def test_one_longer_than_max_delay_ends_the_retries(self, run: Run, time: Time) -> None:
        response = Response(429, {"Retry-After": "61"})
        assert run(time.handler(), playing(response)) is response
        assert time.slept == []
        assert not response.closed

    @pytest.mark.parametrize(
        "value",
        [
            *("", "soon", "-5", "NaN", "inf", "1e3", "0x10", "\xff\u0663", b"\xff"),
            *("Thu, 01 Jan 1970 00:00:00 GMT", "Sun, 99 Nov 2016 08:49:37 GMT"),
            *(None, True, ["7"]),
            pytest.param("9" * 1_000_000, id="a million digits"),
        ],
    )
    def test_one_that_makes_no_sense_is_as_good_as_none(
        self, run: Run, time: Time, value: object
    ) -> None:
        run(time.handler(), playing(Response(429, {"Retry-After": value}), Response(200)))
        assert time.slept == [1.0]

    @pytest.mark.parametrize(
        ("config", "delay"),
        [({"jitter": 0.5}, 12.0), ({"full_jitter": True, "base_delay": 3.0}, 11.2)],
    )
    def test_jitter_only_adds_to_it(self, time: Time, config: dict[str, Any], delay: float) -> None:
        handler = time.handler(luck=0.4, **config)
        handler.retry_sync(playing(Response(429, {"Retry-After": "10"}), Response(200)))
        assert time.slept == [pytest.approx(delay)]

    @pytest.mark.parametrize("headers", [None, 5, [("Retry-After", "7")]])
    def test_headers_that_cannot_be_asked_are_as_good_as_none(
        self, time: Time, headers: Any
    ) -> None:
        time.handler().retry_sync(playing(Response(429, headers), Response(200)))
        assert time.slept == [1.0]


class TestConfig:
    def test_the_defaults_are_those_of_the_release(self) -> None:
        config = RetryConfig()
        assert (config.max_retries, config.strategy, config.base_delay, config.max_delay) == (
            3,
            RetryStrategy.EXPONENTIAL,
            1.0,
            60.0,
        )
        assert (config.backoff_factor, config.retry_on_status, config.jitter) == (
            2.0,
            [429, 503, 504],
            0.0,
        )
        assert (config.full_jitter, config.total_timeout) == (False, None)

    def test_the_first_seven_may_be_given_by_position(self) -> None:
        config = RetryConfig(1, RetryStrategy.FIXED, 2.0, 3.0, 4.0, [500], 0.5)
        assert config == RetryConfig(
            max_retries=1,
            strategy=RetryStrategy.FIXED,
            base_delay=2.0,
            max_delay=3.0,
            backoff_factor=4.0,
            retry_on_status=[500],
            jitter=0.5,
        )
        assert config != RetryConfig()

    def test_a_strategy_may_be_named(self) -> None:
        config = RetryConfig(strategy="linear")  # type: ignore[arg-type]
        assert config.strategy is RetryStrategy.LINEAR

    @pytest.mark.parametrize(
        ("name", "value"),
        [
            *(("max_retries", value) for value in (-1, 1.5, "3", None, True, 10**30)),
            *(("strategy", value) for value in ("quadratic", None, 1)),
            *(("base_delay", value) for value in (-1, math.nan, math.inf, "1", None, 10**400)),
            *(("max_delay", value) for value in (-0.1, math.nan, math.inf, True)),
            *(("backoff_factor", value) for value in (0, -2, math.nan, math.inf, "2")),
            *(("retry_on_status", value) for value in (429, "429", [429.0], [True], [0], ["x"])),
            *(("jitter", value) for value in (-0.1, 1.1, math.nan, "0.1")),
            *(("total_timeout", value) for value in (0, -1, math.nan, math.inf, "1")),
            *(("retry_methods", value) for value in ("GET", None, [1], ["FETCH"])),
            *(("retry_on_exceptions", v) for v in (KeyboardInterrupt, [1], 5, "ValueError", int)),
        ],
    )
    def test_a_wrong_value_is_refused_by_name(self, name: str, value: object) -> None:
        with pytest.raises(ValueError, match=f"Invalid {name}: .*, must be ") as raised:
            RetryConfig(**{name: value})  # type: ignore[arg-type]
        assert isinstance(raised.value, DataError)

    def test_two_kinds_of_jitter_are_one_too_many(self) -> None:
        with pytest.raises(ValueError, match="full_jitter"):
            RetryConfig(jitter=0.1, full_jitter=True)

    def test_a_handler_takes_a_config(self) -> None:
        with pytest.raises(ValueError, match="Invalid config"):
            RetryHandler(3)  # type: ignore[arg-type]

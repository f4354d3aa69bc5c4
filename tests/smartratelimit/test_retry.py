"""Trying again, in virtual time: when, for what, how long, and what the caller gets in the end."""

from __future__ import annotations

import asyncio
import math
import ssl
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.client import RemoteDisconnected
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headway.exceptions import DataError
from headway.smartratelimit import RateLimitExceeded, RetryConfig, RetryHandler, RetryStrategy


@dataclass
class Response:
    """As requests': closed when nobody will read it."""

    status_code: int
    headers: dict[str, Any] = field(default_factory=dict)
    closed: bool = False

    def close(self) -> None:
        self.closed = True


@dataclass
class Request:
    method: str


class Lost(ConnectionError):
    """A connection that was lost, with its request if it is known."""

    def __init__(self, method: str | None = None) -> None:
        super().__init__("lost")
        if method:
            self.request = Request(method)


class Time:
    """Virtual time: sleeping moves it, and is written down."""

    def __init__(self) -> None:
        self.now = 100.0
        self.slept: list[float] = []

    def handler(self, *, luck: float = 0.5, **config: Any) -> RetryHandler:
        return RetryHandler(
            RetryConfig(**config),
            sleep=self.sleep,
            async_sleep=self.sleep_async,
            clock=lambda: self.now,
            random=lambda: luck,
        )

    def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.now += seconds

    async def sleep_async(self, seconds: float) -> None:
        self.sleep(seconds)


@pytest.fixture
def time() -> Time:
    return Time()


Run = Callable[..., Any]


@pytest.fixture(params=["sync", "async"])
def run(request: pytest.FixtureRequest) -> Run:
    """Runs a plain function under the handler: as it is, or as a coroutine function."""

    def run_sync(handler: RetryHandler, func: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        return handler.retry_sync(func, *args, **kwargs)

    def run_async(
        handler: RetryHandler, func: Callable[..., Any], *args: Any, **kwargs: Any
    ) -> Any:
        async def call(*args: Any, **kwargs: Any) -> Any:
            return func(*args, **kwargs)

        return asyncio.run(handler.retry_async(call, *args, **kwargs))

    return run_sync if request.param == "sync" else run_async


def playing(*outcomes: Any) -> Callable[..., Any]:
    """A function that returns, or raises, these one after the other."""
    left: Iterator[Any] = iter(outcomes)

    def play(*args: Any, **kwargs: Any) -> Any:
        outcome = next(left)
        if isinstance(outcome, BaseException):
            raise outcome
        return outcome

    return play


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


class TestHowOften:
    def test_the_first_try_counts(self) -> None:
        assert RetryHandler().max_attempts() == 4
        assert RetryHandler(RetryConfig(max_retries=0)).max_attempts() == 1
        assert RetryHandler(RetryConfig(strategy=RetryStrategy.NONE)).max_attempts() == 1

    def test_a_status_is_retried_while_there_are_retries(self) -> None:
        handler = RetryHandler()
        assert [handler.should_retry(429, n) for n in (1, 2, 3, 4)] == [True, True, True, False]
        assert [handler.should_retry(s, 1) for s in (200, 404, 500, 503, 504)] == [
            False,
            False,
            False,
            True,
            True,
        ]

    def test_statuses_can_be_named_and_none_means_none(self) -> None:
        assert RetryHandler(RetryConfig(retry_on_status=[500])).should_retry(500, 1)
        assert not RetryHandler(RetryConfig(retry_on_status=[])).should_retry(429, 1)

    def test_a_success_is_returned_at_once(self, run: Run, time: Time) -> None:
        response = Response(200)
        assert run(time.handler(), playing(response)) is response
        assert time.slept == []
        assert not response.closed

    def test_retries_follow_a_status_that_asks_for_them(self, run: Run, time: Time) -> None:
        good = Response(200)
        assert run(time.handler(), playing(Response(429), Response(503), good)) is good
        assert time.slept == [1.0, 2.0]

    def test_the_last_response_is_what_the_caller_gets(self, run: Run, time: Time) -> None:
        responses = [Response(429) for _ in range(4)]
        assert run(time.handler(), playing(*responses)) is responses[3]
        assert time.slept == [1.0, 2.0, 4.0]

    def test_responses_that_nobody_will_read_are_closed_and_the_last_is_not(
        self, run: Run, time: Time
    ) -> None:
        responses = [Response(429) for _ in range(4)]
        run(time.handler(), playing(*responses))
        assert [response.closed for response in responses] == [True, True, True, False]

    def test_a_response_is_closed_before_the_wait(self) -> None:
        response = Response(429)
        seen = []
        handler = RetryHandler(sleep=lambda _: seen.append(response.closed))
        handler.retry_sync(playing(response, Response(200)))
        assert seen == [True]

    def test_a_response_that_cannot_be_closed_stops_nothing(self, run: Run, time: Time) -> None:
        class Broken(Response):
            def close(self) -> None:
                raise RuntimeError("it is too late")

        good = Response(200)
        assert run(time.handler(), playing(Broken(429), good)) is good

    def test_strategy_none_tries_once(self, run: Run, time: Time) -> None:
        response = Response(429)
        handler = time.handler(strategy=RetryStrategy.NONE)
        assert run(handler, playing(response)) is response

    @pytest.mark.parametrize("result", [None, 0, "", "429", [1], {"status": 429}])
    def test_what_is_no_response_is_returned_as_it_is(
        self, run: Run, time: Time, result: object
    ) -> None:
        assert run(time.handler(), playing(result)) is result
        assert time.slept == []

    def test_arguments_reach_the_function(self, run: Run, time: Time) -> None:
        def call(*args: object, **kwargs: object) -> object:
            return args, kwargs

        assert run(time.handler(), call, 1, 2, three=3) == ((1, 2), {"three": 3})

    def test_no_retry_begins_after_the_total_time(self, run: Run, time: Time) -> None:
        responses = [Response(429) for _ in range(3)]
        handler = time.handler(max_retries=9, total_timeout=6.0)
        # 1 s, 2 s, and 4 s more would be 7 s.
        assert run(handler, playing(*responses)) is responses[2]
        assert time.slept == [1.0, 2.0]

    def test_the_time_that_tries_take_counts(self, run: Run, time: Time) -> None:
        def slow() -> Response:
            time.now += 5.0
            return Response(503)

        run(time.handler(total_timeout=7.0), slow)
        assert time.slept == [1.0]


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


class TestErrors:
    @pytest.mark.parametrize("method", ["GET", "head", "OPTIONS", "PUT", "DELETE", "TRACE"])
    def test_a_lost_connection_is_retried_for_idempotent_methods(
        self, run: Run, time: Time, method: str
    ) -> None:
        assert run(time.handler(), playing(Lost(method), Lost(method), "fine")) == "fine"
        assert time.slept == [1.0, 2.0]

    @pytest.mark.parametrize("method", ["POST", "PATCH", "CONNECT", None])
    def test_it_is_not_for_other_methods_or_where_the_method_is_not_known(
        self, run: Run, time: Time, method: str | None
    ) -> None:
        error = Lost(method)
        with pytest.raises(Lost) as raised:
            run(time.handler(), playing(error))
        assert raised.value is error
        assert time.slept == []

    def test_it_is_for_a_method_that_is_named(self, run: Run, time: Time) -> None:
        handler = time.handler(retry_methods={"post"})
        assert run(handler, playing(Lost("POST"), "fine")) == "fine"
        with pytest.raises(Lost):
            run(handler, playing(Lost("GET")))

    def test_the_method_may_be_an_argument_of_the_call(self, time: Time) -> None:
        left = [Lost(), "fine", Lost(), "fine", Lost()]

        def request(method: str, url: str) -> object:
            outcome = left.pop(0)
            if isinstance(outcome, Exception):
                raise outcome
            return outcome

        handler = time.handler()
        assert handler.retry_sync(request, "GET", "https://e") == "fine"
        assert handler.retry_sync(request, url="https://e", method="get") == "fine"
        with pytest.raises(Lost):
            handler.retry_sync(request, "POST", "https://e")

    @pytest.mark.parametrize(
        "error",
        [TimeoutError(), asyncio.TimeoutError(), RemoteDisconnected(), ConnectionResetError()],
        ids=lambda error: type(error).__name__,
    )
    def test_pythons_own_errors_of_connections_count(self, time: Time, error: Exception) -> None:
        error.request = Request("GET")  # type: ignore[attr-defined]
        assert time.handler().retry_sync(playing(error, "fine")) == "fine"

    def test_the_last_error_is_what_the_caller_gets(self, run: Run, time: Time) -> None:
        errors = [Lost("GET") for _ in range(4)]
        with pytest.raises(Lost) as raised:
            run(time.handler(), playing(*errors))
        assert raised.value is errors[3]
        assert raised.value.__cause__ is None
        assert time.slept == [1.0, 2.0, 4.0]

    def test_an_error_before_a_bad_response_is_forgotten(self, run: Run, time: Time) -> None:
        response = Response(500)
        assert run(time.handler(), playing(Lost("GET"), response)) is response

    @pytest.mark.parametrize(
        "error", [ValueError("no"), RateLimitExceeded("no"), KeyError("no"), OSError("no")]
    )
    def test_another_error_is_not_retried(self, run: Run, time: Time, error: Exception) -> None:
        with pytest.raises(type(error)) as raised:
            run(time.handler(), playing(error))
        assert raised.value is error
        assert time.slept == []

    def test_another_error_is_retried_where_one_asks_for_it(self, run: Run, time: Time) -> None:
        handler = time.handler(retry_on_exceptions=ValueError)
        assert run(handler, playing(ValueError(), "fine")) == "fine"
        handler = time.handler(retry_on_exceptions=[Lost, KeyError])
        assert run(handler, playing(Lost("POST"), KeyError(), "fine")) == "fine"

    def test_a_certificate_that_does_not_hold_is_not_tried_again(
        self, run: Run, time: Time
    ) -> None:
        error = Lost("GET")
        error.__cause__ = OSError()
        error.__cause__.__context__ = ssl.SSLCertVerificationError("expired")
        with pytest.raises(Lost):
            run(time.handler(), playing(error))

    def test_an_error_of_raise_for_status_is_treated_as_its_response(
        self, run: Run, time: Time
    ) -> None:
        def refused(status: int) -> Exception:
            error = RuntimeError(f"status {status}")
            error.response = Response(status, {"Retry-After": "7"})  # type: ignore[attr-defined]
            return error

        first, other = refused(429), refused(404)
        with pytest.raises(RuntimeError) as raised:
            run(time.handler(), playing(first, other))
        assert raised.value is other
        assert time.slept == [7.0]
        assert first.response.closed  # type: ignore[attr-defined]

    @pytest.mark.parametrize("stop", [KeyboardInterrupt, SystemExit, asyncio.CancelledError])
    def test_an_interrupt_or_a_cancellation_is_never_retried(
        self, time: Time, stop: type[BaseException]
    ) -> None:
        calls = []

        def call() -> None:
            calls.append(1)
            raise stop

        with pytest.raises(stop):
            time.handler(retry_on_exceptions=Exception).retry_sync(call)
        assert len(calls) == 1

    def test_an_interrupt_during_the_wait_ends_it(self) -> None:
        def interrupted(seconds: float) -> None:
            raise KeyboardInterrupt

        handler = RetryHandler(sleep=interrupted)
        with pytest.raises(KeyboardInterrupt):
            handler.retry_sync(playing(Response(429)))

    def test_what_is_no_exception_has_no_delay_whatever_it_carries(self) -> None:
        stop = KeyboardInterrupt()
        stop.response = Response(429)  # type: ignore[attr-defined]
        assert RetryHandler().delay_after_error(stop, 1, method="GET") is None

    def test_a_coroutine_function_belongs_to_retry_async(self, time: Time) -> None:
        async def call() -> None: ...

        with pytest.raises(ValueError, match="use retry_async"):
            time.handler().retry_sync(call)


class TestLoops:
    @staticmethod
    async def work(calls: list[int]) -> Response:
        calls.append(1)
        return Response(429 if len(calls) < 3 else 200)

    def test_asyncio_sleeps_between_tries(self) -> None:
        calls: list[int] = []
        handler = RetryHandler(RetryConfig(base_delay=0.001))
        response = asyncio.run(handler.retry_async(self.work, calls))
        assert (response.status_code, len(calls)) == (200, 3)

    def test_trio_sleeps_between_tries(self) -> None:
        trio = pytest.importorskip("trio")
        calls: list[int] = []
        handler = RetryHandler(RetryConfig(base_delay=0.001))
        response = trio.run(handler.retry_async, self.work, calls)
        assert (response.status_code, len(calls)) == (200, 3)

    def test_asyncio_is_known_where_trio_is_imported_too(self) -> None:
        pytest.importorskip("trio")
        self.test_asyncio_sleeps_between_tries()

    def test_cancelling_a_task_that_waits_for_its_retry_ends_it(self) -> None:
        calls: list[int] = []

        async def main() -> None:
            task = asyncio.create_task(RetryHandler().retry_async(self.work, calls))
            while not calls:
                await asyncio.sleep(0)
            await asyncio.sleep(0)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task

        asyncio.run(main())
        assert len(calls) == 1

    def test_responses_are_closed_as_their_library_wants_it(self, time: Time) -> None:
        closed = []

        class Httpx(Response):
            async def aclose(self) -> None:
                closed.append("aclose")

            def close(self) -> None:
                raise RuntimeError("an async response cannot be closed so")

        class Aiohttp:
            status = 503
            headers: dict[str, str] = {}  # noqa: RUF012 - never changed

            def release(self) -> None:
                closed.append("release")

        async def call() -> object:
            return outcomes.pop(0)

        outcomes = [Httpx(429), Aiohttp(), Response(200)]
        asyncio.run(time.handler().retry_async(call))
        assert closed == ["aclose", "release"]

    def test_a_plain_response_in_a_task_is_closed_too(self, time: Time) -> None:
        class PlainHttpx(Response):
            async def aclose(self) -> None:
                raise RuntimeError("a sync stream cannot be closed so")

        async def call() -> Response:
            return outcomes.pop(0)

        first = PlainHttpx(429)
        outcomes = [first, Response(200)]
        asyncio.run(time.handler().retry_async(call))
        assert first.closed


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

"""Trying again, in virtual time: for what, how often, and what the caller gets in the end."""

from __future__ import annotations

import asyncio
import ssl
from http.client import RemoteDisconnected

import pytest
from retry_play import Lost, Request, Response, Run, Time, playing

from headway.smartratelimit import RateLimitExceeded, RetryConfig, RetryHandler, RetryStrategy


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

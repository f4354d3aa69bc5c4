"""What a key stands for, where its state lives, and what is refused: the first definition of a key
holds, the environment says where, and a bad value is named.
"""

from __future__ import annotations

import gc
import logging
import math
from collections.abc import Callable
from typing import Any

import pytest

from headway import MemoryStore
from headway.choked import Choked, choked
from headway.exceptions import BaseThrottledError, SetUpError

SECRET = "hunter2"


def logged(caplog: pytest.LogCaptureFixture, level: int) -> list[str]:
    """What was said at a level, in order."""
    return [record.getMessage() for record in caplog.records if record.levelno == level]


@pytest.mark.usefixtures("virtual")
class TestOneKeyTwoDefinitions:
    def test_the_first_definition_holds(self, key: str) -> None:
        @choked(key=key, max_tokens=2, refill_period=60)
        def first() -> None: ...

        @choked(key=key, max_tokens=100, refill_period=1)
        def second() -> None: ...

        second()
        first()
        assert second.limiter.peek().limit == 2  # type: ignore[attr-defined]
        assert second.limiter.peek().remaining == 0  # type: ignore[attr-defined]

    def test_one_warning_names_both_functions_the_key_and_the_parameters(
        self, key: str, caplog: pytest.LogCaptureFixture
    ) -> None:
        @choked(key=key, max_tokens=2, refill_period=60)
        def sends_mail() -> None: ...

        @choked(key=key, max_tokens=100, refill_period=7)
        def fetches_page() -> None: ...

        (warning,) = logged(caplog, logging.WARNING)
        for part in (key, "sends_mail", "fetches_page", "max_tokens=100", "refill_period=7"):
            assert part in warning
        assert __name__ in warning

    def test_the_same_definition_twice_is_no_reason_for_a_warning(
        self, key: str, caplog: pytest.LogCaptureFixture
    ) -> None:
        for period in (60, 60.0):

            @choked(key=key, max_tokens=2, refill_period=period)
            def call() -> None: ...

            call()
        assert logged(caplog, logging.WARNING) == []

    @pytest.mark.parametrize("limit", ["request_limit", "token_limit"])
    @pytest.mark.parametrize("class_form_first", [True, False])
    def test_the_class_form_and_the_function_warn_of_each_other(
        self,
        class_form_first: bool,
        limit: str,
        virtual: MemoryStore,
        key: str,
        caplog: pytest.LogCaptureFixture,
    ) -> None:
        limits = [Choked()(key=key, **{limit: "5/s"}), choked(key, max_tokens=2, refill_period=60)]

        def one(text: str = "") -> None: ...

        def other(text: str = "") -> None: ...

        first, second = limits if class_form_first else reversed(limits)
        made: list[Any] = [first(one), second(other)]

        (warning,) = logged(caplog, logging.WARNING)
        for part in ("one", "other", f"{limit}='5/s'", "max_tokens=2"):
            assert part in warning
        made[1]("text")
        made[0]("text")
        left = 3 if class_form_first else 0
        assert [function.limiter.peek().remaining for function in made] == [left, left]

    def test_when_all_functions_of_a_key_are_gone_it_may_be_defined_anew(
        self, key: str, caplog: pytest.LogCaptureFixture
    ) -> None:
        def define(tokens: int) -> Any:
            @choked(key=key, max_tokens=tokens, refill_period=60)
            def call() -> None: ...

            return call

        define(2)
        gc.collect()
        assert define(5).limiter.peek().limit == 5
        assert logged(caplog, logging.WARNING) == []


@pytest.mark.usefixtures("virtual")
class TestBadInput:
    @pytest.mark.parametrize("key", ["", None, 7, b"key", ["key"]])
    def test_a_key_that_is_no_text_is_named(self, key: Any) -> None:
        with pytest.raises(ValueError, match="key") as caught:
            choked(key=key, max_tokens=1, refill_period=1)
        assert repr(key) in str(caught.value)

    @pytest.mark.parametrize(
        "tokens", [0, -1, 1.5, math.nan, math.inf, True, "10", None, 10**12 + 1, 10**30]
    )
    def test_max_tokens_that_are_no_count_are_named(self, tokens: Any) -> None:
        with pytest.raises(ValueError, match="max_tokens") as caught:
            choked(key="key", max_tokens=tokens, refill_period=1)
        assert repr(tokens) in str(caught.value)

    @pytest.mark.parametrize(
        "period",
        [
            *(0, -1, -0.5, math.nan, math.inf, True, "60", None, 1e-7, 3651 * 86400),
            pytest.param(10**400, id="more than a float holds"),
        ],
    )
    def test_a_refill_period_that_is_no_time_is_named(self, period: Any) -> None:
        with pytest.raises(ValueError, match="refill_period") as caught:
            choked(key="key", max_tokens=1, refill_period=period)
        assert repr(period) in str(caught.value)

    def test_the_bounds_themselves_are_accepted(self, key: str) -> None:
        for number, (tokens, period) in enumerate([(1, 1e-6), (10**12, 3650 * 86400)]):

            @choked(key=f"{key} {number}", max_tokens=tokens, refill_period=period)
            def call() -> str:
                return "answer"

            assert call() == "answer"

    def test_a_bad_value_is_refused_where_the_decorator_is_made(self) -> None:
        with pytest.raises(ValueError, match="max_tokens"):
            choked("key", 0, 1)

    @pytest.mark.parametrize("missing", ["key", "max_tokens", "refill_period"])
    def test_a_missing_value_is_named(self, missing: str) -> None:
        values = {"key": "key", "max_tokens": 1, "refill_period": 1}
        del values[missing]
        make: Any = choked
        with pytest.raises(TypeError, match=missing):
            make(**values)

    @pytest.mark.parametrize("field", ["request_limit", "token_limit"])
    @pytest.mark.parametrize("limit", ["", "10", "10/fortnight", "0/s", "-1/s", 10, object()])
    def test_a_limit_that_cannot_be_read_is_named(self, field: str, limit: Any) -> None:
        with pytest.raises(ValueError, match=field):
            Choked()(key="key", **{field: limit})

    def test_without_any_limit_there_is_nothing_to_choke(self) -> None:
        with pytest.raises(ValueError, match="request_limit or token_limit"):
            Choked()(key="key")

    @pytest.mark.parametrize("key", ["", None, 7])
    def test_the_class_form_names_a_bad_key(self, key: Any) -> None:
        with pytest.raises(ValueError, match="key"):
            Choked()(key=key, request_limit="1/s")

    @pytest.mark.parametrize("estimator", ["gpt", "", 7, object()])
    def test_an_unknown_estimator_is_named_with_those_known(self, estimator: Any) -> None:
        with pytest.raises(ValueError, match="token_estimator") as caught:
            Choked()(key="key", token_limit="1/s", token_estimator=estimator)
        for known in ("default", "openai", "voyageai", "callable"):
            assert known in str(caught.value)


def decorate_plainly() -> None:
    @choked(key="elsewhere", max_tokens=1, refill_period=1)
    def call() -> None: ...


class TestWhereTheStateIs:
    @pytest.mark.parametrize("make", [decorate_plainly, Choked], ids=["choked", "Choked"])
    @pytest.mark.parametrize(
        "url",
        [
            f"redis://user:{SECRET}@127.0.0.1:port/0",
            f"rediss://:{SECRET}@127.0.0.1:port/0",
            f"elsewhere://user:{SECRET}@{SECRET}@127.0.0.1/0",
        ],
    )
    def test_a_url_that_cannot_be_used_is_an_error_that_shows_no_password(
        self, make: Callable[[], object], url: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("REDIS_URL", url)
        with pytest.raises(SetUpError, match="REDIS_URL is set") as caught:
            make()
        assert SECRET not in str(caught.value)
        assert "127.0.0.1" in str(caught.value)

    def test_the_argument_goes_before_the_environment(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("REDIS_URL", "elsewhere://127.0.0.1/0")

        @Choked(redis_url="memory://")(key="argument", request_limit="5/s")
        def call() -> str:
            return "answer"

        assert call() == "answer"

    def test_an_argument_that_cannot_be_used_shows_no_password(self) -> None:
        with pytest.raises(SetUpError) as caught:
            Choked(redis_url=f"redis://me:{SECRET}@127.0.0.1:port/0")
        assert SECRET not in str(caught.value)

    def test_an_empty_redis_url_is_none(self, monkeypatch: pytest.MonkeyPatch, key: str) -> None:
        monkeypatch.setenv("REDIS_URL", "")

        @choked(key=key, max_tokens=1, refill_period=1)
        def call() -> str:
            return "answer"

        assert call() == "answer"

    def test_the_same_key_from_choked_and_from_throttled_does_not_meet(
        self, virtual: MemoryStore, key: str
    ) -> None:
        from headway import Throttled

        @choked(key=key, max_tokens=1, refill_period=60)
        def call() -> None: ...

        call()
        assert Throttled(key=key, quota="1/m", store=virtual).limit()

    def test_that_the_state_is_in_the_process_is_said_once(
        self, caplog: pytest.LogCaptureFixture, key: str
    ) -> None:
        caplog.set_level(logging.INFO, "headway.choked")
        for number in range(3):

            @choked(key=f"{key} {number}", max_tokens=1, refill_period=1)
            def call() -> None: ...

        Choked()
        (said,) = logged(caplog, logging.INFO)
        assert "REDIS_URL" in said
        assert "choked" in said

    def test_an_api_token_without_a_url_is_refused_and_not_shown(self) -> None:
        with pytest.raises(SetUpError, match=r"api_token.*headway serve") as caught:
            Choked(api_token=SECRET)
        assert SECRET not in str(caught.value)

    def test_url_and_token_together_are_refused(self) -> None:
        with pytest.raises((ValueError, BaseThrottledError), match="redis_url or api_token"):
            Choked(redis_url="memory://", api_token=SECRET)

    def test_an_api_token_in_the_environment_needs_a_url_too(
        self, monkeypatch: pytest.MonkeyPatch, key: str
    ) -> None:
        monkeypatch.setenv("CHOKED_API_TOKEN", SECRET)
        with pytest.raises(SetUpError, match="CHOKED_API_URL") as caught:
            Choked()
        assert SECRET not in str(caught.value)
        with pytest.raises(SetUpError, match="CHOKED_API_URL"):

            @choked(key=key, max_tokens=1, refill_period=1)
            def call() -> None: ...

    def test_a_url_that_is_given_goes_before_a_token_in_the_environment(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("CHOKED_API_TOKEN", SECRET)
        Choked(redis_url="memory://")

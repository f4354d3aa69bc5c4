"""throttled-py's FastAPI names: signatures, fields, errors and keys are those of its 3.5.0."""

import inspect
import logging
import pickle
from collections.abc import Callable
from typing import Any

import pytest
from contrib_stage import ask, closed_port, statuses
from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, StreamingResponse

from headway import LimitedError, MemoryStore, StoreUnavailableError, per_min
from headway.asyncio import RedisStore
from headway.hooks import AsyncHook
from headway.throttled.asyncio.contrib import fastapi as mirror
from headway.throttled.asyncio.contrib.fastapi import (
    Limiter,
    RateLimitContext,
    RateLimitExceededError,
    RateLimitHeaderPolicy,
    RateLimitMiddleware,
    get_remote_address,
    rate_limit_exceeded_handler,
)
from headway.throttled.asyncio.contrib.fastapi.keys import KeyParts, compose_key


def app_with(limiter: Limiter, quota: Any = None, middleware: bool = True) -> FastAPI:
    app = FastAPI()
    app.add_exception_handler(RateLimitExceededError, rate_limit_exceeded_handler)
    if middleware:
        app.add_middleware(RateLimitMiddleware)

    @app.get("/items/{n}")
    @limiter.limit(quota)
    async def items(n: int, request: Request) -> dict[str, int]:
        return {"n": n}

    @app.get("/free")
    async def free() -> int:
        return 1

    return app


def test_the_names_are_those_of_the_package() -> None:
    assert set(mirror.__all__) == {
        "KeyFunc",
        "Limiter",
        "RateLimitContext",
        "RateLimitExceededError",
        "RateLimitHeaderPolicy",
        "RateLimitMiddleware",
        "get_remote_address",
        "rate_limit_exceeded_handler",
    }


def test_the_signatures_and_defaults_are_those_of_the_package() -> None:
    def shown(function: Any) -> list[tuple[str, str, Any]]:
        return [
            (p.name, p.kind.name, p.default)
            for p in inspect.signature(function).parameters.values()
        ]

    assert shown(Limiter) == [
        ("quota", "POSITIONAL_OR_KEYWORD", inspect.Parameter.empty),
        ("store", "KEYWORD_ONLY", None),
        ("using", "KEYWORD_ONLY", "token_bucket"),
        ("key_func", "KEYWORD_ONLY", None),
        ("hooks", "KEYWORD_ONLY", None),
    ]
    assert shown(Limiter("1/m").limit) == [
        ("quota", "POSITIONAL_OR_KEYWORD", None),
        ("key_func", "KEYWORD_ONLY", None),
    ]
    assert RateLimitHeaderPolicy() == RateLimitHeaderPolicy(
        "RateLimit-Limit", "RateLimit-Remaining", "RateLimit-Reset", "Retry-After"
    )


class TestRoutes:
    def test_requests_pass_with_fields_until_the_quota_is_used_up(self, store: MemoryStore) -> None:
        app = app_with(Limiter(per_min(2), store=store))
        answers = [ask(app, "/items/1") for _ in range(3)]
        assert [answer.status for answer in answers] == [200, 200, 429]
        assert answers[0].json == {"n": 1}
        assert answers[0].limits == {
            "ratelimit-limit": "2",
            "ratelimit-remaining": "1",
            "ratelimit-reset": "30",
        }
        assert answers[2].json == {"detail": "Rate limit exceeded"}
        assert answers[2].headers["retry-after"] == "30"
        assert answers[2].headers["ratelimit-remaining"] == "0"

    def test_without_a_key_func_all_callers_share_a_route(self) -> None:
        app = app_with(Limiter("1/m"))
        found = [ask(app, f"/items/{n}", client=(f"192.0.2.{n}", 1)).status for n in (1, 2)]
        assert found == [200, 429]

    def test_get_remote_address_is_a_key_func(self) -> None:
        app = app_with(Limiter("1/m", key_func=get_remote_address))
        found = [ask(app, "/items/1", client=(ip, 1)).status for ip in ("192.0.2.1", "192.0.2.2")]
        assert found == [200, 200]

    def test_a_route_may_have_a_quota_and_a_key_func_of_its_own(self) -> None:
        async def by_header(request: Request) -> str:
            return request.headers["x-id"]

        app = FastAPI()
        limiter = Limiter("100/m")

        @app.get("/items")
        @limiter.limit("1/m", key_func=by_header)
        async def items(request: Request) -> int:
            return 1

        app.add_exception_handler(RateLimitExceededError, rate_limit_exceeded_handler)
        found = [ask(app, "/items", headers={"x-id": who}).status for who in "aba"]
        assert found == [200, 200, 429]

    def test_routes_that_are_not_checked_have_no_fields(self) -> None:
        assert ask(app_with(Limiter("1/m")), "/free").limits == {}

    def test_without_the_middleware_only_a_denial_has_fields(self) -> None:
        app = app_with(Limiter("1/m"), middleware=False)
        first, second = ask(app, "/items/1"), ask(app, "/items/1")
        assert (first.limits, second.limits["ratelimit-limit"]) == ({}, "1")

    def test_streams_carry_the_fields(self) -> None:
        app = FastAPI()
        app.add_middleware(RateLimitMiddleware)

        @app.get("/stream")
        @Limiter("5/m").limit()
        async def stream(request: Request) -> StreamingResponse:
            return StreamingResponse(iter(["a", "b"]))

        answer = ask(app, "/stream")
        assert (answer.body, answer.limits["ratelimit-remaining"]) == (b"ab", "4")

    def test_a_middleware_that_is_subclassed_dispatches_as_its_base_does(self) -> None:
        class Own(RateLimitMiddleware):
            async def dispatch(self, request: Request, call_next: Any) -> Any:
                response = await super().dispatch(request, call_next)
                response.headers["x-own"] = "1"
                return response

        app = app_with(Limiter("5/m"), middleware=False)
        app.add_middleware(Own)
        answer = ask(app, "/items/1")
        assert (answer.headers["x-own"], answer.limits["ratelimit-remaining"]) == ("1", "4")

    def test_mounts_with_equal_routes_are_counted_apart(self) -> None:
        limiter, app = Limiter("1/m"), FastAPI()
        for prefix in ("/a", "/b"):
            app.mount(prefix, app_with(limiter))
        found = [ask(app, path).status for path in ("/a/items/1", "/b/items/1", "/a/items/2")]
        assert found == [200, 200, 429]

    def test_hooks_run_around_each_decision(self) -> None:
        seen: list[str] = []

        class Seen(AsyncHook):
            async def on_limit(self, call_next: Callable[[], Any], context: Any) -> Any:
                seen.append(context.key)
                return await call_next()

        ask(app_with(Limiter("1/m", hooks=[Seen()])), "/items/1")
        assert seen == ["GET|%2Fitems%2F%7Bn%7D|__throttled_global_principal__"]

    def test_other_algorithms_can_be_used(self) -> None:
        app = app_with(Limiter("1/m", using="fixed_window"))
        assert statuses(app, 2, "/items/1") == [200, 429]


class TestErrors:
    def test_a_plain_function_is_refused(self) -> None:
        with pytest.raises(TypeError, match="cannot wrap sync route function"):

            @Limiter("1/m").limit()  # type: ignore[arg-type]
            def items(request: Request) -> int:
                return 1

    def test_a_quota_is_needed(self) -> None:
        with pytest.raises(TypeError, match=r"^Limiter requires an explicit quota\.$"):
            Limiter(None)  # type: ignore[arg-type]

    def test_a_route_without_a_request_is_named(self) -> None:
        app = FastAPI()

        @app.get("/items")
        @Limiter("1/m").limit()
        async def items() -> int:
            return 1

        with pytest.raises(TypeError, match=r"requires a Request parameter in .*items"):
            ask(app, "/items")

    def down(self) -> Any:
        return RedisStore(f"redis://127.0.0.1:{closed_port()}/0?connect_timeout=0.2")

    def test_a_store_that_is_down_is_503(self, caplog: pytest.LogCaptureFixture) -> None:
        with caplog.at_level(logging.ERROR):
            answer = ask(app_with(Limiter("1/m", store=self.down())), "/items/1")
        assert (answer.status, answer.json) == (503, {"detail": "Rate limit store unavailable"})
        assert "rate limit store unavailable" in caplog.text

    def test_a_handler_of_the_app_for_that_error_goes_first(self) -> None:
        app = app_with(Limiter("1/m", store=self.down()))

        async def handler(request: Request, error: Exception) -> JSONResponse:
            return JSONResponse({"mine": True}, 500)

        app.add_exception_handler(StoreUnavailableError, handler)
        assert ask(app, "/items/1").json == {"mine": True}

    def test_a_denial_is_a_limitederror_with_its_context(self, store: MemoryStore) -> None:
        caught: list[RateLimitExceededError] = []
        app = app_with(Limiter("1/m", store=store))

        async def handler(request: Request, error: Any) -> JSONResponse:
            caught.append(error)
            return JSONResponse({}, 429)

        app.add_exception_handler(RateLimitExceededError, handler)
        statuses(app, 2, "/items/1")
        assert isinstance(caught[0], LimitedError)
        assert isinstance(caught[0].rate_limit_context, RateLimitContext)
        assert caught[0].rate_limit_result is caught[0].rate_limit_context.result
        copy = pickle.loads(pickle.dumps(caught[0]))
        assert copy.rate_limit_context == caught[0].rate_limit_context


def test_a_key_is_percent_encoded() -> None:
    parts = KeyParts(method="GET", route="/a/{b}", principal="x|y z~")
    assert compose_key(parts) == "GET|%2Fa%2F%7Bb%7D|x%7Cy%20z~"


class TestDropin:
    def test_the_drop_in_finds_them_under_the_packages_own_names(
        self, run_python: Callable[..., str]
    ) -> None:
        run_python("""
            import sys
            from headway import dropin
            dropin.install("throttled")
            assert "fastapi" not in sys.modules, "a framework is imported when it is asked for"
            from throttled.asyncio.contrib.fastapi import Limiter, RateLimitExceededError
            from throttled.asyncio.contrib.fastapi.exceptions import RateLimitExceededError as same
            from throttled.asyncio.contrib.fastapi.limiter import Limiter as limiter
            import headway.throttled.asyncio.contrib.fastapi as ours
            import throttled.asyncio.contrib.fastapi as theirs
            assert theirs is ours and same is RateLimitExceededError is ours.RateLimitExceededError
            assert limiter is Limiter is ours.Limiter
            assert ours.__spec__.name == ours.__name__
            dropin.uninstall("throttled")
            assert not [name for name in sys.modules if name.split(".")[0] == "throttled"]
        """)

    def test_a_module_that_there_is_not_is_not_found(self, run_python: Callable[..., str]) -> None:
        run_python("""
            from headway import dropin
            dropin.install("throttled")
            try:
                import throttled.asyncio.contrib.nothing
            except ModuleNotFoundError as error:
                assert error.name == "throttled.asyncio.contrib.nothing"
            else:
                raise AssertionError
        """)

    @pytest.mark.parametrize(
        ("module", "missing"),
        [
            ("headway.throttled.asyncio.contrib.fastapi", "fastapi"),
            ("headway.contrib.fastapi", "fastapi"),
            ("headway.contrib.starlette", "starlette"),
        ],
    )
    def test_without_the_framework_the_error_says_what_to_install(
        self, module: str, missing: str, run_python: Callable[..., str]
    ) -> None:
        run_python(
            """
            import sys
            from importlib import import_module
            sys.modules[sys.argv[2]] = None
            try:
                import_module(sys.argv[1])
            except ImportError as error:
                assert f"pip install 'headway[{sys.argv[2]}]'" in str(error), error
            else:
                raise AssertionError
            """,
            module,
            missing,
        )

    def test_the_core_and_asgi_need_no_framework(self, run_python: Callable[..., str]) -> None:
        run_python("""
            import sys
            import headway.contrib.asgi
            loaded = {name.split(".")[0] for name in sys.modules}
            assert not loaded & {"starlette", "fastapi", "redis", "anyio", "pydantic"}, loaded
            import headway
            assert "asyncio" not in loaded, "asyncio is not needed to import it"
        """)

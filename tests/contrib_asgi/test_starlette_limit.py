"""Starlette: the decorator on every kind of endpoint, and the middleware around an app."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest
from contrib_stage import Socket, ask, call, scope_of, statuses
from starlette.applications import Starlette
from starlette.authentication import AuthCredentials, AuthenticationBackend, SimpleUser
from starlette.background import BackgroundTask
from starlette.endpoints import HTTPEndpoint
from starlette.middleware import Middleware
from starlette.middleware.authentication import AuthenticationMiddleware
from starlette.requests import HTTPConnection, Request
from starlette.responses import FileResponse, JSONResponse, PlainTextResponse, StreamingResponse
from starlette.routing import Mount, Route, WebSocketRoute
from starlette.websockets import WebSocket

from headway import MemoryStore
from headway.contrib.starlette import (
    Concurrency,
    RateLimitExceeded,
    RateLimitMiddleware,
    Rule,
    client_address,
    combine,
    limit,
    problem_handler,
    route,
    user,
)
from headway.exceptions import SetUpError


def app_of(*endpoints: Any, **options: Any) -> Starlette:
    """Each endpoint at "/" and its name."""
    routes = [Route(f"/{endpoint.__name__}", endpoint) for endpoint in endpoints]
    return Starlette(routes=routes, **options)


class TestDecorator:
    def test_a_coroutine_endpoint(self, store: MemoryStore) -> None:
        @limit("2/m", store=store)
        async def items(request: Request) -> JSONResponse:
            return JSONResponse({"ok": True})

        app = app_of(items)
        answers = [ask(app, "/items") for _ in range(3)]
        assert [answer.status for answer in answers] == [200, 200, 429]
        assert answers[0].headers["ratelimit"] == '"items";r=1;t=30'
        assert answers[2].headers["retry-after"] == "30"
        assert answers[2].headers["x-ratelimit-remaining"] == "0"
        assert answers[2].body == b"Rate limit exceeded: try again in 30 seconds."

    def test_a_plain_endpoint_stays_one(self) -> None:
        @limit("2/m")
        def items(request: Request) -> PlainTextResponse:
            """Says hello."""
            return PlainTextResponse("ok")

        assert not asyncio.iscoroutinefunction(items)
        assert (items.__name__, items.__doc__) == ("items", "Says hello.")
        assert statuses(app_of(items), 3, "/items") == [200, 200, 429]

    def test_a_method_of_an_endpoint_class(self) -> None:
        class Items(HTTPEndpoint):
            @limit("1/m")
            async def get(self, request: Request) -> PlainTextResponse:
                return PlainTextResponse("ok")

            async def post(self, request: Request) -> PlainTextResponse:
                return PlainTextResponse("ok")

        app = Starlette(routes=[Route("/items", Items)])
        assert statuses(app, 2, "/items") == [200, 429]
        assert statuses(app, 2, "/items", method="POST") == [200, 200]

    @pytest.mark.parametrize("kind", ["stream", "file", "background"])
    def test_responses_of_every_type_carry_the_fields(self, kind: str, tmp_path: Path) -> None:
        ran: list[int] = []
        (tmp_path / "f.txt").write_text("file")

        async def pieces() -> Any:
            for piece in ("a", "b", "c"):
                yield piece

        @limit("5/m")
        async def items(request: Request) -> Any:
            if kind == "stream":
                return StreamingResponse(pieces())
            if kind == "file":
                return FileResponse(tmp_path / "f.txt")
            return PlainTextResponse("done", background=BackgroundTask(ran.append, 1))

        answer = ask(app_of(items), "/items")
        assert answer.observed()["items"] == (5, 4)
        assert answer.body == {"stream": b"abc", "file": b"file", "background": b"done"}[kind]
        assert ran == [1] * (kind == "background")

    def test_each_decorated_function_has_a_count_of_its_own(self) -> None:
        one = limit("1/m")

        @one
        async def a(request: Request) -> PlainTextResponse:
            return PlainTextResponse("a")

        @one
        async def b(request: Request) -> PlainTextResponse:
            return PlainTextResponse("b")

        app = app_of(a, b)
        assert statuses(app, 1, "/a") + statuses(app, 2, "/b") == [200, 200, 429]

    def test_rules_of_one_scope_and_store_share_a_count(self, store: MemoryStore) -> None:
        shared = limit(Rule("1/m", scope="both"), store=store)

        @shared
        async def a(request: Request) -> PlainTextResponse:
            return PlainTextResponse("a")

        @shared
        async def b(request: Request) -> PlainTextResponse:
            return PlainTextResponse("b")

        app = app_of(a, b)
        assert statuses(app, 1, "/a") + statuses(app, 1, "/b") == [200, 429]

    def test_two_decorators_are_told_as_one(self, store: MemoryStore) -> None:
        @limit("9/m", name="outer", store=store)
        @limit("1/m", name="inner", store=store)
        async def items(request: Request) -> PlainTextResponse:
            return PlainTextResponse("ok")

        app = app_of(items)
        first, second = ask(app, "/items"), ask(app, "/items")
        assert first.headers["ratelimit"] == '"outer";r=8;t=7, "inner";r=0;t=60'
        assert second.status == 429
        assert second.headers["ratelimit"] == '"inner";r=0;t=60'  # the other has lost nothing

    def test_a_key_function_gets_the_request_itself(self) -> None:
        @limit("1/m", key=lambda request: request.path_params["team"])
        async def items(request: Request) -> PlainTextResponse:
            return PlainTextResponse("ok")

        app = Starlette(routes=[Route("/{team}", items)])
        assert statuses(app, 2, "/a") + statuses(app, 1, "/b") == [200, 429, 200]

    def test_route_is_the_template_where_starlette_tells_it(self) -> None:
        seen: list[str] = []

        @limit("9/m", key=combine(route(), lambda request: seen.append(1) or "k"))
        async def items(request: Request) -> PlainTextResponse:
            return PlainTextResponse("ok")

        app = Starlette(routes=[Route("/{team}", items)])
        remaining = [ask(app, path).headers["x-ratelimit-remaining"] for path in ("/a", "/b")]
        assert remaining in (["8", "7"], ["8", "8"])  # older releases do not put it in the scope

    def test_an_exception_handler_may_render_problem_details(self) -> None:
        @limit("1/m")
        async def items(request: Request) -> PlainTextResponse:
            return PlainTextResponse("ok")

        app = app_of(items, exception_handlers={RateLimitExceeded: problem_handler})
        answer = [ask(app, "/items", headers={"accept": "application/json"}) for _ in range(2)][1]
        assert answer.headers["content-type"] == "application/problem+json"
        assert answer.json["violated-policies"] == ["items"]
        assert "retry-after" in answer.headers

    def test_an_endpoint_without_a_request_says_what_is_missing(self) -> None:
        @limit("1/m")
        async def items() -> None: ...

        with pytest.raises(SetUpError, match="called without a Request"):
            asyncio.run(items())

    def test_a_class_is_refused(self) -> None:
        with pytest.raises(SetUpError, match="Invalid endpoint"):
            limit("1/m")(HTTPEndpoint)

    def test_a_websocket_endpoint_holds_its_permit_while_it_is_connected(self) -> None:
        @limit(Concurrency(1))
        async def live(websocket: WebSocket) -> None:
            await websocket.accept()
            async for _ in websocket.iter_text():
                pass

        app = Starlette(routes=[WebSocketRoute("/live", live)])

        async def run() -> None:
            async with Socket(app, "/live") as first:
                async with Socket(app, "/live", denial=True) as second:
                    assert (first.accepted, second.accepted) == (True, False)
                    assert second.answer.status == 429
                    assert second.answer.headers["retry-after"] == "5"
                async with Socket(app, "/live") as third:
                    assert third.answer.messages[0]["code"] == 1013
            async with Socket(app, "/live") as later:
                assert later.accepted

        asyncio.run(run())


class TestMiddleware:
    @pytest.mark.parametrize("spec", ["2.3", "2.4"])
    @pytest.mark.parametrize("kind", ["text", "stream", "file"])
    @pytest.mark.parametrize("where", ["middleware", "decorator", "both"])
    def test_a_permit_is_held_while_a_body_is_sent_and_not_by_a_background_task(
        self, where: str, kind: str, spec: str, tmp_path: Path
    ) -> None:
        """spec: older servers have Starlette send streams and files from a task of its own."""
        path = tmp_path / "file"
        path.write_bytes(b"x" * 100_000)
        go = asyncio.Event()
        first_only = [go]

        async def background() -> None:
            if first_only:
                await first_only.pop().wait()

        async def parts() -> Any:
            yield b"one"
            yield b"two"

        async def answer(request: Request) -> Any:
            task = BackgroundTask(background)
            if kind == "text":
                return PlainTextResponse("x", background=task)
            if kind == "file":
                return FileResponse(path, background=task)
            return StreamingResponse(parts(), background=task)

        async def run() -> list[int]:
            held = Concurrency(1)
            endpoint = answer if where == "middleware" else limit(held)(answer)
            limits = [] if where == "decorator" else [Middleware(RateLimitMiddleware, limits=held)]
            app = app_of(endpoint, middleware=limits)
            begun, sending, ended = (asyncio.Event() for _ in range(3))

            async def send(message: Any) -> None:
                if message["type"] == "http.response.body":
                    begun.set()
                    await sending.wait()  # the client reads slowly
                    if not message.get("more_body"):
                        ended.set()

            async def receive() -> Any:
                await asyncio.Event().wait()

            asgi = {"version": "3.0", "spec_version": spec}
            scope = scope_of("/answer", asgi=asgi)
            first = asyncio.ensure_future(app(scope, receive, send))
            await asyncio.wait_for(begun.wait(), 30)
            found = [(await call(app, "/answer", asgi=asgi)).status]
            sending.set()
            await asyncio.wait_for(ended.wait(), 30)
            for _ in range(10):  # it comes back after the last message, before the task has ended
                await asyncio.sleep(0)
            found.append((await call(app, "/answer", asgi=asgi)).status)
            assert not first.done()
            go.set()
            await first
            return found

        assert asyncio.run(asyncio.wait_for(run(), 30)) == [429, 200]

    @pytest.mark.parametrize("where", ["middleware", "decorator"])
    def test_a_client_that_leaves_takes_its_permit_from_a_background_task(self, where: str) -> None:
        async def run() -> list[int]:
            running, rest = asyncio.Event(), asyncio.Event()

            async def background() -> None:
                running.set()
                await rest.wait()

            async def parts() -> Any:
                yield b"one"
                await asyncio.Event().wait()

            async def stream(request: Request) -> Any:
                return StreamingResponse(parts(), background=BackgroundTask(background))

            async def ok(request: Request) -> Any:
                return PlainTextResponse("ok")

            held = Concurrency(1, scope="one")
            store = MemoryStore()
            if where == "decorator":
                app = app_of(*(limit(held, store=store)(one) for one in (stream, ok)))
            else:
                app = app_of(stream, ok, middleware=[Middleware(RateLimitMiddleware, limits=held)])
            left = asyncio.Event()

            async def receive() -> Any:
                await left.wait()
                return {"type": "http.disconnect"}

            async def send(message: Any) -> None:
                pass

            asgi = {"version": "3.0", "spec_version": "2.3"}
            scope = scope_of("/stream", asgi=asgi)
            first = asyncio.ensure_future(app(scope, receive, send))
            for _ in range(10):
                await asyncio.sleep(0)
            found = [(await call(app, "/ok")).status]
            left.set()
            await asyncio.wait_for(running.wait(), 30)
            found.append((await call(app, "/ok")).status)
            rest.set()
            await first
            return found

        assert asyncio.run(asyncio.wait_for(run(), 30)) == [429, 200]

    def test_callables_are_given_a_request(self) -> None:
        seen: list[type] = []

        def key(request: Any) -> str:
            seen.append(type(request))
            return str(request.query_params["k"])

        async def items(request: Request) -> PlainTextResponse:
            return PlainTextResponse((await request.body()).decode())

        app = Starlette(
            routes=[Route("/items", items, methods=["POST"])],
            middleware=[Middleware(RateLimitMiddleware, limits="1/m", key=key)],
        )
        answer = ask(app, "/items", "POST", query_string=b"k=1", body=b"payload")
        assert (answer.status, answer.body) == (200, b"payload")
        assert seen == [Request]

    def test_middleware_and_decorator_are_told_as_one(self, store: MemoryStore) -> None:
        @limit("2/m", store=store)
        async def items(request: Request) -> PlainTextResponse:
            return PlainTextResponse("ok")

        middleware = [Middleware(RateLimitMiddleware, limits="9/m", store=store)]
        app = app_of(items, middleware=middleware)
        answers = [ask(app, "/items") for _ in range(3)]
        assert answers[0].headers["ratelimit"] == '"default";r=8;t=7, "items";r=1;t=30'
        assert answers[2].status == 429
        assert answers[2].headers["retry-after"] == "30"
        assert answers[2].headers["ratelimit"] == '"items";r=0;t=60'

    def test_a_mounted_app_has_limits_of_its_own(self, store: MemoryStore) -> None:
        async def items(request: Request) -> PlainTextResponse:
            return PlainTextResponse("ok")

        def middleware(quota: str, name: str) -> list[Middleware]:
            return [Middleware(RateLimitMiddleware, limits=Rule(quota, name=name), store=store)]

        inner = Starlette(routes=[Route("/items", items)], middleware=middleware("1/m", "inner"))
        app = Starlette(
            routes=[Mount("/api", inner), Route("/items", items)],
            middleware=middleware("9/m", "outer"),
        )
        assert statuses(app, 2, "/api/items") == [200, 429]
        assert statuses(app, 2, "/items") == [200, 200]
        assert ask(app, "/api/items").observed()["inner"] == (1, 0)

    def test_the_user_is_whom_starlettes_authentication_names(self) -> None:
        class ByHeader(AuthenticationBackend):
            async def authenticate(self, conn: HTTPConnection) -> Any:
                name = conn.headers.get("x-user")
                return (AuthCredentials(), SimpleUser(name)) if name else None

        async def items(request: Request) -> PlainTextResponse:
            return PlainTextResponse("ok")

        app = app_of(
            items,
            middleware=[
                Middleware(AuthenticationMiddleware, backend=ByHeader()),
                Middleware(RateLimitMiddleware, limits="1/m", key=user(missing=client_address())),
            ],
        )
        found = [
            ask(app, "/items", headers={"x-user": name} if name else {}).status
            for name in ("ann", "bob", "", "ann", "")
        ]
        assert found == [200, 200, 200, 429, 429]

    def test_an_exception_of_an_endpoint_is_the_apps(self) -> None:
        async def broken(request: Request) -> None:
            raise LookupError("mine")

        async def handler(request: Request, error: Exception) -> PlainTextResponse:
            return PlainTextResponse(f"handled {error}", 404)

        app = app_of(
            broken,
            exception_handlers={LookupError: handler},
            middleware=[Middleware(RateLimitMiddleware, limits="5/m")],
        )
        answer = ask(app, "/broken")
        assert (answer.status, answer.body) == (404, b"handled mine")
        assert answer.observed()["default"] == (5, 4)

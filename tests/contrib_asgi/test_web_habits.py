"""What web teams have reported of other limiters: FastAPI, Starlette, and what all share."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from contrib_stage import Plain, ask, call, decisions, statuses
from fastapi import APIRouter, Depends, FastAPI, Request
from starlette.applications import Starlette
from starlette.responses import PlainTextResponse
from starlette.routing import Route, WebSocketRoute
from starlette.websockets import WebSocket

import headway
from headway.contrib import Concurrency, Policy, Rule, api_key, client_address, combine, route, user
from headway.contrib.fastapi import RateLimit
from headway.contrib.starlette import RateLimitMiddleware, limit
from headway.exceptions import SetUpError


class TestWebSocketsThatAreAccepted:
    def test_a_message_handler_that_is_denied_takes_no_message_and_closes(self) -> None:
        handled, sent = [], []

        @limit("1/h")
        async def on_message(websocket: WebSocket, text: str) -> None:
            handled.append(text)

        async def chat(websocket: WebSocket) -> None:
            await websocket.accept()
            while True:
                await on_message(websocket, await websocket.receive_text())

        async def main() -> None:
            inbox: asyncio.Queue[Any] = asyncio.Queue()
            inbox.put_nowait({"type": "websocket.connect"})
            for text in ("m0", "m1", "m2"):
                inbox.put_nowait({"type": "websocket.receive", "text": text})

            async def send(message: Any) -> None:
                sent.append(message)

            app = Starlette(routes=[WebSocketRoute("/", chat)])
            scope = {
                "type": "websocket", "path": "/", "raw_path": b"/", "headers": [], "root_path": "",
                "query_string": b"", "scheme": "ws", "client": ("192.0.2.1", 1),
                "server": ("x", 80), "subprotocols": [], "extensions": {},
            }  # fmt: skip
            await asyncio.wait_for(app(scope, inbox.get, send), 30)
            assert inbox.qsize() == 1  # m2

        asyncio.run(main())
        assert handled == ["m0"]
        assert [m["type"] for m in sent] == ["websocket.accept", "websocket.close"]
        assert sent[-1]["code"] == 1013

    def test_an_endpoint_may_catch_the_denial_and_answer_it(self) -> None:
        from starlette.exceptions import WebSocketException

        sent = []

        @limit("1/h")
        async def on_message(websocket: WebSocket) -> None:
            await websocket.send_text("ok")

        async def chat(websocket: WebSocket) -> None:
            await websocket.accept()
            for _ in range(2):
                await websocket.receive_text()
                try:
                    await on_message(websocket)
                except WebSocketException as denial:
                    await websocket.send_text(denial.reason)

        async def main() -> None:
            inbox: asyncio.Queue[Any] = asyncio.Queue()
            inbox.put_nowait({"type": "websocket.connect"})
            for _ in range(2):
                inbox.put_nowait({"type": "websocket.receive", "text": "m"})

            async def send(message: Any) -> None:
                sent.append(message.get("text"))

            scope = {"type": "websocket", "path": "/", "headers": [], "client": ("192.0.2.1", 1)}
            await asyncio.wait_for(chat(WebSocket(scope, inbox.get, send)), 30)

        asyncio.run(main())
        assert sent == [None, "ok", "Rate limit exceeded: try again in 3600 seconds."]


@pytest.mark.parametrize("value", ["false", "0", "", 0, 1, None])
def test_a_switch_is_a_bool(value: Any) -> None:
    with pytest.raises(SetUpError, match="Invalid dry_run: "):
        Rule("1/m", dry_run=value)
    with pytest.raises(SetUpError, match="Invalid dry_run: "):
        Policy("1/m", dry_run=value)
    for switch in ("websockets", "requests", "dry_run"):
        with pytest.raises(SetUpError, match=f"Invalid {switch}: "):
            Concurrency(1, **{switch: value})


class TestRoutes:
    def test_routes_of_two_included_routers_are_counted_apart(self) -> None:
        each = RateLimit("2/m", name="each", key=combine(client_address(), route()))
        app = FastAPI()
        for prefix in ("/v1", "/v2"):
            router = APIRouter()
            router.add_api_route("/items/{id}", lambda id: id)
            app.include_router(router, prefix=prefix, dependencies=[Depends(each)])
        assert statuses(app, 3, "/v1/items/1") == [200, 200, 429]
        assert statuses(app, 3, "/v2/items/1") == [200, 200, 429]
        assert statuses(app, 1, "/v1/items/2") == [429]

    def test_throttled_pys_limiter_counts_them_apart_too(self) -> None:
        from headway.throttled.asyncio.contrib.fastapi import Limiter, RateLimitExceededError

        app = FastAPI()
        limiter = Limiter("1/m")
        for prefix in ("/v1", "/v2"):
            router = APIRouter()

            @router.get("/items/{id}")
            @limiter.limit()
            async def item(request: Request, id: str) -> str:
                return id

            app.include_router(router, prefix=prefix)
        app.add_exception_handler(RateLimitExceededError, lambda *_: PlainTextResponse("no", 429))
        found = [ask(app, path).status for path in ("/v1/items/1", "/v2/items/1", "/v1/items/1")]
        assert found == [200, 200, 429]

    def test_head_is_counted_with_get(self) -> None:
        policy = Policy("2/m", key=route())
        found = decisions(policy, [Plain("GET"), Plain("HEAD"), Plain("GET"), Plain("POST")])
        assert found == [200, 200, 429, 200]


@pytest.mark.parametrize("header", ["authorization", "Proxy-Authorization"])
def test_a_scheme_of_authorization_in_other_letters_is_the_same_key(header: str) -> None:
    key = api_key(header=header)
    spellings = ("Bearer s3cret", "bearer s3cret", "BEARER  s3cret", "BeaRer \t s3cret ")
    assert len({key(Plain(headers={header.lower(): one})) for one in spellings}) == 1
    others = ("Bearer S3cret", "Basic s3cret", "s3cret", "Bearer")
    assert len({key(Plain(headers={header.lower(): one})) for one in others}) == 4


class TestLongestWait:
    @pytest.mark.parametrize("using", ["token_bucket", "gcra", "fixed_window", "sliding_window"])
    @pytest.mark.parametrize("turned", [False, True])
    def test_a_denial_tells_the_longest_of_all_rules(self, using: str, turned: bool) -> None:
        clock = headway.VirtualClock(10**18)
        rules = [Rule("1/s", name="s", using=using), Rule("1/h", name="h", using=using)]
        policy = Policy(rules[::-1] if turned else rules, store=headway.MemoryStore(clock=clock))
        assert policy.decide(Plain()).allowed
        denied = policy.decide(Plain())
        assert denied.status == 429
        assert (denied.retry_after or 0) > 100
        assert dict(denied.fields())["ratelimit"].startswith('"h";r=0;')
        clock.advance(denied.retry_after or 0)
        assert policy.decide(Plain()).allowed

    def test_a_rule_that_would_admit_loses_nothing(self) -> None:
        store = headway.MemoryStore(clock=headway.VirtualClock(10**18))
        policy = Policy([Rule("1/m", name="m"), Rule("10/h", name="h")], store=store)
        first = policy.decide(Plain())
        assert decisions(policy, [Plain()] * 4) == [429, 429, 429, 429]
        asked = first.outcomes[1]
        assert asked.name == "h"
        assert asked.limits is not None
        assert asked.limits.limiter.peek(asked.key).remaining == 9

    def test_the_awaited_decision_is_the_same(self) -> None:
        app = RateLimitMiddleware(
            Starlette(routes=[Route("/", lambda request: PlainTextResponse("ok"))]),
            [Rule("1/s", name="s"), Rule("1/h", name="h")],
        )
        assert ask(app).status == 200
        assert int(ask(app).headers["retry-after"]) > 100


def test_fields_that_an_application_sets_itself_are_replaced() -> None:
    async def up(request: Any) -> PlainTextResponse:
        return PlainTextResponse("up", headers={"X-RateLimit-Limit": "60", "RateLimit": '"up";r=3'})

    app = RateLimitMiddleware(Starlette(routes=[Route("/", up)]), "100/m")
    answer = ask(app)
    assert answer.headers["x-ratelimit-limit"] == "100"  # fails where one stands there twice
    assert answer.headers["ratelimit"] == '"default";r=99;t=1'


@pytest.mark.parametrize("factory", [client_address, api_key, user, route, combine])
def test_a_key_function_that_was_not_called_is_refused(factory: Any) -> None:
    with pytest.raises(SetUpError, match=rf"must be called: key={factory.__name__}\("):
        Rule("1/m", key=factory)


class TestProxies:
    def test_a_mapped_network_of_proxies_is_the_network(self) -> None:
        key = client_address("::ffff:10.0.0.0/104")
        assert (
            key(Plain(ip="10.1.2.3", headers={"x-forwarded-for": "198.51.100.7"})) == "198.51.100.7"
        )

    @pytest.mark.parametrize("value", ["203.0.113.5,", "203.0.113.5, ,", ", 203.0.113.5 , "])
    def test_empty_elements_are_nobody(self, value: str) -> None:
        key = client_address("10.0.0.0/8")
        assert key(Plain(ip="10.0.0.1", headers={"x-forwarded-for": value})) == "203.0.113.5"


def test_fields_are_told_where_a_dependency_is_annotated_with_a_response_class() -> None:
    from headway.contrib.fastapi import limit as fastapi_limit

    app = FastAPI()

    def made() -> PlainTextResponse:
        return PlainTextResponse("x")

    @app.get("/")
    @fastapi_limit("5/m")
    def endpoint(answer: PlainTextResponse = Depends(made)) -> dict[str, str]:  # noqa: B008
        return {"body": bytes(answer.body).decode()}

    assert asyncio.run(call(app)).limits["ratelimit"] == '"endpoint";r=4;t=12'


async def awaited(request: Any) -> Any:
    return "1/m"


class Awaited:
    async def __call__(self, request: Any) -> Any:
        return 1


CALLABLES = [
    {"limits": awaited},
    {"limits": Rule(awaited)},
    {"limits": Rule("1/m", cost=Awaited())},
    {"limits": Rule("1/m", key=awaited)},
    {"limits": Rule("1/m", exempt=["/x", awaited])},
    {"limits": "1/m", "key": combine(client_address(), awaited)},
    {"limits": "1/m", "key": user(missing=awaited)},
    {"limits": "1/m", "exempt": Awaited()},
]


@pytest.mark.parametrize("options", CALLABLES)
def test_a_coroutine_function_is_refused_at_once_where_nothing_awaits_it(options: Any) -> None:
    from headway.contrib.wsgi import RateLimitMiddleware as WsgiMiddleware

    def plain(request: Any) -> PlainTextResponse:
        return PlainTextResponse("ok")

    async def endpoint(request: Any) -> PlainTextResponse:
        return PlainTextResponse("ok")

    with pytest.raises(SetUpError, match="coroutine function"):
        limit(options["limits"], **{k: v for k, v in options.items() if k != "limits"})(plain)
    with pytest.raises(SetUpError, match="coroutine function"):
        WsgiMiddleware(lambda environ, start: [], **options)
    limit(options["limits"], **{k: v for k, v in options.items() if k != "limits"})(endpoint)
    RateLimitMiddleware(Starlette(), **options)

"""FastAPI: the dependency, the decorator, the middleware, and all of them together."""

import asyncio
from pathlib import Path
from typing import Annotated, Any

import pytest
from contrib_stage import Socket, ask, closed_port, statuses
from fastapi import APIRouter, BackgroundTasks, Depends, FastAPI, Request, Response, WebSocket
from fastapi.responses import FileResponse, JSONResponse, StreamingResponse
from pydantic import BaseModel

from headway import MemoryStore
from headway.contrib.fastapi import (
    RESPONSES,
    Concurrency,
    RateLimit,
    RateLimitExceeded,
    RateLimitHeaders,
    RateLimitMiddleware,
    Rule,
    Verdict,
    api_key,
    client_address,
    combine,
    limit,
    problem_handler,
    route,
)
from headway.exceptions import SetUpError


class Item(BaseModel):
    name: str


class TestDependency:
    def test_it_limits_a_route_and_tells_so(self, store: MemoryStore) -> None:
        app = FastAPI()

        @app.get("/items", dependencies=[Depends(RateLimit("2/m", name="items", store=store))])
        async def items() -> dict[str, str]:
            return {"a": "b"}

        answers = [ask(app, "/items") for _ in range(3)]
        assert [answer.status for answer in answers] == [200, 200, 429]
        assert answers[0].json == {"a": "b"}
        assert answers[0].headers["ratelimit"] == '"items";r=1;t=30'
        assert answers[2].json == {"detail": "Rate limit exceeded: try again in 30 seconds."}
        assert answers[2].headers["retry-after"] == "30"
        assert answers[2].headers["ratelimit"] == '"items";r=0;t=60'

    def test_plain_endpoints_too(self) -> None:
        app = FastAPI()

        @app.get("/items", dependencies=[Depends(RateLimit("1/m"))])
        def items() -> dict[str, str]:
            return {}

        assert statuses(app, 2, "/items") == [200, 429]

    def test_an_endpoint_can_read_the_verdict(self) -> None:
        app = FastAPI()
        search = RateLimit("5/m")

        @app.get("/items")
        async def items(verdict: Annotated[Verdict, Depends(search)]) -> dict[str, int]:
            result = verdict.outcomes[0].result
            assert result is not None
            return {"left": result.state.remaining}

        assert ask(app, "/items").json == {"left": 4}

    def test_a_router_shares_one_count_unless_the_key_has_the_route(self) -> None:
        def app_with(key: Any) -> FastAPI:
            app = FastAPI()
            router = APIRouter(prefix="/api", dependencies=[Depends(RateLimit("1/m", key=key))])

            @router.get("/a/{n}")
            async def a(n: int) -> int:
                return n

            @router.get("/b")
            async def b() -> int:
                return 1

            app.include_router(router)
            return app

        shared = app_with(None)
        assert statuses(shared, 1, "/api/a/1") + statuses(shared, 1, "/api/b") == [200, 429]
        apart = app_with(combine(client_address(), route()))
        found = [ask(apart, path).status for path in ("/api/a/1", "/api/b", "/api/a/2")]
        assert found == [200, 200, 429]  # /a/1 and /a/2 are one route

    def test_two_dependencies_are_told_as_one(self, store: MemoryStore) -> None:
        app = FastAPI(dependencies=[Depends(RateLimit("9/m", name="app", store=store))])

        @app.get("/items", dependencies=[Depends(RateLimit("1/m", name="items", store=store))])
        async def items() -> int:
            return 1

        first, second = ask(app, "/items"), ask(app, "/items")
        assert first.headers["ratelimit"] == '"app";r=8;t=7, "items";r=0;t=60'
        assert (second.status, second.headers["retry-after"]) == (429, "60")

    def test_streams_and_files_carry_the_fields_with_the_headers_middleware(
        self, tmp_path: Path
    ) -> None:
        (tmp_path / "f.txt").write_text("file")
        app = FastAPI(dependencies=[Depends(RateLimit("9/m"))])
        app.add_middleware(RateLimitHeaders)

        @app.get("/stream")
        async def stream() -> StreamingResponse:
            return StreamingResponse(iter(["a", "b"]))

        @app.get("/file")
        async def file() -> FileResponse:
            return FileResponse(tmp_path / "f.txt")

        @app.get("/plain")
        async def plain() -> int:
            return 1

        for path, body in (("/stream", b"ab"), ("/file", b"file"), ("/plain", b"1")):
            answer = ask(app, path)
            assert answer.body == body
            assert answer.observed()["route"][0] == 9

    def test_it_denies_a_websocket(self) -> None:
        app = FastAPI()

        @app.websocket("/live", dependencies=[Depends(RateLimit("1/m"))])
        async def live(websocket: WebSocket) -> None:
            await websocket.accept()
            async for _ in websocket.iter_text():
                pass

        async def run() -> None:
            async with Socket(app, "/live") as first, Socket(app, "/live") as second:
                assert first.accepted
                assert second.answer.messages[0]["code"] == 1013

        asyncio.run(run())

    def test_a_concurrency_is_refused(self) -> None:
        with pytest.raises(SetUpError, match="cannot hold a permit"):
            RateLimit(Concurrency(1))

    @pytest.mark.parametrize(
        "limits", ["1/m", Rule("1/m"), [Rule("1/m", name="a"), "2/m"], lambda request: "1/m"]
    )
    def test_on_a_store_that_others_may_use_it_needs_a_name(
        self, limits: Any, store: MemoryStore
    ) -> None:
        with pytest.raises(SetUpError, match="Invalid name: None, must be given where a store is"):
            RateLimit(limits, store=store)

    @pytest.mark.parametrize(
        "limits", [Rule("1/m", name="a"), Rule("1/m", scope="a"), [Rule("1/m", name="a")]]
    )
    def test_rules_that_have_names_are_enough_on_a_store(
        self, limits: Any, store: MemoryStore
    ) -> None:
        app = FastAPI()
        app.get("/items", dependencies=[Depends(RateLimit(limits, store=store))])(lambda: 1)
        assert statuses(app, 2, "/items") == [200, 429]

    def test_two_without_a_name_and_a_store_count_apart(self) -> None:
        app = FastAPI()
        for path in ("/a", "/b"):
            app.get(path, dependencies=[Depends(RateLimit("1/m"))])(lambda: 1)
        assert [ask(app, path).status for path in ("/a", "/b", "/a")] == [200, 200, 429]

    def test_the_schema_shows_429_where_it_is_asked_for(self) -> None:
        app = FastAPI(responses=RESPONSES)

        @app.get("/items", dependencies=[Depends(RateLimit("1/m"))])
        async def items() -> int:
            return 1

        shown = app.openapi()["paths"]["/items"]["get"]
        assert "Retry-After" in shown["responses"]["429"]["headers"]
        assert "parameters" not in shown

    def test_a_handler_may_render_problem_details(self) -> None:
        app = FastAPI(dependencies=[Depends(RateLimit("1/m"))])
        app.add_exception_handler(RateLimitExceeded, problem_handler)

        @app.get("/items")
        async def items() -> int:
            return 1

        answer = [ask(app, "/items") for _ in range(2)][1]
        assert answer.json["status"] == 429
        assert answer.headers["content-type"] == "application/problem+json"

    def test_a_store_that_is_down_is_503(self) -> None:
        url = f"redis://127.0.0.1:{closed_port()}/0?connect_timeout=0.2"
        app = FastAPI(dependencies=[Depends(RateLimit("1/m", name="items", store=url))])

        @app.get("/items")
        async def items() -> int:
            return 1

        answer = ask(app, "/items")
        assert (answer.status, answer.headers["retry-after"]) == (503, "5")
        assert answer.json == {"detail": "The rate limit cannot be checked at the moment."}

    def test_tiers_keys_and_costs_are_told_by_the_request(self) -> None:
        def quota(request: Request) -> str:
            return "4/m" if request.headers["x-api-key"].startswith("paid") else "1/m"

        search = RateLimit(Rule(quota, cost=lambda r: int(r.query_params["n"])), key=api_key())
        app = FastAPI(dependencies=[Depends(search)])

        @app.get("/items")
        async def items(n: int) -> int:
            return n

        def status(key: str, n: int) -> int:
            headers = {"x-api-key": key}
            return ask(app, "/items", headers=headers, query_string=f"n={n}".encode()).status

        assert [status("free", 1), status("free", 1), status("free2", 2)] == [200, 429, 429]
        assert [status("paid", 3), status("paid", 2), status("paid", 1)] == [200, 429, 200]


class TestDecorator:
    def test_an_endpoint_need_not_take_the_request(self, store: MemoryStore) -> None:
        app = FastAPI()

        @app.post("/items/{n}")
        @limit("2/m", store=store)
        async def items(n: int, item: Item, q: str = "x") -> dict[str, Any]:
            return {"n": n, "name": item.name, "q": q}

        body = b'{"name": "a"}'
        answers = [
            ask(app, "/items/5", "POST", body=body, headers={"content-type": "application/json"})
            for _ in range(3)
        ]
        assert [answer.status for answer in answers] == [200, 200, 429]
        assert answers[0].json == {"n": 5, "name": "a", "q": "x"}
        assert answers[0].headers["ratelimit"] == '"items";r=1;t=30'
        assert answers[2].headers["ratelimit"] == '"items";r=0;t=60'
        shown = app.openapi()["paths"]["/items/{n}"]["post"]
        assert [one["name"] for one in shown["parameters"]] == ["n", "q"]

    def test_a_plain_endpoint(self) -> None:
        app = FastAPI()

        @app.get("/items")
        @limit("1/m")
        def items(background: BackgroundTasks) -> int:
            background.add_task(int)
            return 1

        answers = [ask(app, "/items") for _ in range(2)]
        assert [answer.status for answer in answers] == [200, 429]
        assert answers[0].observed()["items"] == (1, 0)

    def test_one_that_takes_request_and_response_gets_its_own(self) -> None:
        app = FastAPI()

        @app.get("/items")
        @limit("5/m")
        async def items(request: Request, response: Response) -> str:
            response.headers["x-own"] = request.url.path
            return "ok"

        answer = ask(app, "/items")
        assert answer.headers["x-own"] == "/items"
        assert answer.observed()["items"] == (5, 4)

    @pytest.mark.parametrize("awaits", [True, False])
    def test_a_response_of_its_own_carries_the_fields(self, awaits: bool) -> None:
        app = FastAPI()

        async def stream() -> Any:
            return StreamingResponse(iter(["a", "b"]))

        def plain() -> Any:
            return JSONResponse({"a": 1})

        app.get("/items")(limit("5/m", name="items")(stream if awaits else plain))
        answer = ask(app, "/items")
        assert answer.body == (b"ab" if awaits else b'{"a":1}')
        assert answer.observed()["items"] == (5, 4)

    def test_two_decorators_a_dependency_and_a_middleware_are_told_as_one(
        self, store: MemoryStore
    ) -> None:
        for middleware in (False, True):
            store.clear()
            app = FastAPI(dependencies=[Depends(RateLimit("7/m", name="dep", store=store))])
            if middleware:
                app.add_middleware(RateLimitMiddleware, limits="9/m", store=store)

            @app.get("/items")
            @limit("6/m", name="out", store=store)
            @limit("5/m", name="in", store=store)
            async def items() -> int:
                return 1

            names = [
                part.split(";")[0] for part in ask(app, "/items").headers["ratelimit"].split(", ")
            ]
            assert names == ['"default"'] * middleware + ['"dep"', '"out"', '"in"']

    def test_a_websocket_endpoint(self) -> None:
        app = FastAPI()

        @app.websocket("/live/{room}")
        @limit(Concurrency(1))
        async def live(websocket: WebSocket, room: str) -> None:
            await websocket.accept()
            async for _ in websocket.iter_text():
                pass

        async def run() -> None:
            async with Socket(app, "/live/a") as first:
                async with Socket(app, "/live/a", denial=True) as second:
                    assert (first.accepted, second.answer.status) == (True, 429)
            async with Socket(app, "/live/a") as later:
                assert later.accepted

        asyncio.run(run())

    def test_called_directly_it_asks_for_a_request(self) -> None:
        @limit("1/m")
        async def items(n: int) -> int:
            return n

        with pytest.raises(SetUpError, match="called without a Request"):
            asyncio.run(items(1))

    def test_annotations_in_quotes_are_resolved(self) -> None:
        app = FastAPI()

        @app.post("/items")
        @limit("5/m")
        async def items(item: "Item", request: "Request") -> "dict[str, str]":
            return {"name": item.name, "path": request.url.path}

        headers = {"content-type": "application/json"}
        answer = ask(app, "/items", "POST", body=b'{"name": "a"}', headers=headers)
        assert answer.json == {"name": "a", "path": "/items"}


class TestMiddleware:
    def test_it_limits_everything_but_what_is_exempt(self) -> None:
        app = FastAPI()
        app.add_middleware(
            RateLimitMiddleware,
            limits=[Rule("3/m", name="all"), Rule("1/m", name="login", paths="/login")],
            exempt=["/docs", "/openapi.json"],
        )

        @app.get("/login")
        async def login() -> int:
            return 1

        @app.get("/items")
        async def items() -> int:
            return 1

        assert statuses(app, 2, "/login") == [200, 429]
        assert statuses(app, 3, "/items") == [200, 200, 429]
        assert statuses(app, 3, "/openapi.json") == [200] * 3

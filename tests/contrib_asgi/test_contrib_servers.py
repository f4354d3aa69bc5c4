"""The integrations in uvicorn, asked by httpx and websockets over real connections."""

from __future__ import annotations

import asyncio
import concurrent.futures
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import websockets
from contrib_stage import DEADLINE_S, Served, ask, call, hello
from fastapi import Depends, FastAPI, WebSocket
from fastapi.responses import FileResponse, StreamingResponse

from headway import _core
from headway.contrib.asgi import RateLimitMiddleware as PureMiddleware
from headway.contrib.fastapi import (
    Concurrency,
    RateLimit,
    RateLimitMiddleware,
    Rule,
    client_address,
    limit,
)

sys.path.append(str(Path(__file__).parents[1] / "redis"))

from servers import RedisServer


def observed(response: httpx.Response) -> dict[str, tuple[int | None, int | None]]:
    seen = _core.parse_headers(response.headers.raw, response.status_code)
    assert seen.ignored == 0
    return {one.name: (one.limit, one.remaining) for one in seen.dimensions}


@pytest.fixture
def redis() -> Iterator[RedisServer]:
    if shutil.which("redis-server") is None:
        pytest.skip("redis-server is not installed")
    with RedisServer() as server:
        yield server


def crowd(url: str, clients: int, each: int) -> list[int]:
    """The statuses that `clients` threads get, each over a connection of its own."""

    def one(_: int) -> list[int]:
        with httpx.Client(timeout=DEADLINE_S, trust_env=False) as client:
            return [client.get(url).status_code for _ in range(each)]

    with concurrent.futures.ThreadPoolExecutor(clients) as threads:
        return [status for found in threads.map(one, range(clients)) for status in found]


def test_four_clients_at_once_get_the_quota_and_no_more() -> None:
    with Served(PureMiddleware(hello, "50/h")) as server:
        found = crowd(server.url, 4, 40)
    assert (found.count(200), found.count(429)) == (50, 110)


def test_two_servers_with_one_redis_share_the_quota(redis: RedisServer) -> None:
    def app() -> Any:
        return PureMiddleware(hello, "30/h", store=redis.url)

    with Served(app()) as first, Served(app()) as second:
        found = crowd(first.url, 2, 20) + crowd(second.url, 2, 20)
    assert (found.count(200), found.count(429)) == (30, 50)


@pytest.mark.parametrize("using", ["token_bucket", "gcra"])
def test_on_redis_too_a_denied_request_consumes_nothing_of_other_rules(
    redis: RedisServer, using: str
) -> None:
    rules = [Rule("50/h", name="wide", using=using), Rule("3/h", name="narrow", using=using)]
    app = PureMiddleware(hello, rules, store=redis.url)

    async def run() -> list[int]:
        found = await asyncio.gather(*(call(app) for _ in range(12)))
        return [one.status for one in found]

    found = asyncio.run(run())
    assert (found.count(200), found.count(429)) == (3, 9)
    looks = PureMiddleware(hello, Rule("50/h", name="wide", using=using, cost=0), store=redis.url)
    assert ask(looks).observed()["wide"] == (50, 47)


@pytest.mark.parametrize("kind", ["redis", "sqlite"])
@pytest.mark.parametrize("plain", [False, True])
def test_on_every_store_a_middleware_loses_nothing_where_an_endpoint_denies(
    kind: str,
    plain: bool,
    request: pytest.FixtureRequest,
    tmp_path: Path,
    eventually: Callable[..., None],
) -> None:
    url = f"sqlite:///{tmp_path}/limits.db"
    if kind == "redis":
        url = request.getfixturevalue("redis").url
    app = FastAPI()
    app.add_middleware(RateLimitMiddleware, limits=Rule("50/h", name="wide"), store=url)

    async def awaited() -> int:
        return 1

    def called() -> int:
        return 1

    app.get("/")(limit(Rule("3/h", name="narrow"), store=url)(called if plain else awaited))
    with Served(app) as server:
        found = crowd(server.url, 2, 10)
    assert (found.count(200), found.count(429)) == (3, 17)
    looks = PureMiddleware(hello, Rule("50/h", name="wide", cost=0), store=url)
    eventually(  # in an event loop a server is told, and not waited for
        lambda: ask(looks, client=("127.0.0.1", 1)).observed()["wide"] == (50, 47),
        "all is given back",
    )


def test_a_redis_that_dies_and_comes_back(
    redis: RedisServer, eventually: Callable[..., None]
) -> None:
    url = f"{redis.url}?timeout=0.5&connect_timeout=0.5"
    deny = PureMiddleware(hello, "100/h", store=url)
    allow = PureMiddleware(hello, "100/h", store=url, on_error="allow")
    with (
        Served(deny) as denying,
        Served(allow) as allowing,
        httpx.Client(timeout=DEADLINE_S, trust_env=False) as client,
    ):
        assert observed(client.get(denying.url))["default"] == (100, 99)
        redis.kill()
        down = client.get(denying.url)
        assert (down.status_code, down.headers["retry-after"]) == (503, "5")
        passed = client.get(allowing.url)
        assert (passed.status_code, passed.text) == (200, "hello")
        redis.start()
        eventually(lambda: client.get(denying.url).status_code == 200, "Redis answers again")
        eventually(lambda: "ratelimit" in client.get(allowing.url).headers, "the other sees it too")


def test_a_spoofed_address_is_worth_nothing_over_a_real_connection() -> None:
    app = PureMiddleware(hello, "1/h", key=client_address("10.0.0.0/8"))
    behind = PureMiddleware(hello, "1/h", key=client_address("127.0.0.1"))
    with Served(app) as direct, Served(behind) as proxied, httpx.Client(trust_env=False) as client:

        def statuses(server: Served, values: list[str]) -> list[int]:
            name = "X-Forwarded-For"
            return [client.get(server.url, headers={name: v}).status_code for v in values]

        assert statuses(direct, ["1.1.1.1", "2.2.2.2"]) == [200, 429]
        assert statuses(proxied, ["1.1.1.1", "2.2.2.2", "9.9.9.9, 1.1.1.1"]) == [200, 200, 429]


def test_fastapi_responses_of_every_type(tmp_path: Path) -> None:
    (tmp_path / "f.bin").write_bytes(b"x" * 300_000)
    app = FastAPI()
    app.add_middleware(RateLimitMiddleware, limits="1000/h")

    @app.get("/json", dependencies=[Depends(RateLimit("500/h"))])
    async def json() -> dict[str, int]:
        return {"a": 1}

    @app.get("/file")
    @limit("400/h")
    async def file() -> FileResponse:
        return FileResponse(tmp_path / "f.bin")

    @app.get("/stream")
    @limit("300/h")
    def stream() -> StreamingResponse:
        return StreamingResponse(iter([b"a"] * 1000))

    with Served(app) as server, httpx.Client(base_url=server.url, trust_env=False) as client:
        found = {path: client.get(path) for path in ("/json", "/file", "/stream", "/nowhere")}
        head = client.head("/file")
    assert [len(one.content) for one in found.values()][1:3] == [300_000, 1000]
    assert observed(found["/json"]) == {
        "default": (1000, 999),
        "route": (500, 499),
        "requests": (500, 499),
    }
    assert observed(found["/file"])["file"] == (400, 399)
    assert observed(found["/stream"])["stream"] == (300, 299)
    assert observed(found["/nowhere"])["default"] == (1000, 996)
    assert observed(head)["default"] == (1000, 995)


def test_a_stream_is_not_held_back() -> None:
    async def run(server: Served) -> None:
        async with httpx.AsyncClient(trust_env=False, timeout=DEADLINE_S) as client:
            async with client.stream("GET", server.url) as response:
                pieces = response.aiter_raw()
                assert await anext(pieces) == b"first"
                assert observed(response)["default"] == (5, 4)
                sending.set()
                assert await anext(pieces) == b"second"

    sending = asyncio.Event()
    loops: list[asyncio.AbstractEventLoop] = []

    async def stream(scope: Any, receive: Any, send: Any) -> None:
        loops.append(asyncio.get_running_loop())
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"first", "more_body": True})
        while not sending.is_set():
            await asyncio.sleep(0.001)
        await send({"type": "http.response.body", "body": b"second"})

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await (stream if scope["type"] == "http" else _lifespan)(scope, receive, send)

    with Served(PureMiddleware(app, "5/h")) as server:
        asyncio.run(run(server))


def test_streams_of_one_client_are_bounded_and_one_that_hangs_up_makes_room(
    eventually: Callable[..., None],
) -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            await _lifespan(scope, receive, send)
            return
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"x", "more_body": True})
        while (await receive())["type"] != "http.disconnect":
            pass

    with Served(PureMiddleware(app, Concurrency(2))) as server:
        with httpx.Client(trust_env=False, timeout=DEADLINE_S) as client:
            first = client.send(client.build_request("GET", server.url), stream=True)
            second = client.send(client.build_request("GET", server.url), stream=True)
            third = client.get(server.url)
            assert [one.status_code for one in (first, second, third)] == [200, 200, 429]
            assert third.headers["retry-after"] == "5"
            first.close()

            def admitted() -> bool:
                with client.stream("GET", server.url) as response:
                    return response.status_code == 200

            eventually(admitted, "a permit is free again")
            second.close()


@pytest.mark.parametrize("store", ["memory", "redis"])
def test_websockets_of_one_client_are_bounded(store: str, request: pytest.FixtureRequest) -> None:
    url = None if store == "memory" else request.getfixturevalue("redis").url
    app = FastAPI()
    rules = [Concurrency(2, name="live", paths="/ws"), Rule("1000/h", name="rate")]
    app.add_middleware(RateLimitMiddleware, limits=rules, store=url)

    @app.websocket("/ws")
    async def live(websocket: WebSocket) -> None:
        await websocket.accept()
        async for text in websocket.iter_text():
            await websocket.send_text(text.upper())

    async def run(server: Served) -> None:
        place = f"ws://127.0.0.1:{server.port}/ws"
        async with websockets.connect(place, proxy=None) as first:
            async with websockets.connect(place, proxy=None) as second:
                await second.send("a")
                assert await second.recv() == "A"
                assert second.response is not None
                assert second.response.headers["x-ratelimit-limit"] == "1000"
                with pytest.raises(websockets.InvalidStatus) as denied:
                    await websockets.connect(place, proxy=None)
                assert denied.value.response.status_code == 429
                assert denied.value.response.headers["retry-after"] == "5"
            await first.send("b")
            assert await first.recv() == "B"
            await asyncio.wait_for(_connects(place), DEADLINE_S)

    with Served(app) as server:
        asyncio.run(run(server))


async def _connects(place: str) -> None:
    """The server frees a permit when its side of the connection has ended, a moment later."""
    while True:
        try:
            async with websockets.connect(place, proxy=None):
                return
        except websockets.InvalidStatus:
            await asyncio.sleep(0.01)


async def _lifespan(scope: Any, receive: Any, send: Any) -> None:
    while True:
        message = await receive()
        await send({"type": f"{message['type']}.complete"})
        if message["type"] == "lifespan.shutdown":
            return

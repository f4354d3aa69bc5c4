"""aiohttp's server with limits, over its own test server and client."""

from __future__ import annotations

import asyncio
import io
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

import headway

pytest.importorskip("aiohttp")

from aiohttp import WSServerHandshakeError, web
from aiohttp.payload import AsyncIterablePayload
from aiohttp.test_utils import TestClient, TestServer

from headway.contrib.aiohttp import (
    USER,
    Concurrency,
    RateLimit,
    Rule,
    api_key,
    client_address,
    route,
    user,
)

Client = Any
DEADLINE_S = 30


async def hello(request: web.Request) -> web.Response:
    return web.Response(text="hello")


def run(app: web.Application, play: Callable[[Client], Awaitable[None]]) -> None:
    async def main() -> None:
        async with TestClient(TestServer(app)) as client:
            await play(client)

    asyncio.run(asyncio.wait_for(main(), DEADLINE_S))


def made(limits: RateLimit, **handlers: Any) -> web.Application:
    app = web.Application()
    limits.setup(app)
    app.router.add_get("/", hello)
    for name, handler in handlers.items():
        app.router.add_get(f"/{name}", handler)
    return app


async def statuses(client: Client, *paths: str, **headers: str) -> list[int]:
    found = []
    for path in paths:
        sent = {name.replace("_", "-"): value for name, value in headers.items()}
        async with client.get(path, headers=sent) as response:
            found.append(response.status)
            await response.read()
    return found


def test_the_whole_application_is_limited(store: headway.MemoryStore) -> None:
    async def play(client: Client) -> None:
        assert await statuses(client, "/", "/nothing-here", "/") == [200, 404, 200]
        async with client.get("/", headers={"accept": "application/json"}) as denied:
            assert denied.status == 429
            assert denied.headers["Retry-After"] == "20"
            assert denied.headers["RateLimit"] == '"default";r=0;t=60'
            assert denied.headers["RateLimit-Policy"] == '"default";q=3;w=60'
            assert denied.headers["X-RateLimit-Remaining"] == "0"
            problem = await denied.json(content_type="application/problem+json")
            assert problem["detail"] == "Rate limit exceeded: try again in 20 seconds."

    run(made(RateLimit("3/minute", store=store)), play)


async def stream(request: web.Request) -> web.StreamResponse:
    response = web.StreamResponse()
    await response.prepare(request)
    await response.write(b"one,")
    await response.write_eof(b"two")
    return response


async def file(request: web.Request) -> web.StreamResponse:
    return web.FileResponse(Path(__file__))


async def raising(request: web.Request) -> web.StreamResponse:
    raise web.HTTPForbidden


async def broken(request: web.Request) -> web.StreamResponse:
    raise ValueError("broken")


@pytest.mark.parametrize("path", ["/", "/stream", "/file", "/raising", "/nothing-here"])
def test_a_response_of_any_kind_tells_what_remains(path: str, store: headway.MemoryStore) -> None:
    async def play(client: Client) -> None:
        async with client.get(path) as response:
            assert response.headers["RateLimit"] == '"default";r=4;t=12'
            await response.read()

    limits = RateLimit("5/minute", store=store)
    run(made(limits, stream=stream, file=file, raising=raising), play)


def test_a_handler_has_a_limit_of_its_own_and_both_are_told(store: headway.MemoryStore) -> None:
    limits = RateLimit("9/minute", store=store)

    @limits.limit("2/minute")
    async def search(request: web.Request) -> web.Response:
        """Search."""
        return web.Response(text="found")

    async def play(client: Client) -> None:
        async with client.get("/search") as first:
            assert first.headers["RateLimit"] == '"default";r=8;t=7, "search";r=1;t=30'
        assert await statuses(client, "/search", "/search", "/") == [200, 429, 200]

    run(made(limits, search=search), play)
    assert search.__doc__ == "Search."


def test_methods_of_a_class_are_limited(store: headway.MemoryStore) -> None:
    limits = RateLimit(store=store)

    class Items(web.View):
        @limits.limit("1/minute")
        async def get(self) -> web.Response:
            return web.Response(text="items")

    async def play(client: Client) -> None:
        assert await statuses(client, "/items", "/items") == [200, 429]

    run(made(limits, items=Items), play)


def test_exempt_handlers_and_paths_are_not_counted(store: headway.MemoryStore) -> None:
    limits = RateLimit("2/minute", store=store, exempt=["/nothing/*"])

    @limits.exempt
    async def health(request: web.Request) -> web.Response:
        return web.Response(text="ok")

    @limits.exempt
    class Health(web.View):
        async def get(self) -> web.Response:
            return web.Response(text="ok")

    async def play(client: Client) -> None:
        assert set(await statuses(client, *["/health", "/views"] * 3)) == {200}
        assert set(await statuses(client, *["/nothing/here"] * 3)) == {404}
        assert await statuses(client, "/", "/", "/") == [200, 200, 429]

    run(made(limits, health=health, views=Health), play)


def test_quota_cost_and_key_may_be_coroutine_functions(store: headway.MemoryStore) -> None:
    async def quota(request: web.Request) -> str | None:
        await asyncio.sleep(0)
        return {"free": "2/minute", "paid": "8/minute"}.get(request.headers["x-plan"])

    async def cost(request: web.Request) -> int:
        return int(request.headers.get("x-cost", 1))

    async def play(client: Client) -> None:
        async def admitted(**headers: str) -> int:
            return (await statuses(client, *["/"] * 9, **headers)).count(200)

        assert await admitted(x_api_key="ann", x_plan="free") == 2
        assert await admitted(x_api_key="ben", x_plan="paid") == 8
        assert await admitted(x_api_key="cid", x_plan="paid", x_cost="4") == 2
        assert await admitted(x_api_key="dan", x_plan="staff") == 9

    run(made(RateLimit(Rule(quota, cost=cost, key=api_key()), store=store)), play)


def test_users_routes_and_trusted_proxies_are_keys(store: headway.MemoryStore) -> None:
    @web.middleware
    async def login(request: web.Request, handler: Any) -> web.StreamResponse:
        if "x-user" in request.headers:
            request[USER] = request.headers["x-user"]
        return await handler(request)  # type: ignore[no-any-return]

    limits = RateLimit(store=store)
    proxies = client_address(trusted_proxies="127.0.0.1")
    app = web.Application(middlewares=[login])
    limits.setup(app)
    app.router.add_get("/user", limits.limit("1/h", key=user(), name="user")(hello))
    app.router.add_get("/route/{n}", limits.limit("1/h", key=route(), name="route")(hello))
    app.router.add_get("/proxy", limits.limit("1/h", key=proxies, name="proxy")(hello))

    async def play(client: Client) -> None:
        found = [(await statuses(client, "/user", x_user=who))[0] for who in ("a", "b", "a")]
        assert found == [200, 200, 429]
        assert await statuses(client, "/route/1", "/route/2") == [200, 429]
        addresses = ("203.0.113.1", "203.0.113.2", "203.0.113.1")
        found = [(await statuses(client, "/proxy", x_forwarded_for=a))[0] for a in addresses]
        assert found == [200, 200, 429]

    run(app, play)


def test_on_limited_may_answer(store: headway.MemoryStore) -> None:
    async def teapot(request: web.Request, verdict: Any) -> web.Response:
        return web.Response(status=418, text=verdict.detail)

    async def play(client: Client) -> None:
        async with client.get("/"), client.get("/") as denied:
            assert denied.status == 418
            assert denied.headers["Retry-After"] == "60"

    run(made(RateLimit("1/minute", store=store, on_limited=teapot)), play)


def test_a_dry_run_denies_nothing_and_tells_nothing() -> None:
    limits = RateLimit("1/minute", dry_run=True)

    async def play(client: Client) -> None:
        assert await statuses(client, "/", "/") == [200, 200]
        async with client.get("/") as response:
            assert "RateLimit" not in response.headers

    run(made(limits), play)
    assert limits.policy is not None
    assert limits.policy.counts()["default"]["dry_run"] == 2


@pytest.mark.parametrize(("on_error", "status"), [("deny", 503), ("allow", 200), ("raise", 500)])
def test_a_store_that_is_down_is_answered_as_told(on_error: str, status: int) -> None:
    async def play(client: Client) -> None:
        assert await statuses(client, "/", "/") == [status, status]

    run(made(RateLimit("1/s", store="redis://127.0.0.1:1/0", on_error=on_error)), play)


async def echo(request: web.Request) -> web.WebSocketResponse:
    socket = web.WebSocketResponse()
    await socket.prepare(request)
    async for message in socket:
        await socket.send_str(message.data)
    return socket


async def until_it_connects(client: Client, path: str) -> None:
    """A handler ends a moment after its client has seen the end."""
    end = asyncio.get_running_loop().time() + DEADLINE_S / 2
    while True:
        try:
            async with client.ws_connect(path):
                return
        except WSServerHandshakeError:
            assert asyncio.get_running_loop().time() < end, "the permit was not given back"
            await asyncio.sleep(0.001)


def test_so_many_websockets_may_be_open_at_a_time() -> None:
    async def play(client: Client) -> None:
        async with client.ws_connect("/echo") as one:
            async with client.ws_connect("/echo") as other:
                with pytest.raises(WSServerHandshakeError) as caught:
                    await client.ws_connect("/echo")
                assert caught.value.status == 429
                assert caught.value.headers is not None
                assert caught.value.headers["Retry-After"] == "5"
                assert await statuses(client, *["/"] * 3) == [200, 200, 200]
                for socket in (one, other):
                    await socket.send_str("hello")
                    assert await socket.receive_str() == "hello"
            await until_it_connects(client, "/echo")

    run(made(RateLimit(Concurrency(2, requests=False)), echo=echo), play)


def test_a_websocket_that_is_cut_off_gives_its_permit_back() -> None:
    async def play(client: Client) -> None:
        for _ in range(3):
            socket = await client.ws_connect("/echo")
            socket._response.connection.transport.abort()
            await until_it_connects(client, "/echo")

    run(made(RateLimit(Concurrency(1)), echo=echo), play)


def test_a_permit_is_held_as_long_as_a_response_is_streamed() -> None:
    go: list[asyncio.Event] = []

    async def slow(request: web.Request) -> web.StreamResponse:
        go.append(asyncio.Event())
        response = web.StreamResponse()
        await response.prepare(request)
        await response.write(b"one,")
        await go[0].wait()
        await response.write_eof(b"two")
        return response

    async def play(client: Client) -> None:
        async with client.get("/slow") as first:
            assert await first.content.read(4) == b"one,"
            assert await statuses(client, "/slow") == [429]
            go[0].set()
            assert await first.content.read() == b"two"

    run(made(RateLimit(Concurrency(1)), slow=slow), play)


@pytest.mark.parametrize("kind", ["generator", "file", "payload"])
def test_a_permit_is_held_until_a_body_is_sent_that_outlives_its_handler(kind: str) -> None:
    live = most = 0
    go = asyncio.Event()

    async def parts() -> AsyncIterator[bytes]:
        nonlocal live, most
        live += 1
        most = max(most, live)
        try:
            yield b"one,"
            await go.wait()
            yield b"two"
        finally:
            live -= 1

    class File(io.RawIOBase):
        """One whose end is read when `go` is set; aiohttp reads it in a thread."""

        def __init__(self) -> None:
            self.parts = [b"one,", b"two", b""]

        def readable(self) -> bool:
            return True

        def read(self, size: int | None = -1, /) -> bytes:
            found = self.parts.pop(0)
            if found == b"two":
                assert loop is not None
                asyncio.run_coroutine_threadsafe(go.wait(), loop).result(DEADLINE_S)
            return found

    loop: asyncio.AbstractEventLoop | None = None

    async def body(request: web.Request) -> web.StreamResponse:
        nonlocal loop
        loop = asyncio.get_running_loop()
        if kind == "file":
            return web.Response(body=File())
        if kind == "payload":
            return web.Response(body=AsyncIterablePayload(parts()))
        return web.Response(body=parts())

    async def play(client: Client) -> None:
        async with client.get("/body") as first:
            assert await first.content.read(4) == b"one,"
            assert await statuses(client, "/body", "/") == [429, 429]
            go.set()
            assert await first.content.read() == b"two"
        assert await statuses(client, "/body", "/") == [200, 200]
        assert most <= 1

    run(made(RateLimit(Concurrency(1)), body=body), play)


def test_a_permit_comes_back_where_a_body_ends_early_or_another_response_is_sent() -> None:
    instead = False

    async def endless() -> AsyncIterator[bytes]:
        while True:
            yield b"x" * 100_000

    async def body(request: web.Request) -> web.StreamResponse:
        return web.Response(body=endless())

    @web.middleware
    async def other(request: web.Request, handler: Any) -> web.StreamResponse:
        response: web.StreamResponse = await handler(request)
        return web.Response(text="instead") if instead else response

    async def play(client: Client) -> None:
        nonlocal instead
        async with client.get("/body") as first:
            await first.content.read(1)
            first.connection.transport.abort()
        instead = True
        await until_it_is(client, "/body", 200)
        assert await statuses(client, "/body", "/body") == [200, 200]

    app = web.Application(middlewares=[other])
    app.router.add_get("/body", body)
    RateLimit(Concurrency(1)).setup(app)
    run(app, play)


async def until_it_is(client: Client, path: str, status: int) -> None:
    end = asyncio.get_running_loop().time() + DEADLINE_S
    while await statuses(client, path) != [status]:
        assert asyncio.get_running_loop().time() < end, f"{path} is never {status}"
        await asyncio.sleep(0.01)


@pytest.mark.parametrize("path", ["/", "/stream", "/file", "/raising", "/nothing-here"])
def test_the_permit_of_a_response_of_any_kind_comes_back(path: str) -> None:
    async def play(client: Client) -> None:
        found = await statuses(client, *[path] * 4)
        assert 429 not in found
        assert len(set(found)) == 1

    limits = RateLimit(Concurrency(1))
    run(made(limits, stream=stream, file=file, raising=raising), play)


def test_a_handler_that_raises_gives_its_permit_back() -> None:
    async def play(client: Client) -> None:
        assert await statuses(client, "/broken", "/broken", "/file", "/file") == [
            500,
            500,
            200,
            200,
        ]

    run(made(RateLimit(Concurrency(1)), broken=broken, file=file), play)


def test_a_sub_application_is_limited_with_its_parent_and_may_have_limits_of_its_own(
    store: headway.MemoryStore,
) -> None:
    parent = made(RateLimit(Rule("9/minute", name="outer"), store=store))
    child = made(RateLimit(Rule("2/minute", name="inner"), store=store))
    parent.add_subapp("/child", child)

    async def play(client: Client) -> None:
        async with client.get("/child/") as response:
            assert response.headers["RateLimit"] == '"outer";r=8;t=7, "inner";r=1;t=30'

    run(parent, play)


def test_mistakes_are_named_at_once() -> None:
    limits = RateLimit()
    with pytest.raises(headway.DataError, match="fortnight"):
        RateLimit("1/fortnight")
    with pytest.raises(headway.DataError, match="fortnight"):
        limits.limit("1/fortnight")(hello)
    with pytest.raises(TypeError, match="unexpected keyword argument 'qouta'"):
        limits.limit("1/s", qouta="2/s")
    with pytest.raises(TypeError, match="decorates an `async def` handler"):
        limits.limit("1/s")(lambda request: None)
    app = made(limits)
    with pytest.raises(headway.SetUpError, match="has these limits already"):
        limits.setup(app)


def test_without_aiohttp_the_error_says_what_to_install(run_python: Any) -> None:
    program = """
        import sys
        sys.modules["aiohttp"] = None
        try:
            import headway.contrib.aiohttp
        except ImportError as error:
            print(error)
    """
    assert run_python(program) == (
        'headway.contrib.aiohttp needs aiohttp: pip install "headway[aiohttp]"\n'
    )

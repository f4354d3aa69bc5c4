"""Retries with requests, httpx and aiohttp themselves, against a server that loses connections.

What these libraries raise and whether it tells the request is theirs to say, so it is not played.
"""

from __future__ import annotations

import asyncio
import importlib
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from headway.smartratelimit import RetryConfig, RetryHandler

LIBRARIES = ["requests", "httpx", "httpx-async", "aiohttp"]


class Server(ThreadingHTTPServer):
    """Loses or refuses the first requests, as `plan` says, and serves the rest."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.plan: list[str] = []
        self.seen: list[str] = []

    def handle_error(self, *args: object) -> None:
        """A client that hangs up on a body is what is wanted."""

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/"


class Handler(BaseHTTPRequestHandler):
    server: Server
    protocol_version = "HTTP/1.1"

    def answer(self) -> None:
        self.rfile.read(int(self.headers.get("Content-Length") or 0))
        self.server.seen.append(self.command)
        fate = self.server.plan.pop(0) if self.server.plan else "200"
        if fate == "lost":
            self.close_connection = True
            return
        body = b"" if fate == "200" else b"x" * 100_000
        self.send_response(int(fate))
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Retry-After", "0")
        self.end_headers()
        self.wfile.write(body)

    do_GET = do_POST = answer

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def server() -> Iterator[Server]:
    with Server() as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield server
        server.shutdown()
        thread.join()


Call = Callable[[str, str], int]


@pytest.fixture(params=LIBRARIES)
def call(request: pytest.FixtureRequest) -> Call:
    """Sends one request with retries, streaming, and returns the last status."""
    library = pytest.importorskip(request.param.partition("-")[0])
    handler = RetryHandler(RetryConfig(base_delay=0.001))

    def with_requests(method: str, url: str) -> int:
        with library.Session() as session:
            with handler.retry_sync(lambda: session.request(method, url, stream=True)) as response:
                return int(response.status_code)

    def with_httpx(method: str, url: str) -> int:
        with library.Client(trust_env=False) as client:
            responses = []

            def send() -> Any:
                responses.append(client.send(client.build_request(method, url), stream=True))
                return responses[-1]

            handler.retry_sync(send).close()
            assert all(response.is_closed for response in responses)
            return int(responses[-1].status_code)

    def with_httpx_async(method: str, url: str) -> int:
        async def main() -> int:
            async with library.AsyncClient(trust_env=False) as client:

                async def send() -> Any:
                    return await client.send(client.build_request(method, url), stream=True)

                response = await handler.retry_async(send)
                await response.aclose()
                return int(response.status_code)

        return asyncio.run(main())

    def with_aiohttp(method: str, url: str) -> int:
        async def main() -> int:
            async with library.ClientSession() as session:
                # Its errors do not tell the request; the call does.
                response = await handler.retry_async(session.request, method, url)
                response.release()
                return int(response.status)

        return asyncio.run(main())

    return {
        "requests": with_requests,
        "httpx": with_httpx,
        "httpx-async": with_httpx_async,
        "aiohttp": with_aiohttp,
    }[request.param]


def test_a_get_whose_connection_was_lost_is_sent_again(server: Server, call: Call) -> None:
    server.plan = ["lost", "lost"]
    assert call("GET", server.url) == 200
    assert server.seen == ["GET"] * 3


def test_a_post_whose_connection_was_lost_is_not(server: Server, call: Call) -> None:
    server.plan = ["lost"]
    with pytest.raises(Exception, match=r"(?i)disconnect|aborted"):
        call("POST", server.url)
    assert server.seen == ["POST"]


def test_a_status_is_retried_whatever_the_method(server: Server, call: Call) -> None:
    server.plan = ["429", "503"]
    assert call("POST", server.url) == 200
    assert server.seen == ["POST"] * 3


def test_the_last_refusal_is_returned(server: Server, call: Call) -> None:
    server.plan = ["429"] * 9
    assert call("GET", server.url) == 429
    assert server.seen == ["GET"] * 4


@pytest.mark.parametrize("name", ["requests", "httpx"])
def test_raise_for_status_may_be_part_of_what_is_retried(server: Server, name: str) -> None:
    pytest.importorskip(name)
    library = importlib.import_module(name)
    server.plan = ["429"]

    def get() -> Any:
        response = library.get(server.url)
        response.raise_for_status()
        return response

    assert RetryHandler(RetryConfig(base_delay=0.001)).retry_sync(get).status_code == 200
    assert server.seen == ["GET"] * 2


def test_aiohttps_raise_for_status_is_understood(server: Server) -> None:
    aiohttp = pytest.importorskip("aiohttp")
    server.plan = ["429"]

    async def main() -> int:
        async with aiohttp.ClientSession(raise_for_status=True) as session:
            response = await RetryHandler().retry_async(session.get, server.url)
            response.release()
            return int(response.status)

    assert asyncio.run(main()) == 200
    assert server.seen == ["GET"] * 2


def test_the_name_of_aiohttps_method_tells_it(server: Server) -> None:
    aiohttp = pytest.importorskip("aiohttp")
    handler = RetryHandler(RetryConfig(base_delay=0.001))
    server.plan = ["lost", "lost"]  # aiohttp itself sends a GET twice

    async def main() -> None:
        async with aiohttp.ClientSession() as session:
            (await handler.retry_async(session.get, server.url)).release()
            server.plan = ["lost"]
            with pytest.raises(aiohttp.ServerDisconnectedError):
                await handler.retry_async(session.post, server.url)

    asyncio.run(main())
    assert server.seen == ["GET", "GET", "GET", "POST"]

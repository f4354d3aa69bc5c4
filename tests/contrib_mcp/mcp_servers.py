"""One way to write a server and to meet it, in both series of the SDK: 2.x, and 1.x where the tests
are run with that.
"""

from __future__ import annotations

import socket
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from importlib import import_module
from typing import Any

import pytest

pytest.importorskip("mcp")
IS_V2 = hasattr(import_module("mcp"), "Client")

if IS_V2:
    from mcp.server import MCPServer as McpServer
else:
    from mcp.server.fastmcp import FastMCP as McpServer  # type: ignore[no-redef]

__all__ = [
    "IS_V2",
    "McpServer",
    "Outcome",
    "connected",
    "connected_by_http",
    "only_v2",
    "serving",
]

only_v2 = pytest.mark.skipif(not IS_V2, reason="of mcp 2.x")


class Outcome:
    """The result of a tool, under one name for both series."""

    def __init__(self, result: Any) -> None:
        self.is_error = bool(
            getattr(result, "is_error", False) or getattr(result, "isError", False)
        )
        self.text = "".join(block.text for block in result.content)
        self.meta: dict[str, Any] = result.meta or {}
        self.numbers: dict[str, Any] = self.meta.get("headway/rate-limit", {})


class Caller:
    """A client of the SDK, connected."""

    def __init__(self, client: Any) -> None:
        self.client = client

    async def call(self, tool: str, **arguments: Any) -> Outcome:
        return Outcome(await self.client.call_tool(tool, arguments))


@asynccontextmanager
async def connected(server: Any, **options: Any) -> AsyncIterator[Caller]:
    """A client in memory. options: of 2.x' Client."""
    if IS_V2:
        from mcp import Client

        async with Client(server, **options) as client:
            yield Caller(client)
        return
    memory: Any = import_module("mcp.shared.memory")
    async with memory.create_connected_server_and_client_session(server) as session:
        yield Caller(session)


@contextmanager
def serving(server: Any, **options: Any) -> Iterator[str]:
    """A server on a free port, in a thread; its URL. options: of 2.x' streamable_http_app."""
    uvicorn: Any = import_module("uvicorn")
    if IS_V2:
        app = server.streamable_http_app(**options)
    else:
        for name, value in options.items():
            setattr(server.settings, name, value)
        app = server.streamable_http_app()
    with socket.create_server(("127.0.0.1", 0)) as listener:
        config = uvicorn.Config(app, log_level="critical", lifespan="on")
        running = uvicorn.Server(config)
        thread = threading.Thread(target=running.run, kwargs={"sockets": [listener]}, daemon=True)
        thread.start()
        try:
            yield f"http://127.0.0.1:{listener.getsockname()[1]}/mcp"
        finally:
            running.should_exit = running.force_exit = True
            thread.join(30)
            assert not thread.is_alive(), "the server was still busy after 30 s"


@asynccontextmanager
async def connected_by_http(
    url: str, token: str | None = None, **options: Any
) -> AsyncIterator[Caller]:
    """A client of the SDK over HTTP, with a bearer token. options: of 2.x' Client."""
    http: Any = import_module("mcp.client.streamable_http")
    headers = {} if token is None else {"Authorization": f"Bearer {token}"}
    if IS_V2:
        import httpx2
        from mcp import Client

        async with httpx2.AsyncClient(headers=headers, timeout=30) as web:
            transport = http.streamable_http_client(url, http_client=web)
            async with Client(transport, **options) as client:
                yield Caller(client)
        return
    session_class: Any = import_module("mcp").ClientSession
    async with http.streamablehttp_client(url, headers=headers) as (read, write, _):
        async with session_class(read, write) as session:
            await session.initialize()
            yield Caller(session)

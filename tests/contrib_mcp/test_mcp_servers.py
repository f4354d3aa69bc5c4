"""Limits before a whole server, in memory, over HTTP and over the pipes of another process."""

from __future__ import annotations

import asyncio
import contextlib
import sys
from importlib import import_module
from typing import Any

import pytest
from mcp_servers import IS_V2, McpServer, Outcome, connected, connected_by_http, only_v2, serving

import headway
from headway.contrib.mcp import (
    META,
    RATE_LIMITED,
    Concurrency,
    RateLimit,
    limit,
    route,
    session,
    user,
)

ERAS: list[dict[str, Any]] = [{"mode": "auto"}, {"mode": "legacy"}] if IS_V2 else [{}]
LEGACY: dict[str, Any] = ERAS[-1]
eras = pytest.mark.parametrize("era", ERAS, ids=lambda era: era.get("mode", "1.x"))


def make_server(**options: Any) -> Any:
    server = McpServer("test", **options)

    @server.tool()
    async def search() -> str:
        return "found"

    @server.tool()
    async def fetch() -> dict[str, int]:
        return {"pages": 1}

    @server.resource("static://page")
    async def page() -> str:
        return "page"

    return server


async def list_nothing(context: Any, params: Any) -> Any:
    """A low-level server's list of tools: clients ask for it after a call."""
    return import_module("mcp.types").ListToolsResult(tools=[])


@eras
def test_all_tools_of_a_server_share_one_limit_and_results_tell_what_remains(
    era: dict[str, Any], store: headway.MemoryStore
) -> None:
    server = make_server()
    RateLimit("3/minute", store=store).install(server)

    async def main() -> None:
        async with connected(server, **era) as client:
            first = await client.call("search")
            assert first.numbers == {
                "limit": 3,
                "remaining": 2,
                "reset_after": 20,
                "retry_after": 0,
            }
            assert (await client.call("fetch")).numbers["remaining"] == 1
            await client.call("fetch")
            denied = await client.call("search")
            assert denied.is_error
            assert denied.text == "Rate limit of requests exceeded. Retry after 20 seconds."
            assert denied.numbers["retry_after"] == 20
            await client.client.list_tools()

    asyncio.run(main())


@eras
def test_a_mapping_gives_each_tool_a_limit_of_its_own(
    era: dict[str, Any], store: headway.MemoryStore
) -> None:
    server = make_server()
    RateLimit({"search": "1/minute", "*": "2/minute"}, store=store).install(server)

    async def main() -> None:
        async with connected(server, **era) as client:
            assert [(await client.call("search")).is_error for _ in range(2)] == [False, True]
            assert [(await client.call("fetch")).is_error for _ in range(3)] == [False, False, True]
            assert "Rate limit of search" in (await client.call("search")).text

    asyncio.run(main())


@eras
def test_other_requests_are_answered_with_an_error_of_json_rpc_and_its_data(
    era: dict[str, Any], store: headway.MemoryStore
) -> None:
    server = make_server()
    RateLimit("1/minute", store=store).install(server, methods=["resources/read"])
    errors: Any = import_module("mcp.shared.exceptions")
    kind = errors.MCPError if IS_V2 else errors.McpError

    async def main() -> None:
        async with connected(server, **era) as caller:
            await caller.client.read_resource("static://page")
            with pytest.raises(kind) as caught:
                await caller.client.read_resource("static://page")
            error = caught.value.error
            assert error.code == RATE_LIMITED
            assert error.message == "Rate limit of requests exceeded. Retry after 60 seconds."
            assert error.data["retry_after"] == 60
            assert not (await caller.call("search")).is_error

    asyncio.run(main())


@eras
def test_methods_none_counts_everything_but_the_handshake(
    era: dict[str, Any], store: headway.MemoryStore
) -> None:
    server = make_server()
    RateLimit("3/minute", store=store, key=route()).install(server, methods=None)

    async def main() -> None:
        async with connected(server, **era) as client:
            for _ in range(3):
                assert not (await client.call("search")).is_error
            assert (await client.call("search")).is_error
            assert not (await client.call("fetch")).is_error

    asyncio.run(main())


@eras
def test_several_limits_may_be_installed_and_the_tightest_is_told(
    era: dict[str, Any], store: headway.MemoryStore
) -> None:
    server = make_server()
    for quota, name in (("9/minute", "a"), ("2/minute", "b"), ("8/minute", "c")):
        RateLimit(quota, store=store, name=name).install(server)

    async def main() -> None:
        async with connected(server, **era) as client:
            assert (await client.call("search")).numbers["limit"] == 2
            await client.call("search")
            assert "Rate limit of b exceeded" in (await client.call("search")).text

    asyncio.run(main())


def test_exempt_tools_are_not_counted(store: headway.MemoryStore) -> None:
    server = make_server()
    RateLimit("1/minute", store=store, exempt={"fetch"}).install(server)

    async def main() -> None:
        async with connected(server) as client:
            assert not any([(await client.call("fetch")).is_error for _ in range(3)])
            assert [(await client.call("search")).is_error for _ in range(2)] == [False, True]

    asyncio.run(main())


def test_a_limit_of_concurrency_may_stand_before_a_whole_server() -> None:
    server = make_server()
    go, running = asyncio.Event(), asyncio.Event()

    @server.tool()  # type: ignore[untyped-decorator]
    async def render() -> str:
        running.set()
        await go.wait()
        return "rendered"

    Concurrency(1).install(server)

    async def main() -> None:
        async with connected(server) as client:
            first = asyncio.create_task(client.call("render"))
            await asyncio.wait_for(running.wait(), 30)
            assert "busy" in (await client.call("search")).text
            go.set()
            assert (await first).text == "rendered"
            assert (await client.call("search")).text == "found"

    asyncio.run(main())


def test_a_tool_name_of_any_length_is_only_a_key(store: headway.MemoryStore) -> None:
    errors: Any = import_module("mcp.shared.exceptions")
    server = make_server()
    RateLimit("1/minute", key=route(), store=store).install(server)

    async def main() -> None:
        async with connected(server) as client:
            for name in ("x" * 100_000, "\x00", "a:b"):
                with contextlib.suppress(errors.MCPError if IS_V2 else ()):  # it is not known
                    await client.call(name)
                assert (await client.call(name)).numbers["error"] == "rate_limited"

    asyncio.run(main())


def test_handlers_that_come_after_the_limit_are_behind_it_too(store: headway.MemoryStore) -> None:
    types: Any = import_module("mcp.types")
    lowlevel: Any = import_module("mcp.server.lowlevel").Server
    found = [types.TextContent(type="text", text="found")]
    if IS_V2:

        async def call_tool(context: Any, params: Any) -> Any:
            return types.CallToolResult(content=found)

        server = lowlevel("test", on_call_tool=call_tool, on_list_tools=list_nothing)
        RateLimit("1/minute", store=store).install(server)
        RateLimit("9/minute", store=store, name="other").install(server)
    else:
        server = lowlevel("test")
        RateLimit("1/minute", store=store).install(server)
        RateLimit("9/minute", store=store, name="other").install(server)

        @server.list_tools()  # type: ignore[untyped-decorator]
        async def tools() -> list[Any]:
            return []

        @server.call_tool()  # type: ignore[untyped-decorator]
        async def answer(name: str, arguments: dict[str, Any]) -> Any:
            return found

    async def main() -> None:
        async with connected(server, **LEGACY) as client:
            assert (await client.call("search")).text == "found"
            denied = await client.call("search")
            assert denied.is_error
            assert denied.meta[META]["retry_after"] == 60

    asyncio.run(main())


@only_v2
def test_a_handler_of_a_low_level_server_is_limited_by_a_decorator(
    store: headway.MemoryStore,
) -> None:
    from mcp import types
    from mcp.server.lowlevel import Server

    @limit("1/minute", store=store)
    async def call_tool(context: Any, params: Any) -> Any:
        return types.CallToolResult(content=[types.TextContent(type="text", text=params.name)])

    server = Server("test", on_call_tool=call_tool, on_list_tools=list_nothing)

    async def main() -> None:
        async with connected(server) as client:
            assert (await client.call("search")).text == "search"
            assert (await client.call("search")).is_error

    asyncio.run(main())


@eras
@pytest.mark.parametrize("stateless", [False, True], ids=["sessions", "stateless"])
def test_over_http_a_session_is_the_servers_and_without_one_the_address_counts(
    era: dict[str, Any], stateless: bool
) -> None:
    server = make_server()
    RateLimit("2/hour", key=session()).install(server)
    has_sessions = not stateless and era.get("mode") != "auto"

    async def main(url: str) -> None:
        async with connected_by_http(url, **era) as one, connected_by_http(url, **era) as other:
            assert [(await one.call("search")).is_error for _ in range(3)] == [False, False, True]
            assert (await other.call("search")).is_error is not has_sessions

    with serving(server, stateless_http=stateless) as url:
        asyncio.run(main(url))


@eras
def test_a_session_id_that_a_client_makes_up_gives_it_no_limit_of_its_own(
    era: dict[str, Any],
) -> None:
    web: Any = import_module("httpx2" if IS_V2 else "httpx")
    server = make_server()
    RateLimit("1/hour", key=session()).install(server)

    def body(method: str, **params: Any) -> dict[str, Any]:
        return {"jsonrpc": "2.0", "id": 1, "method": method, "params": params}

    with serving(server, stateless_http=True, json_response=True) as url:
        answers = []
        for made_up in ("a", "b"):
            headers = {
                "accept": "application/json, text/event-stream",
                "mcp-session-id": made_up,
                "mcp-protocol-version": "2025-06-18",
            }
            request = body("tools/call", name="search", arguments={})
            answers.append(web.post(url, json=request, headers=headers).json()["result"])
    assert [answer.get("isError", False) for answer in answers] == [False, True]


@eras
def test_users_of_one_address_have_limits_of_their_own(era: dict[str, Any]) -> None:
    provider: Any = import_module("mcp.server.auth.provider")
    settings: Any = import_module("mcp.server.auth.settings")

    class Tokens:
        async def verify_token(self, token: str) -> Any:
            if not token.startswith("token-of-"):
                return None
            return provider.AccessToken(
                token=token, client_id="app", scopes=[], subject=token.removeprefix("token-of-")
            )

    auth = settings.AuthSettings(
        issuer_url="http://127.0.0.1:1",
        resource_server_url="http://127.0.0.1:1/mcp",
        validate_token_resource=False,
    )
    server = make_server(token_verifier=Tokens(), auth=auth)
    RateLimit("1/hour", key=user()).install(server)

    async def main(url: str) -> list[bool]:
        denied = []
        for token in ("token-of-ann", "token-of-ben", "token-of-ann"):
            async with connected_by_http(url, token, **era) as client:
                denied.append((await client.call("search")).is_error)
        return denied

    with serving(server) as url:
        assert asyncio.run(main(url)) == [False, False, True]


@eras
def test_a_call_knows_the_address_of_its_connection(era: dict[str, Any]) -> None:
    server = make_server()
    keys: list[str] = []

    def key(call: Any) -> str:
        keys.append(str(call.address))
        return keys[-1]

    RateLimit("1/hour", key=key).install(server)

    async def main(url: str) -> None:
        async with connected_by_http(url, **era) as client:
            await client.call("search")

    with serving(server) as url:
        asyncio.run(main(url))
    assert keys == ["127.0.0.1"]


STDIO_SERVER = """
import sys
try:
    from mcp.server import MCPServer
except ImportError:
    from mcp.server.fastmcp import FastMCP as MCPServer
from headway.contrib.mcp import limit

server = MCPServer("test")

@server.tool()
@limit("1/minute")
async def search() -> str:
    return "found"

server.run()
"""


def test_a_server_in_another_process_limits_its_one_client_over_stdio() -> None:
    stdio: Any = import_module("mcp.client.stdio")
    parameters = stdio.StdioServerParameters(command=sys.executable, args=["-c", STDIO_SERVER])

    async def main() -> list[str]:
        if IS_V2:
            from mcp import Client

            async with Client(stdio.stdio_client(parameters)) as client:
                results = [await client.call_tool("search", {}) for _ in range(2)]
        else:
            session_class: Any = import_module("mcp").ClientSession
            async with stdio.stdio_client(parameters) as (read, write):
                async with session_class(read, write) as session:
                    await session.initialize()
                    results = [await session.call_tool("search", {}) for _ in range(2)]
        return [Outcome(each).text for each in results]

    found, denied = asyncio.run(asyncio.wait_for(main(), 60))
    assert found == "found"
    assert denied.endswith("Rate limit of search exceeded. Retry after 60 seconds.")


def test_what_is_no_server_is_refused() -> None:
    with pytest.raises(headway.SetUpError, match="must be the SDK's MCPServer, FastMCP or Server"):
        RateLimit("1/s").install(object())
    with pytest.raises(headway.SetUpError, match="Invalid methods: 'tools/call', must be several"):
        RateLimit("1/s").install(make_server(), methods="tools/call")


@eras
def test_a_client_over_http_gets_no_fresh_count_with_a_new_session(era: dict[str, Any]) -> None:
    """Without a token: whoever calls may open as many sessions as it likes."""
    server = make_server()
    RateLimit("2/hour").install(server)

    async def main(url: str) -> None:
        failed = []
        for _ in range(3):
            async with connected_by_http(url, **era) as client:
                failed.append((await client.call("search")).is_error)
        assert failed == [False, False, True]

    with serving(server) as url:
        asyncio.run(main(url))

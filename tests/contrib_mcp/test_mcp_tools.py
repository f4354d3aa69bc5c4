"""Limits above the functions of a server, met through the SDK's own client in memory."""

from __future__ import annotations

import asyncio
import logging
import re
from typing import Any

import pytest
from mcp_servers import IS_V2, McpServer, connected, only_v2

import headway
from headway.contrib import mcp as limits
from headway.contrib.mcp import Call, combine, concurrency, everyone, limit, route

ERAS: list[dict[str, Any]] = [{"mode": "auto"}, {"mode": "legacy"}] if IS_V2 else [{}]


@pytest.fixture(params=ERAS, ids=lambda era: era.get("mode", "1.x"))
def era(request: pytest.FixtureRequest) -> Any:
    return request.param


def test_a_tool_over_its_limit_returns_an_error_that_says_when_to_retry(
    era: dict[str, Any], store: headway.MemoryStore
) -> None:
    server = McpServer("test")

    @server.tool()
    @limit("2/minute", store=store)
    async def search(query: str) -> str:
        return query

    async def main() -> None:
        async with connected(server, **era) as client:
            assert [(await client.call("search", query="a")).text for _ in range(2)] == ["a", "a"]
            denied = await client.call("search", query="a")
            assert denied.is_error
            assert denied.text.endswith("Rate limit of search exceeded. Retry after 30 seconds.")
            if IS_V2:
                assert denied.numbers == {
                    "error": "rate_limited",
                    "name": "search",
                    "limit": 2,
                    "remaining": 0,
                    "reset_after": 60,
                    "retry_after": 30,
                }

    asyncio.run(main())


def test_a_tool_answers_again_after_the_time_that_it_told(
    store: headway.MemoryStore, clock: headway.VirtualClock
) -> None:
    server = McpServer("test")

    @server.tool()
    @limit("1/minute", store=store)
    async def search() -> str:
        return "found"

    async def main() -> None:
        async with connected(server) as client:
            await client.call("search")
            assert (await client.call("search")).is_error
            clock.advance(60)
            assert (await client.call("search")).text == "found"

    asyncio.run(main())


def test_a_decorated_tool_keeps_its_name_its_documentation_and_its_schema() -> None:
    plain, limited = McpServer("plain"), McpServer("limited")

    async def search(query: str, most: int = 10) -> list[str]:
        """Search the archive."""
        return [query] * most

    plain.tool()(search)
    limited.tool()(limit("1/s")(concurrency(1)(search)))

    async def listed(server: Any) -> Any:
        async with connected(server) as client:
            return (await client.client.list_tools()).tools[0].model_dump()

    assert asyncio.run(listed(limited)) == asyncio.run(listed(plain))


def test_a_plain_function_is_limited_as_a_coroutine_is(
    era: dict[str, Any], store: headway.MemoryStore
) -> None:
    server = McpServer("test")

    @server.tool()
    @limit("1/minute", store=store)
    def search(query: str) -> dict[str, str]:
        return {"found": query}

    async def main() -> None:
        async with connected(server, **era) as client:
            assert not (await client.call("search", query="a")).is_error
            assert "Retry after 60 seconds" in (await client.call("search", query="a")).text

    asyncio.run(main())


def test_two_tools_under_one_name_share_a_limit(store: headway.MemoryStore) -> None:
    server = McpServer("test")
    shared = limit("1/minute", store=store, name="archive")

    @server.tool()
    @shared
    async def read() -> str:
        return "read"

    @server.tool()
    @shared
    async def write() -> str:
        return "written"

    async def main() -> None:
        async with connected(server) as client:
            assert not (await client.call("read")).is_error
            assert "Rate limit of archive" in (await client.call("write")).text

    asyncio.run(main())


def test_clients_of_their_own_connections_have_limits_of_their_own(
    store: headway.MemoryStore,
) -> None:
    server = McpServer("test")

    @server.tool()
    @limit("1/minute", store=store)
    async def search() -> str:
        return "found"

    async def main() -> None:
        legacy = {"mode": "legacy"} if IS_V2 else {}
        async with connected(server, **legacy) as one, connected(server, **legacy) as other:
            assert not (await one.call("search")).is_error
            assert (await one.call("search")).is_error
            assert not (await other.call("search")).is_error

    asyncio.run(main())


@pytest.mark.parametrize("era_of_two", ERAS, ids=str)
def test_key_everyone_counts_all_clients_together(
    era_of_two: dict[str, Any], store: headway.MemoryStore
) -> None:
    server = McpServer("test")

    @server.tool()
    @limit("1/minute", key=everyone(), store=store)
    async def search() -> str:
        return "found"

    async def main() -> None:
        async with connected(server, **era_of_two) as one, connected(server, **era_of_two) as other:
            assert not (await one.call("search")).is_error
            assert (await other.call("search")).is_error

    asyncio.run(main())


def test_cost_and_key_see_what_the_tool_is_called_with(store: headway.MemoryStore) -> None:
    server = McpServer("test")
    seen: list[Call] = []

    def pages(call: Call) -> int:
        seen.append(call)
        return int(call.arguments["pages"])

    @server.tool()
    @limit("10/minute", key=combine(everyone(), route()), cost=pages, store=store)
    async def fetch(pages: int) -> int:
        return pages

    async def main() -> None:
        async with connected(server) as client:
            assert not (await client.call("fetch", pages=9)).is_error
            assert (await client.call("fetch", pages=2)).is_error
            assert not (await client.call("fetch", pages=1)).is_error
            never = await client.call("fetch", pages=11)
            assert never.text.endswith(
                "more than the limit ever allows: do not repeat it unchanged."
            )

    asyncio.run(main())
    assert {(call.method, call.name) for call in seen} == {("tools/call", "fetch")}


def test_a_quota_may_depend_on_the_call(store: headway.MemoryStore) -> None:
    server = McpServer("test")

    def quota(call: Call) -> str | None:
        tier = call.arguments["tier"]
        return {"free": "1/minute", "paid": "3/minute"}.get(tier)

    @server.tool()
    @limit(quota, store=store)
    async def search(tier: str) -> str:
        return tier

    async def main() -> None:
        async with connected(server) as client:
            for tier, admitted in (("free", 1), ("paid", 3), ("staff", 5)):
                results = [await client.call("search", tier=tier) for _ in range(5)]
                assert [not each.is_error for each in results].count(True) == admitted

    asyncio.run(main())


def test_a_call_waits_when_it_is_given_a_timeout() -> None:
    server = McpServer("test")

    @server.tool()
    @limit("50/s burst 1", timeout=5)
    async def search() -> str:
        return "found"

    async def main() -> None:
        async with connected(server) as client:
            results = await asyncio.gather(*(client.call("search") for _ in range(4)))
            assert not any(each.is_error for each in results)

    asyncio.run(main())


def test_only_so_many_calls_run_at_once_and_the_next_is_told() -> None:
    server = McpServer("test")
    go, running = asyncio.Event(), asyncio.Semaphore(0)

    @server.tool()
    @concurrency(2)
    async def render() -> str:
        running.release()
        await go.wait()
        return "rendered"

    async def main() -> None:
        async with connected(server) as client:
            first = [asyncio.create_task(client.call("render")) for _ in range(2)]
            for _ in range(2):
                await asyncio.wait_for(running.acquire(), 30)
            third = await client.call("render")
            assert third.is_error
            assert "render is busy: it carries out 2 calls at a time." in third.text
            go.set()
            assert [(await each).text for each in first] == ["rendered", "rendered"]
            assert (await client.call("render")).text == "rendered"

    asyncio.run(main())


def test_a_call_waits_for_its_turn_as_long_as_it_may() -> None:
    server = McpServer("test")
    at_once = most = 0

    @server.tool()
    @concurrency(2, max_wait=30)
    async def render() -> str:
        nonlocal at_once, most
        at_once += 1
        most = max(most, at_once)
        await asyncio.sleep(0)
        at_once -= 1
        return "rendered"

    async def main() -> None:
        async with connected(server) as client:
            results = await asyncio.gather(*(client.call("render") for _ in range(8)))
            assert [each.text for each in results] == ["rendered"] * 8
            assert most <= 2

    asyncio.run(main())


def test_a_call_that_fails_gives_its_place_back() -> None:
    server = McpServer("test")

    @server.tool()
    @concurrency(1)
    async def render() -> str:
        raise ValueError("no scene")

    async def main() -> None:
        async with connected(server) as client:
            for _ in range(3):
                assert "busy" not in (await client.call("render")).text

    asyncio.run(main())


def test_a_dry_run_denies_nothing_and_says_what_it_would_have_denied(
    store: headway.MemoryStore, caplog: pytest.LogCaptureFixture
) -> None:
    server = McpServer("test")

    @server.tool()
    @limit("1/minute", store=store, dry_run=True)
    async def search() -> str:
        return "found"

    async def main() -> None:
        async with connected(server) as client:
            for _ in range(2):
                assert (await client.call("search")).text == "found"

    with caplog.at_level(logging.INFO, "headway.contrib.mcp"):
        asyncio.run(main())
    assert (
        caplog.messages.count(
            "dry run, would deny: Rate limit of search exceeded. Retry after 60 seconds."
        )
        == 1
    )


@pytest.mark.parametrize(("on_error", "answered"), [("deny", False), ("allow", True)])
def test_a_store_that_is_down_denies_or_lets_pass_as_told(on_error: str, answered: bool) -> None:
    server = McpServer("test")

    @server.tool()
    @limit("1/minute", store="redis://127.0.0.1:1/0", on_error=on_error)
    async def search() -> str:
        return "found"

    async def main() -> None:
        async with connected(server) as client:
            result = await client.call("search")
            assert (result.text == "found") is answered
            if not answered:
                assert "cannot be checked at the moment" in result.text

    asyncio.run(main())


@only_v2
def test_prompts_and_templates_over_their_limit_are_answered_with_an_error_of_json_rpc(
    era: dict[str, Any], store: headway.MemoryStore
) -> None:
    from mcp import MCPError

    server = McpServer("test")

    @server.resource("notes://{name}")
    @limit("1/minute", store=store)
    def note(name: str) -> str:
        return name

    @server.prompt()
    @limit("1/minute", store=store)
    async def ask(topic: str) -> str:
        return topic

    async def main() -> None:
        async with connected(server, **era) as caller:
            for ask_once in (
                lambda: caller.client.read_resource("notes://a"),
                lambda: caller.client.get_prompt("ask", {"topic": "a"}),
            ):
                await ask_once()
                with pytest.raises(MCPError) as caught:
                    await ask_once()
                assert caught.value.code == limits.RATE_LIMITED
                assert caught.value.data["retry_after"] == 60

    asyncio.run(main())


def test_a_decorated_function_can_be_called_outside_of_a_server(store: headway.MemoryStore) -> None:
    @limit("1/minute", store=store)
    def search(query: str) -> str:
        return query

    assert search("a") == "a"


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (lambda: limit("10/fortnight"), "fortnight"),
        (lambda: limit("1/s", key="user"), "Invalid key: 'user', must be a key function"),
        (lambda: limit("1/s", on_error="pass"), "Invalid on_error: 'pass', must be 'deny' or"),
        (lambda: limit("1/s", exempt="search"), "Invalid exempt: 'search', must be names of tools"),
        (lambda: limit("1/s", name=""), "Invalid name: '', must be a non-empty string."),
        (lambda: limit("1/s", store="nowhere://"), "nowhere"),
        (lambda: concurrency(0), "Invalid capacity: 0, must be an integer between 1"),
        (lambda: concurrency(1, max_wait=-1), "Invalid max_wait: -1"),
    ],
)
def test_an_argument_that_is_not_usable_is_named_at_once(make: Any, sentence: str) -> None:
    with pytest.raises((headway.BaseThrottledError, ValueError), match=re.escape(sentence)):
        make()

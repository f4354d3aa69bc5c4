"""A call that one limit denies costs nothing elsewhere; limits count under names of their own."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from itertools import islice
from typing import Any

import pytest
from mcp_servers import IS_V2, McpServer, connected

import headway
from headway.contrib.mcp import Concurrency, RateLimit, concurrency, everyone, limit

ERAS: list[dict[str, Any]] = [{"mode": "auto"}, {"mode": "legacy"}] if IS_V2 else [{}]
eras = pytest.mark.parametrize("era", ERAS, ids=lambda era: era.get("mode", "1.x"))

Left = Callable[..., int]


@pytest.fixture
def left(store: headway.MemoryStore) -> Left:
    """What the wide limit, nine a minute, has left; asked without taking anything."""

    def asked(using: str = "token_bucket") -> int:
        wide = headway.Throttled(quota="9/minute", store=store, using=using)
        return wide.peek("mcp|wide|everyone").remaining

    return asked


def wide(store: headway.MemoryStore, **options: Any) -> RateLimit:
    return RateLimit("9/minute", name="wide", key=everyone(), store=store, **options)


def calls(server: Any, count: int, tool: str = "search", **era: Any) -> list[Any]:
    async def main() -> list[Any]:
        async with connected(server, **era) as client:
            return [await client.call(tool) for _ in range(count)]

    return asyncio.run(main())


@eras
@pytest.mark.parametrize("plain", [False, True])
def test_what_a_tool_denies_the_servers_limit_gets_back(
    plain: bool, era: dict[str, Any], store: headway.MemoryStore, left: Left
) -> None:
    server = McpServer("test")
    wide(store).install(server)

    async def search() -> str:
        return "found"

    def search_plainly() -> str:
        return "found"

    function: Any = search_plainly if plain else search
    server.tool(name="search")(limit("1/minute", key=everyone(), store=store)(function))
    answers = calls(server, 4, **era)
    assert [answer.is_error for answer in answers] == [False, True, True, True]
    assert left() == 8
    assert answers[0].numbers["remaining"] == 8
    if IS_V2:
        assert answers[1].numbers["error"] == "rate_limited"


@eras
def test_of_two_installed_limits_the_outer_one_gets_it_back(
    era: dict[str, Any], store: headway.MemoryStore, left: Left
) -> None:
    server = McpServer("test")
    if IS_V2:
        wide(store).install(server)
        RateLimit("1/minute", store=store, key=everyone()).install(server)
    else:  # what is installed later stands around
        RateLimit("1/minute", store=store, key=everyone()).install(server)
        wide(store).install(server)

    @server.tool()
    async def search() -> str:
        return "found"

    answers = calls(server, 4, **era)
    assert [answer.is_error for answer in answers] == [False, True, True, True]
    assert left() == 8


def test_of_two_decorators_the_outer_one_gets_it_back(
    store: headway.MemoryStore, left: Left
) -> None:
    server = McpServer("test")

    @server.tool()
    @wide(store, cost=2)
    @limit("1/minute", key=everyone(), store=store)
    async def search() -> str:
        return "found"

    calls(server, 4)
    assert left() == 7


def test_a_tool_that_is_busy_costs_nothing(store: headway.MemoryStore, left: Left) -> None:
    server = McpServer("test")
    wide(store).install(server)
    go = asyncio.Event()

    @server.tool()
    @concurrency(1)
    async def search() -> str:
        await go.wait()
        return "found"

    async def main() -> None:
        async with connected(server) as client:
            tasks = [asyncio.create_task(client.call("search")) for _ in range(3)]
            for denied in islice(asyncio.as_completed(tasks), 2):
                assert (await asyncio.wait_for(denied, 30)).is_error
            go.set()
            answers = [await task for task in tasks]
            assert [answer.is_error for answer in answers].count(False) == 1

    asyncio.run(main())
    assert left() == 8


def test_a_window_keeps_what_it_took_and_the_denial_is_told(
    store: headway.MemoryStore, left: Left
) -> None:
    server = McpServer("test")
    wide(store, using="fixed_window").install(server)

    @server.tool()
    @limit("1/minute", key=everyone(), store=store)
    async def search() -> str:
        return "found"

    answers = calls(server, 9)
    assert left("fixed_window") == 0
    if IS_V2:
        assert answers[8].numbers["error"] == "rate_limited"


def test_a_tool_that_catches_a_denial_and_answers_pays(
    store: headway.MemoryStore, left: Left
) -> None:
    server = McpServer("test")
    wide(store).install(server)

    @limit("1/minute", key=everyone(), store=store)
    def ask_the_archive() -> Any:
        return "found"

    @server.tool()
    def search() -> str:
        try:
            found = ask_the_archive()
        except headway.BaseThrottledError:
            return "from the cache"
        return found if isinstance(found, str) else "from the cache"

    answers = calls(server, 3)
    assert [answer.text for answer in answers] == ["found", "from the cache", "from the cache"]
    assert left() == 6


def test_a_tool_that_fails_by_itself_pays(store: headway.MemoryStore, left: Left) -> None:
    server = McpServer("test")
    wide(store).install(server)

    @server.tool()
    @limit("5/minute", store=store)
    async def search() -> str:
        raise ValueError("no archive")

    assert all(answer.is_error for answer in calls(server, 2))
    assert left() == 7


@pytest.mark.skipif(not IS_V2, reason="1.x runs one server in a context")
def test_a_denial_of_another_server_in_this_process_is_not_this_calls(
    store: headway.MemoryStore, left: Left
) -> None:
    front, back = McpServer("front"), McpServer("back")
    wide(store).install(front)

    @back.tool()
    @limit("1/minute", key=everyone(), store=store)
    async def search() -> str:
        return "found"

    @front.tool(name="search")
    async def search_behind() -> str:
        async with connected(back) as client:
            answer = await client.call("search")
        if answer.is_error:
            raise ValueError("the one behind is limited")
        return str(answer.text)

    assert [answer.is_error for answer in calls(front, 3)] == [False, True, True]
    assert left() == 6


class TestNames:
    def test_two_limits_of_one_server_without_names_count_apart(
        self, store: headway.MemoryStore
    ) -> None:
        server = McpServer("test")
        for quota in ("4/minute", "6/hour"):
            RateLimit(quota, store=store, key=everyone()).install(server)

        @server.tool()
        async def search() -> str:
            return "found"

        assert [answer.is_error for answer in calls(server, 5)] == [False] * 4 + [True]

    def test_the_limits_of_two_servers_on_one_store_count_apart(
        self, store: headway.MemoryStore
    ) -> None:
        for name in ("archive", "library"):
            server = McpServer(name)
            RateLimit("1/minute", store=store, key=everyone()).install(server)

            @server.tool()
            async def search() -> str:
                return "found"

            answers = calls(server, 2)
            assert [answer.is_error for answer in answers] == [False, True]
            assert "Rate limit of requests exceeded" in answers[1].text

    def test_tools_of_one_name_in_two_modules_count_apart(self, store: headway.MemoryStore) -> None:
        for module in ("archive", "library"):
            server = McpServer("test")

            def search() -> str:
                return "found"

            search.__module__ = module
            server.tool()(limit("1/minute", store=store, key=everyone())(search))
            answers = calls(server, 2)
            assert [answer.is_error for answer in answers] == [False, True]
            assert "Rate limit of search exceeded" in answers[1].text

    def test_a_name_makes_two_servers_share(self, store: headway.MemoryStore) -> None:
        found = []
        for name in ("archive", "library"):
            server = McpServer(name)
            Concurrency(1, store=store).install(server)
            RateLimit("1/minute", store=store, key=everyone(), name="both").install(server)

            @server.tool()
            async def search() -> str:
                return "found"

            found += [answer.is_error for answer in calls(server, 1)]
        assert found == [False, True]

"""aiohttp: the middleware, and arequest_aiohttp."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

import pytest
from http_servers import EnforcingServer

from headway.smartratelimit import AsyncRateLimiter, RateLimitExceeded, RetryConfig

aiohttp = pytest.importorskip("aiohttp")

Use = Callable[[AsyncRateLimiter, aiohttp.ClientSession], Awaitable[None]]


@pytest.fixture(scope="module")
def server() -> Iterator[EnforcingServer]:
    with EnforcingServer(dialect="github", limit=10**6, window=3600.0) as found:
        yield found


@pytest.fixture(params=["middleware", "before 3.12"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    found: str = request.param
    if found != "middleware":
        monkeypatch.delattr(aiohttp, "ClientHandlerType", raising=False)
    elif not hasattr(aiohttp, "ClientHandlerType"):
        pytest.skip("this aiohttp has no middlewares")
    return found


def run(use: Use, **more: Any) -> AsyncRateLimiter:
    async def main() -> AsyncRateLimiter:
        async with AsyncRateLimiter(**more) as limiter, aiohttp.ClientSession() as session:
            await use(limiter, session)
            return limiter

    return asyncio.run(main())


def remaining(limiter: AsyncRateLimiter, endpoint: str) -> int:
    status = limiter.get_status(endpoint)
    assert status is not None
    return status.remaining


def test_a_hundred_tasks_use_a_window_up_and_get_no_429(way: str) -> None:
    with EnforcingServer(dialect="anthropic", limit=60, window=2.0) as server:

        async def use(limiter: AsyncRateLimiter, session: aiohttp.ClientSession) -> None:
            await limiter.arequest_aiohttp(session, "GET", server.url + "/first")

            async def call() -> int:
                return (await limiter.arequest_aiohttp(session, "GET", server.url + "/x")).status

            assert await asyncio.gather(*(call() for _ in range(100))) == [200] * 100

        run(use)
        assert server.stats["429"] == 0


def test_the_response_has_been_read(way: str, server: EnforcingServer) -> None:
    async def use(limiter: AsyncRateLimiter, session: aiohttp.ClientSession) -> None:
        response = await limiter.arequest_aiohttp(
            session, "POST", server.url + "/data", json={"a": 1}, headers={"X-Own": "yes"}
        )
        assert response.status == 200
        assert response.headers["X-RateLimit-Resource"] == "core"
        assert (await response.json())["headers"]["x-own"] == "yes"
        assert "/data" in await response.text()
        assert b"/data" in await response.read()

    run(use)


def test_a_cost_is_spent_once_and_hops_are_requests(way: str, server: EnforcingServer) -> None:
    async def use(limiter: AsyncRateLimiter, session: aiohttp.ClientSession) -> None:
        limiter.set_limit(server.url, 10, "1h")
        await limiter.arequest_aiohttp(session, "GET", server.url + "/redirect/end", cost=4)
        assert remaining(limiter, server.url) == 5
        await limiter.arequest_aiohttp(session, "GET", server.url + "/end")
        assert remaining(limiter, server.url) == 4

    run(use)


def test_a_session_with_the_middleware_is_limited_and_counted_once(server: EnforcingServer) -> None:
    if not hasattr(aiohttp, "ClientHandlerType"):
        pytest.skip("this aiohttp has no middlewares")

    async def main() -> None:
        limiter = AsyncRateLimiter(raise_on_limit=True)
        limiter.set_limit(server.url, 3, "1h")
        middlewares = (limiter.aiohttp_middleware(),)
        async with aiohttp.ClientSession(middlewares=middlewares) as session:
            async with session.get(server.url + "/a") as response:
                assert response.status == 200
            await limiter.arequest_aiohttp(session, "GET", server.url + "/b")
            assert remaining(limiter, server.url) == 1
            await session.get(server.url + "/c")
            with pytest.raises(RateLimitExceeded):
                await session.get(server.url + "/d")

    asyncio.run(main())


def test_a_429_is_sent_again_with_its_body(way: str) -> None:
    with EnforcingServer(dialect="slack", limit=2, window=1.0) as server:

        async def use(limiter: AsyncRateLimiter, session: aiohttp.ClientSession) -> None:
            for _ in range(4):
                response = await limiter.arequest_aiohttp(
                    session, "POST", server.url + "/data", data=b"body"
                )
                assert response.status == 200

        run(use, retry=RetryConfig(base_delay=0.01))


def test_a_server_that_is_not_there_is_the_callers_error(way: str) -> None:
    async def use(limiter: AsyncRateLimiter, session: aiohttp.ClientSession) -> None:
        limiter.set_limit("http://127.0.0.1:1", 5, "1h")
        with pytest.raises(aiohttp.ClientConnectionError):
            await limiter.arequest_aiohttp(session, "GET", "http://127.0.0.1:1/")

    run(use)

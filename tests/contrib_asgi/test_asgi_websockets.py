"""WebSockets: handshakes are counted, connections are held, denials come before the accept."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from typing import Any

from contrib_stage import Socket, hello

from headway.contrib.asgi import Concurrency, RateLimitMiddleware, Rule


def test_a_handshake_counts_as_a_request_and_the_accept_carries_the_fields() -> None:
    async def run() -> None:
        app = RateLimitMiddleware(hello, "2/m")
        async with Socket(app) as first:
            assert first.accepted
            assert first.answer.headers["ratelimit"] == '"default";r=1;t=30'
        async with Socket(app) as second, Socket(app) as third:
            assert (second.accepted, third.accepted) == (True, False)

    asyncio.run(run())


def test_a_denial_is_a_429_where_the_server_can_send_one() -> None:
    async def run() -> Any:
        app = RateLimitMiddleware(hello, "1/m")
        async with Socket(app), Socket(app, denial=True) as denied:
            return denied.answer

    answer = asyncio.run(run())
    assert [message["type"] for message in answer.messages] == [
        "websocket.http.response.start",
        "websocket.http.response.body",
    ]
    assert answer.status == 429
    assert answer.headers["retry-after"] == "60"
    assert answer.headers["ratelimit"] == '"default";r=0;t=60'
    assert answer.json["status"] == 429


def test_a_denial_closes_with_1013_where_the_server_cannot() -> None:
    async def run() -> Any:
        app = RateLimitMiddleware(hello, "1/m")
        async with Socket(app), Socket(app) as denied:
            return denied.answer.messages

    assert asyncio.run(run()) == [
        {
            "type": "websocket.close",
            "code": 1013,
            "reason": "Rate limit exceeded: try again in 60 seconds.",
        }
    ]


def test_at_most_so_many_connections_of_one_client_at_a_time() -> None:
    async def run() -> None:
        app = RateLimitMiddleware(hello, Concurrency(3, paths="/ws"))
        async with AsyncExitStack() as open_sockets:
            found = [await open_sockets.enter_async_context(Socket(app, "/ws")) for _ in range(5)]
            assert [one.accepted for one in found] == [True, True, True, False, False]
            async with Socket(app, "/ws", client=("192.0.2.9", 1)) as other:
                assert other.accepted
        async with Socket(app, "/ws") as later:
            assert later.accepted

    asyncio.run(run())


def test_a_concurrency_may_be_for_requests_alone() -> None:
    async def run() -> None:
        app = RateLimitMiddleware(hello, Concurrency(1, websockets=False))
        async with Socket(app) as first, Socket(app) as second:
            assert first.accepted
            assert second.accepted

    asyncio.run(run())


def test_a_connection_that_the_rate_denies_holds_no_permit() -> None:
    async def run() -> None:
        app = RateLimitMiddleware(
            hello, [Concurrency(1, name="one"), Rule("1/m", name="rate", key=lambda r: "k")]
        )
        async with Socket(app) as first:
            assert first.accepted
        for ip in ("192.0.2.5", "192.0.2.5"):
            async with Socket(app, client=(ip, 1)) as denied:
                assert denied.answer.messages[0]["code"] == 1013
                assert "try again in 60" in denied.answer.messages[0]["reason"]

    asyncio.run(run())


def test_who_hangs_up_before_the_denial_is_sent_nothing() -> None:
    async def run() -> list[Any]:
        app = RateLimitMiddleware(hello, Rule("1/m", cost=2))
        sent: list[Any] = []

        async def receive() -> Any:
            return {"type": "websocket.disconnect", "code": 1001}

        async def send(message: Any) -> None:
            sent.append(message)

        await app(Socket(app).scope, receive, send)
        return sent

    assert asyncio.run(run()) == []

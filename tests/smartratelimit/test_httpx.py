"""httpx: transports for both clients, and arequest_httpx."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import pytest
from dialects import DIALECTS
from http_servers import EnforcingServer

from headway.smartratelimit import AsyncRateLimiter, RateLimiter, RateLimitExceeded, RetryConfig
from headway.smartratelimit.httpx_transport import AsyncRateLimitTransport, RateLimitTransport

httpx = pytest.importorskip("httpx")
trio = pytest.importorskip("trio")

URL = "https://api.example.com/data"


@pytest.fixture(scope="module")
def server() -> Iterator[EnforcingServer]:
    with EnforcingServer(dialect="github", limit=10**6, window=3600.0) as found:
        yield found


@pytest.mark.slow
@pytest.mark.parametrize("dialect", sorted(DIALECTS.keys() - {"slack"}))
def test_a_hundred_tasks_never_get_a_429_that_headers_could_prevent(dialect: str) -> None:
    async def main(url: str) -> list[int]:
        limits = httpx.Limits(max_connections=None)
        async with AsyncRateLimiter() as limiter, httpx.AsyncClient(limits=limits) as client:
            await limiter.arequest_httpx(client, "GET", url + "/first")

            async def call() -> int:
                return (await limiter.arequest_httpx(client, "GET", url + "/data")).status_code

            return await asyncio.gather(*(call() for _ in range(100)))

    window = 60.0 if dialect == "atlassian" else 1.0
    limit = 110 if dialect in ("atlassian", "shopify") else 60  # minutes; a bucket of 20 s
    with EnforcingServer(dialect=dialect, limit=limit, window=window, tokens=10**6) as server:
        assert asyncio.run(main(server.url)) == [200] * 100
        assert server.stats["429"] == 0


def transport_of(limiter: Any, answers: Any) -> Any:
    kind = RateLimitTransport if isinstance(limiter, RateLimiter) else AsyncRateLimitTransport
    return kind(limiter, httpx.MockTransport(answers))


def test_a_client_with_the_transport_is_limited() -> None:
    limiter = RateLimiter(raise_on_limit=True)
    limiter.set_limit("api.example.com", 3, "1h")
    with httpx.Client(transport=transport_of(limiter, lambda _: httpx.Response(200))) as client:
        client.get(URL, extensions={"cost": 2})
        client.get(URL)
        with pytest.raises(RateLimitExceeded):
            client.get(URL)


def test_hops_are_counted_for_their_own_host() -> None:
    def answer(request: httpx.Request) -> httpx.Response:
        if request.url.host == "a.example":
            return httpx.Response(302, headers={"Location": "https://b.example/end"})
        return httpx.Response(200, json={"auth": request.headers.get("Authorization")})

    limiter = RateLimiter()
    limiter.set_limit("a.example", 10, "1h")
    limiter.set_limit("b.example", 10, "1h")
    with httpx.Client(transport=transport_of(limiter, answer), follow_redirects=True) as client:
        client.get("https://a.example/", extensions={"cost": 4})
    found = [limiter.get_status(host) for host in ("a.example", "b.example")]
    assert [status and status.remaining for status in found] == [6, 9]


@pytest.mark.parametrize("run", [asyncio.run, trio.run], ids=["asyncio", "trio"])
def test_arequest_follows_redirects_as_the_client_would(run: Any) -> None:
    seen = []

    def answer(request: httpx.Request) -> httpx.Response:
        seen.append((request.url.host, request.headers.get("Authorization")))
        if request.url.host == "a.example":
            return httpx.Response(302, headers={"Location": "https://b.example/end"})
        return httpx.Response(200)

    async def main() -> None:
        limiter = AsyncRateLimiter()
        limiter.set_limit("a.example", 10, "1h")
        limiter.set_limit("b.example", 10, "1h")
        mock = httpx.MockTransport(answer)
        async with httpx.AsyncClient(transport=mock, auth=("me", "secret")) as client:
            plain = await limiter.arequest_httpx(client, "GET", "https://a.example/")
            assert plain.status_code == 302
            response = await limiter.arequest_httpx(
                client, "GET", "https://a.example/", cost=3, follow_redirects=True
            )
        assert str(response.url) == "https://b.example/end"
        assert [hop.status_code for hop in response.history] == [302]
        found = [limiter.get_status(host) for host in ("a.example", "b.example")]
        assert [status and status.remaining for status in found] == [6, 9]

    run(main) if run is trio.run else run(main())
    assert [host for host, _ in seen] == ["a.example", "a.example", "b.example"]
    assert seen[1][1] is not None
    assert seen[2][1] is None


def test_redirects_without_end_are_the_clients_error() -> None:
    async def main() -> None:
        mock = httpx.MockTransport(lambda _: httpx.Response(302, headers={"Location": "/again"}))
        async with AsyncRateLimiter() as limiter, httpx.AsyncClient(transport=mock) as client:
            with pytest.raises(httpx.TooManyRedirects):
                await limiter.arequest_httpx(client, "GET", URL, follow_redirects=True)

    asyncio.run(main())


def test_a_client_with_the_transport_is_not_counted_twice_by_arequest() -> None:
    async def main() -> None:
        limiter = AsyncRateLimiter()
        limiter.set_limit("api.example.com", 10, "1h")
        transport = transport_of(limiter, lambda _: httpx.Response(200))
        async with httpx.AsyncClient(transport=transport) as client:
            await limiter.arequest_httpx(client, "GET", URL)
        status = limiter.get_status("api.example.com")
        assert status is not None
        assert status.remaining == 9

    asyncio.run(main())


class Bare(httpx.BaseTransport):
    """Does not read the body before it answers, as httpx' own mock does."""

    def __init__(self, answer: Any) -> None:
        self.handle_request = answer


def test_a_503_is_sent_again_unless_its_body_is_gone() -> None:
    sent: list[bytes] = []

    def answer(request: httpx.Request) -> httpx.Response:
        sent.append(b"".join(request.stream))  # type: ignore[arg-type]
        return httpx.Response(503 if len(sent) < 3 else 200)

    retry = RetryConfig(base_delay=0.001)
    transport = RateLimitTransport(RateLimiter(retry=retry), Bare(answer))
    with httpx.Client(transport=transport) as client:  # type: ignore[arg-type]
        assert client.post(URL, content=b"body").status_code == 200
        assert sent == [b"body"] * 3
        sent.clear()
        assert client.post(URL, content=iter([b"bo", b"dy"])).status_code == 503
        assert sent == [b"body"]


def test_what_was_never_sent_costs_nothing() -> None:
    def answer(request: httpx.Request) -> httpx.Response:
        if request.url.path == "/data":
            told = {"X-RateLimit-Limit": "6", "X-RateLimit-Remaining": "5"}
            return httpx.Response(200, headers={**told, "X-RateLimit-Reset": "3000"})
        raise httpx.ConnectError("no") if request.url.path == "/no" else httpx.ReadError("lost")

    async def main() -> None:
        limiter = AsyncRateLimiter()
        async with httpx.AsyncClient(transport=transport_of(limiter, answer)) as client:
            await client.get(URL)
            for path, remaining in (("/no", 5), ("/lost", 4)):
                with pytest.raises(httpx.TransportError):
                    await client.get("https://api.example.com" + path)
                status = limiter.get_status("api.example.com")
                assert status is not None
                assert status.remaining == remaining

    asyncio.run(main())


def test_a_stream_is_the_callers_to_read(server: EnforcingServer) -> None:
    limiter = RateLimiter()
    with httpx.Client(transport=RateLimitTransport(limiter)) as client:
        with client.stream("GET", server.url + "/stream") as response:
            assert not response.is_stream_consumed
            assert b"/stream" in b"".join(response.iter_bytes())
    assert limiter.get_status(server.url) is not None

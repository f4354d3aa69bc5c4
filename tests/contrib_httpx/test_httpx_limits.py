"""Limits of one's own for httpx: what is said, counted and refused. No network is needed here."""

from __future__ import annotations

import asyncio
import gc
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
import trio

import headway
from headway import DataError, LimitedError, MemoryStore, SetUpError, VirtualClock
from headway.contrib.httpx import (
    AsyncRateLimitTransport,
    RateLimitTimeout,
    RateLimitTransport,
)


def on_asyncio(main: Any) -> None:
    asyncio.run(main())


RUNS = pytest.mark.parametrize("run", [on_asyncio, trio.run], ids=["asyncio", "trio"])


def ok(request: httpx.Request) -> httpx.Response:
    return httpx.Response(200, text=request.url.path)


def client_of(quota: Any = None, answer: Any = ok, **options: Any) -> httpx.Client:
    # Who waits for a permit does so in the store's time, which must go on.
    clock = None if "concurrency" in options else VirtualClock(10**18)
    options.setdefault("store", MemoryStore(clock=clock))
    mock = httpx.MockTransport(answer)
    return httpx.Client(
        transport=RateLimitTransport(quota, transport=mock, **options), follow_redirects=True
    )


def remaining(client: httpx.Client, key: str) -> int:
    limiter = client._transport.limiter  # type: ignore[attr-defined]
    return int(limiter.peek(key).remaining)


def test_each_host_has_a_quota_of_its_own() -> None:
    with client_of("2/h", timeout=0) as client:
        for _ in range(2):
            assert client.get("https://a.example/x").status_code == 200
            assert client.get("https://b.example:8080/").status_code == 200
        for url, key in (("https://a.example/", "a.example"), ("https://b.example:8080/", None)):
            with pytest.raises(RateLimitTimeout) as caught:
                client.get(url)
            assert caught.value.key == (key or "b.example:8080")


def test_a_key_of_ones_own_may_be_a_text_or_a_route_or_exempt() -> None:
    def route(request: httpx.Request) -> str | None:
        return None if request.url.path == "/health" else f"{request.method} {request.url.path}"

    with client_of("1/h", timeout=0, key=route) as client:
        client.get("https://a.example/x")
        client.get("https://b.example/y")
        client.post("https://a.example/x")
        for _ in range(3):
            client.get("https://a.example/health")
        with pytest.raises(RateLimitTimeout, match="'GET /x'"):
            client.get("https://b.example/x")
    with client_of("1/h", timeout=0, key="all") as client:
        client.get("https://a.example/")
        with pytest.raises(RateLimitTimeout, match="'all'"):
            client.get("https://b.example/")


def test_a_quota_may_depend_on_the_key() -> None:
    def quota(key: str) -> str:
        return "3/h" if key == "big.example" else "1/h"

    with client_of(quota, timeout=0) as client:
        for host, times in (("big.example", 3), ("small.example", 1)):
            for _ in range(times):
                client.get(f"https://{host}/")
            with pytest.raises(RateLimitTimeout):
                client.get(f"https://{host}/")


def test_a_cost_comes_from_the_request() -> None:
    with client_of("100/h", cost=lambda request: len(request.content)) as client:
        client.post("https://a.example/", content=b"0123456789")
        assert remaining(client, "a.example") == 90
        client.post("https://a.example/", content=b"0123456789", extensions={"cost": 40})
        assert remaining(client, "a.example") == 50


def test_a_hop_of_a_redirect_costs_one_and_a_request_that_is_sent_again_its_own_cost() -> None:
    def answer(request: httpx.Request) -> httpx.Response:
        if request.url.path == "/from":
            return httpx.Response(302, headers={"Location": "/to"})
        return httpx.Response(200)

    with client_of("100/h", answer) as client:
        client.get("https://a.example/from", extensions={"cost": 10})
        assert remaining(client, "a.example") == 89
        request = client.build_request("GET", "https://a.example/to", extensions={"cost": 20})
        client.send(request)
        client.send(request)
        assert remaining(client, "a.example") == 49


def test_a_refusal_is_an_error_of_httpx_and_of_headway() -> None:
    with client_of("2/m burst 1") as client:
        client.get("https://a.example/")
        with pytest.raises(httpx.TimeoutException) as caught:
            client.get("https://a.example/", timeout=7)
    error = caught.value
    assert isinstance(error, LimitedError)
    assert isinstance(error, httpx.PoolTimeout)
    assert str(error) == (
        "Over the quota of 'a.example': the next slot is in 30 s, and the timeout is 7 s."
    )
    assert error.request.url == "https://a.example/"
    assert error.retry_after == 30
    assert error.rate_limit_result is not None
    again = pickle.loads(pickle.dumps(error))
    assert (str(again), again.key, again.retry_after) == (str(error), "a.example", 30)


def test_what_can_never_fit_is_refused_at_once_however_long_one_would_wait() -> None:
    with client_of("2/h") as client, pytest.raises(RateLimitTimeout, match="more than the quota"):
        client.get("https://a.example/", extensions={"cost": 3}, timeout=None)


def test_the_wait_is_the_transports_or_the_requests_pool_timeout() -> None:
    with client_of("2/m burst 1", timeout=3) as client:
        client.get("https://a.example/")
        with pytest.raises(RateLimitTimeout, match="the timeout is 3 s"):
            client.get("https://a.example/", timeout=60)
    with client_of("2/m burst 1") as client:
        client.get("https://a.example/")
        with pytest.raises(RateLimitTimeout, match="the timeout is 5 s"):
            client.get("https://a.example/")


def test_a_permit_is_held_until_the_response_is_closed() -> None:
    with client_of(concurrency=2, answer=Streams()) as client:
        with client.stream("GET", "https://a.example/"), client.stream("GET", "https://b.example/"):
            with client.stream("GET", "https://a.example/") as second:
                with pytest.raises(RateLimitTimeout, match="2 requests of") as caught:
                    client.get("https://a.example/", timeout=0.01)
                assert caught.value.retry_after is None
                second.read()
                second.close()
                second.close()
                assert client.get("https://a.example/").text == "partpart"
        for _ in range(3):
            client.get("https://a.example/")


def test_a_permit_is_free_after_an_error_and_after_a_refusal() -> None:
    def fails(request: httpx.Request) -> httpx.Response:
        raise httpx.ConnectError("no")

    with client_of("2/h", concurrency=1, answer=fails, timeout=0.01) as client:
        for _ in range(2):
            with pytest.raises(httpx.ConnectError):
                client.get("https://a.example/")
        for _ in range(2):
            with pytest.raises(RateLimitTimeout, match="Over the quota"):
                client.get("https://a.example/")


def test_permits_of_streams_that_were_not_closed_end_with_their_client() -> None:
    store = MemoryStore()
    with client_of(concurrency=1, answer=Streams(), store=store) as client:
        response = client.send(client.build_request("GET", "https://a.example/"), stream=True)
        with pytest.raises(RateLimitTimeout, match="1 requests of"):
            client.get("https://a.example/", timeout=0.01)
    with client_of(concurrency=1, answer=Streams(), store=store, timeout=0.01) as other:
        for _ in range(2):
            assert other.get("https://a.example/").status_code == 200
        with other.stream("GET", "https://a.example/"):
            response.close()  # late: it ends no permit but its own
            with pytest.raises(RateLimitTimeout):
                other.get("https://a.example/")


def test_the_permit_of_a_stream_that_is_dropped_ends_with_it() -> None:
    with client_of(concurrency=1, answer=Streams(), timeout=0.01) as client:
        for _ in range(3):
            response = client.send(client.build_request("GET", "https://a.example/"), stream=True)
            assert response.status_code == 200
            del response
            gc.collect()


@RUNS
def test_permits_of_tasks_end_with_their_client_and_with_a_stream_that_is_dropped(run: Any) -> None:
    async def main() -> None:
        store = MemoryStore()
        responses = []

        async def opens(client: httpx.AsyncClient) -> None:
            request = client.build_request("GET", "https://a.example/")
            responses.append(await client.send(request, stream=True))

        for _ in range(2):
            transport = AsyncRateLimitTransport(
                concurrency=1, transport=Streams(), store=store, timeout=0.01
            )
            async with httpx.AsyncClient(transport=transport) as client:
                for _ in range(3):
                    responses.clear()
                    gc.collect()
                    await opens(client)
        await responses.pop().aclose()

    run(main)


@pytest.mark.parametrize("kind", ["redis", "sqlite"])
def test_permits_in_shared_stores_end_with_a_stream_and_with_a_client(
    kind: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    if kind == "redis":
        store = request.getfixturevalue("redis_url")
    else:
        store = f"sqlite:///{tmp_path / 'limits'}"
    for _ in range(2):
        with client_of(concurrency=1, answer=Streams(), store=store, timeout=20) as client:
            for _ in range(2):
                wanted = client.build_request("GET", "https://a.example/")
                assert client.send(wanted, stream=True).status_code == 200
                gc.collect()


def test_a_response_may_be_closed_by_another_thread(start: Callable[..., Any]) -> None:
    with client_of(concurrency=1, answer=Streams()) as client:
        for _ in range(3):
            request = client.build_request("GET", "https://a.example/")
            response = start(lambda request=request: client.send(request, stream=True)).result()
            response.close()


@RUNS
def test_tasks_are_limited_too(run: Any) -> None:
    async def main() -> None:
        transport = AsyncRateLimitTransport(
            "3/h", concurrency=2, timeout=0.01, store=MemoryStore(), transport=Streams()
        )
        async with httpx.AsyncClient(transport=transport) as client:
            async with (
                client.stream("GET", "https://a.example/"),
                client.stream("GET", "https://a.example/") as second,
            ):
                with pytest.raises(RateLimitTimeout, match="2 requests of"):
                    await client.get("https://a.example/")
                await second.aclose()
                assert (await client.get("https://a.example/")).text == "partpart"
            with pytest.raises(httpx.PoolTimeout, match="Over the quota"):
                await client.get("https://a.example/")
            assert transport.limiter is not None
            assert (await transport.limiter.peek("a.example")).remaining == 0

    run(main)


@RUNS
def test_a_task_may_close_the_response_of_another(run: Any) -> None:
    async def main() -> None:
        transport = AsyncRateLimitTransport(concurrency=1, transport=Streams())
        found: list[httpx.Response] = []

        async def opens(client: httpx.AsyncClient) -> None:
            request = client.build_request("GET", "https://a.example/")
            found.append(await client.send(request, stream=True))

        async with httpx.AsyncClient(transport=transport) as client:
            for _ in range(3):
                if run is on_asyncio:
                    await asyncio.create_task(opens(client))
                else:
                    async with trio.open_nursery() as nursery:
                        nursery.start_soon(opens, client)
                await found.pop().aclose()

    run(main)


def test_a_request_that_is_cancelled_while_it_waits_frees_its_permit_and_slot() -> None:
    async def main() -> None:
        transport = AsyncRateLimitTransport(
            "1/s", concurrency=1, store=MemoryStore(), transport=httpx.MockTransport(ok)
        )
        assert transport.limiter is not None
        async with httpx.AsyncClient(transport=transport) as client:
            await client.get("https://a.example/")
            with pytest.raises(asyncio.TimeoutError):
                await asyncio.wait_for(client.get("https://a.example/"), 0.05)
            assert (await transport.limiter.peek("a.example")).retry_after <= 1
            await client.get("https://a.example/")

    asyncio.run(main())


def test_two_of_them_may_be_put_into_each_other() -> None:
    inner = RateLimitTransport(
        "5/h", key="all", store=MemoryStore(), transport=httpx.MockTransport(ok), timeout=0
    )
    transport = RateLimitTransport("3/h", store=MemoryStore(), transport=inner, timeout=0)
    with httpx.Client(transport=transport) as client:
        client.get("https://a.example/", extensions={"cost": 2})
        client.get("https://b.example/", extensions={"cost": 3})
        with pytest.raises(RateLimitTimeout, match="'all'"):
            client.get("https://a.example/")


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({}, SetUpError, "quota='10/s', concurrency=4 or both"),
        ({"quota": "ten"}, DataError, "ten"),
        ({"quota": "1/s", "timeout": -1}, DataError, "Invalid timeout: -1, must be seconds"),
        ({"quota": "1/s", "timeout": True}, DataError, "Invalid timeout: True"),
        ({"quota": "1/s", "key": 5}, DataError, "Invalid key: 5, must be a text or a function"),
        ({"quota": "1/s", "key": ""}, DataError, "Invalid key: ''"),
        ({"quota": "1/s", "cost": -1}, DataError, "Invalid cost: -1"),
        ({"concurrency": 0}, DataError, "Invalid concurrency: 0, must be an integer between 1"),
        ({"quota": "1/s", "using": "best"}, SetUpError, "best"),
        ({"quota": "1/s", "store": "http://x"}, SetUpError, "http://x"),
    ],
)
@pytest.mark.parametrize("kind", [RateLimitTransport, AsyncRateLimitTransport])
def test_bad_arguments_are_named(
    kind: Any, options: Any, error: type[Exception], words: str
) -> None:
    with pytest.raises(error) as caught:
        kind(**options)
    assert words in str(caught.value)


@pytest.mark.parametrize(
    ("options", "request_options", "words"),
    [
        ({"key": lambda request: 5}, {}, "Invalid key: 5"),
        ({"cost": lambda request: -2}, {}, "Invalid cost: -2"),
        ({}, {"extensions": {"cost": "two"}}, "Invalid cost: two"),
    ],
)
def test_bad_answers_of_functions_are_named(options: Any, request_options: Any, words: str) -> None:
    with client_of("1/s", **options) as client, pytest.raises(DataError, match=words):
        client.get("https://a.example/", **request_options)


def test_without_httpx_the_import_says_what_to_install(run_python: Callable[..., str]) -> None:
    said = run_python("""
import sys
sys.modules["httpx"] = None
try:
    import headway.contrib.httpx
except ImportError as error:
    print(error)
""")
    assert said.strip() == 'headway.contrib.httpx needs httpx: pip install "headway[httpx]"'


def test_importing_headway_imports_no_httpx(run_python: Callable[..., str]) -> None:
    assert headway.__version__
    said = run_python("import headway, headway.contrib, sys; print('httpx' in sys.modules)")
    assert said.strip() == "False"


class Streams(httpx.BaseTransport, httpx.AsyncBaseTransport):
    """Answers with bodies that are not read before somebody asks."""

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        return httpx.Response(200, stream=Parts())

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        return httpx.Response(200, stream=Parts())

    def __call__(self, request: httpx.Request) -> httpx.Response:
        return self.handle_request(request)


class Parts(httpx.SyncByteStream, httpx.AsyncByteStream):
    def __iter__(self) -> Any:
        yield from (b"part", b"part")

    async def __aiter__(self) -> Any:
        for part in (b"part", b"part"):
            yield part

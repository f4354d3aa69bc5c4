"""The transports before a real server: what reaches it, and when."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest
import trio

from headway import MemoryStore
from headway.contrib.httpx import AsyncRateLimitTransport, RateLimitTimeout, RateLimitTransport

QUOTA, T = "40/s burst 1", 1 / 40
TIMES = 12


def test_threads_send_no_faster_than_the_quota(url: str) -> None:
    with httpx.Client(transport=RateLimitTransport(QUOTA, store=MemoryStore())) as client:
        with ThreadPoolExecutor(4) as hands:
            since = time.monotonic()
            replies = list(hands.map(client.get, [url] * TIMES))
    assert {reply.status_code for reply in replies} == {200}
    # A request arrives after its slot; so however late it is, the last one is not early.
    assert max(reply.json()["at"] for reply in replies) - since >= (TIMES - 1) * T


def get_in_asyncio(client: httpx.AsyncClient, url: str, times: int) -> Any:
    async def main() -> list[httpx.Response]:
        async with client:
            return await asyncio.gather(*(client.get(url) for _ in range(times)))

    return asyncio.run(main())


def get_in_trio(client: httpx.AsyncClient, url: str, times: int) -> Any:
    async def main() -> list[httpx.Response]:
        found: list[httpx.Response] = []

        async def get() -> None:
            found.append(await client.get(url))

        async with client, trio.open_nursery() as nursery:
            for _ in range(times):
                nursery.start_soon(get)
        return found

    return trio.run(main)


BY_TASKS = pytest.mark.parametrize("get_all", [get_in_asyncio, get_in_trio])


@BY_TASKS
def test_tasks_send_no_faster_than_the_quota(url: str, get_all: Callable[..., Any]) -> None:
    client = httpx.AsyncClient(transport=AsyncRateLimitTransport(QUOTA, store=MemoryStore()))
    since = time.monotonic()
    replies = get_all(client, url, TIMES)
    assert max(reply.json()["at"] for reply in replies) - since >= (TIMES - 1) * T


def test_threads_have_no_more_under_way_than_the_permits(url: str) -> None:
    with httpx.Client(transport=RateLimitTransport(concurrency=3)) as client:
        with ThreadPoolExecutor(8) as hands:
            replies = list(hands.map(client.get, [url + "/busy"] * 24))
    assert max(reply.json()["most"] for reply in replies) <= 3


@BY_TASKS
def test_tasks_have_no_more_under_way_than_the_permits(
    url: str, get_all: Callable[..., Any]
) -> None:
    client = httpx.AsyncClient(transport=AsyncRateLimitTransport(concurrency=3))
    replies = get_all(client, url + "/busy", 24)
    assert max(reply.json()["most"] for reply in replies) <= 3


def test_a_stream_is_the_callers_to_read_and_holds_its_permit_meanwhile(url: str) -> None:
    with httpx.Client(transport=RateLimitTransport(concurrency=1)) as client:
        with client.stream("GET", url + "/stream") as response:
            lines = response.iter_lines()
            assert next(lines) == "a line"
            with pytest.raises(RateLimitTimeout):
                client.get(url, timeout=0.02)
            assert "at" in next(lines)
        assert client.get(url).status_code == 200


def test_redirects_take_a_slot_for_each_hop(url: str) -> None:
    transport = RateLimitTransport("100/h", store=MemoryStore())
    with httpx.Client(transport=transport, follow_redirects=True) as client:
        assert client.get(url + "/redirect", extensions={"cost": 5}).json()["at"]
    assert transport.limiter is not None
    assert transport.limiter.peek(url.removeprefix("http://")).remaining == 94


def test_mounts_give_each_host_limits_of_its_own(url: str) -> None:
    strict = RateLimitTransport("1/h", store=MemoryStore(), timeout=0)
    with httpx.Client(mounts={"http://127.0.0.1": strict}) as client:
        client.get(url)
        with pytest.raises(RateLimitTimeout):
            client.get(url)
        for _ in range(2):
            assert client.get(url.replace("127.0.0.1", "localhost")).status_code == 200


def test_clients_with_a_shared_store_share_quota_and_permits(url: str, redis_url: str) -> None:
    options: Any = {"store": redis_url, "concurrency": 2}
    since = time.monotonic()
    with httpx.Client(transport=RateLimitTransport(QUOTA, **options)) as client:
        with ThreadPoolExecutor(5) as hands:
            theirs = hands.submit(
                lambda: get_in_asyncio(
                    httpx.AsyncClient(transport=AsyncRateLimitTransport(QUOTA, **options)),
                    url + "/busy",
                    8,
                )
            )
            replies = list(hands.map(client.get, [url + "/busy"] * 8)) + theirs.result()
    found = [reply.json() for reply in replies]
    assert max(one["at"] for one in found) - since >= 15 * T
    assert max(one["most"] for one in found) <= 2

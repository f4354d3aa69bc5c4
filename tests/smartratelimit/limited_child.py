"""One of many processes that share a storage: `tasks` tasks send `count` requests to one URL.

argv: storage, url, tasks, count. Says "ready", waits for a line, and prints the statuses as JSON.
"""

from __future__ import annotations

import asyncio
import json
import sys
from collections import Counter

import aiohttp

from headway.smartratelimit import AsyncRateLimiter, RetryConfig


async def main(storage: str, url: str, tasks: int, count: int) -> None:
    statuses: Counter[int] = Counter()
    left = iter(range(count))
    async with (
        AsyncRateLimiter(storage, retry=RetryConfig(max_retries=0)) as limiter,
        aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session,
    ):

        async def work() -> None:
            for _ in left:
                response = await limiter.arequest_aiohttp(session, "GET", url)
                statuses[response.status] += 1

        print("ready", flush=True)
        sys.stdin.readline()
        await asyncio.gather(*(work() for _ in range(tasks)))
    print(json.dumps(statuses))


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])))

"""A process of test_lease_exactness: asks for one key in its manner, and says when it was admitted.

python lease_child.py URL USING QUOTA LEASE MANNER BEGIN END
"""

from __future__ import annotations

import asyncio
import json
import random
import sys
import threading
import time

from headway import Throttled
from headway.asyncio import Throttled as AsyncThrottled
from headway.store import RedisStore

Stamps = list[tuple[float, float]]
MOST = 60_000


def ask(limiter: Throttled, end: float, bursts: bool, stamps: Stamps) -> None:
    pick = random.Random(len(stamps) + threading.get_ident())
    while (begin := time.monotonic()) < end and len(stamps) < MOST:
        if bursts and pick.random() < 0.01:
            time.sleep(pick.uniform(0, 0.08))
        elif limiter.limit():
            stamps.append((begin, time.monotonic()))


def by_threads(limiter: Throttled, end: float, stamps: Stamps) -> None:
    threads = [threading.Thread(target=ask, args=(limiter, end, True, stamps)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


async def by_tasks(limiter: AsyncThrottled, end: float, stamps: Stamps) -> None:
    async def work() -> None:
        while (begin := time.monotonic()) < end and len(stamps) < MOST:
            if await limiter.limit():
                stamps.append((begin, time.monotonic()))
            else:
                await asyncio.sleep(0.001)

    await asyncio.gather(*(work() for _ in range(20)))


def main(url: str, using: str, quota: str, lease: str, manner: str, begin: str, end: str) -> None:
    store = RedisStore(url, lease=lease or None)
    kind = AsyncThrottled if manner == "tasks" else Throttled
    limiter = kind("key", using=using, quota=quota, store=store)
    stamps: Stamps = []
    if manner == "hoard":  # spends a part, says how much, and stays
        print(sum(bool(limiter.limit()) for _ in range(130)), flush=True)  # type: ignore[union-attr]
        time.sleep(60)
    time.sleep(max(0.0, float(begin) - time.monotonic()))
    if isinstance(limiter, AsyncThrottled):
        asyncio.run(by_tasks(limiter, float(end), stamps))
    elif manner == "threads":
        by_threads(limiter, float(end), stamps)
    else:
        ask(limiter, float(end), manner == "bursts", stamps)
    json.dump(stamps, sys.stdout)


if __name__ == "__main__":
    main(*sys.argv[1:])

"""Never more than the quota and never less, whoever asks at once: threads, processes and tasks.

A key admits at most `b + t/T` in any interval, and a key that is kept busy at least that minus one.
The interval is taken from outside: from before the first request until after the last.
"""

from __future__ import annotations

import asyncio
import math
import subprocess
import sys
import threading
import time

import pytest
from servers import RedisServer
from store_help import BUCKETS

from headway import Throttled
from headway.asyncio import Throttled as AsyncThrottled
from headway.store import RedisStore

SECONDS = 1.2
LIMIT, BURST = 300, 20

Seen = tuple[int, float, float, float, float]
"""Admitted; the first start and end, and the last start and end."""

CHILD = """if True:
    import sys
    sys.path.insert(0, sys.argv[1])
    from test_store_exactness import by_threads
    print(*by_threads(sys.argv[2], sys.argv[3], 4, float(sys.argv[4]), float(sys.argv[5])))
"""


def by_threads(url: str, using: str, count: int, begin: float, end: float) -> Seen:
    limiter = Throttled("key", using=using, quota=f"{LIMIT}/s burst {BURST}", store=RedisStore(url))
    seen: list[Seen] = []

    def work() -> None:
        admitted, first_end, last_start, last_end = 0, 0.0, 0.0, 0.0
        first_start = time.monotonic()
        while last_end < end:
            last_start = time.monotonic()
            admitted += bool(limiter.limit())
            last_end = time.monotonic()
            first_end = first_end or last_end
        seen.append((admitted, first_start, first_end, last_start, last_end))

    threads = [threading.Thread(target=work) for _ in range(count)]
    time.sleep(max(0.0, begin - time.monotonic()))
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert len(seen) == count
    return together(seen)


def by_tasks(url: str, using: str, count: int, begin: float, end: float) -> Seen:
    quota = f"{LIMIT}/s burst {BURST}"
    limiter = AsyncThrottled("key", using=using, quota=quota, store=RedisStore(url))

    async def work() -> Seen:
        admitted, first_end, last_start, last_end = 0, 0.0, 0.0, 0.0
        first_start = time.monotonic()
        while last_end < end:
            last_start = time.monotonic()
            admitted += bool(await limiter.limit())
            last_end = time.monotonic()
            first_end = first_end or last_end
        return admitted, first_start, first_end, last_start, last_end

    async def main() -> list[Seen]:
        await asyncio.sleep(max(0.0, begin - time.monotonic()))
        return await asyncio.gather(*(work() for _ in range(count)))

    return together(asyncio.run(main()))


def together(seen: list[Seen]) -> Seen:
    admitted, first_start, first_end, last_start, last_end = zip(*seen, strict=True)
    return sum(admitted), min(first_start), min(first_end), max(last_start), max(last_end)


@pytest.mark.slow
@pytest.mark.parametrize("using", [*BUCKETS, "fixed_window"])
def test_threads_processes_and_tasks_together_get_exactly_the_quota(
    using: str, server: RedisServer
) -> None:
    begin = time.monotonic() + 1.0
    end = begin + SECONDS
    here = __file__.rpartition("/")[0]
    words = [sys.executable, "-c", CHILD, here, server.url, using, str(begin), str(end)]
    children = [subprocess.Popen(words, stdout=subprocess.PIPE, text=True) for _ in range(4)]
    seen: list[Seen] = []
    helpers = [
        threading.Thread(target=lambda: seen.append(by_threads(server.url, using, 16, begin, end))),
        threading.Thread(target=lambda: seen.append(by_tasks(server.url, using, 200, begin, end))),
    ]
    for helper in helpers:
        helper.start()
    for process in children:
        said, _ = process.communicate(timeout=60)
        numbers = said.split()
        seen.append((int(numbers[0]), *(float(n) for n in numbers[1:])))  # type: ignore[arg-type]
    for helper in helpers:
        helper.join(60)
    assert len(seen) == 6
    admitted, first_start, first_end, last_start, last_end = together(seen)
    longest, shortest = last_end - first_start, last_start - first_end
    if using == "fixed_window":
        assert admitted <= LIMIT * (math.floor(longest) + 2)
        assert admitted >= LIMIT * math.ceil(shortest) - 1
    else:
        assert admitted <= BURST + longest * LIMIT
        assert admitted >= BURST + math.floor(shortest * LIMIT) - 1


def test_a_burst_is_shared_by_processes_to_the_last_token(server: RedisServer) -> None:
    program = (
        "import sys; from headway import Throttled; from headway.store import RedisStore\n"
        "t = Throttled('key', using='gcra', quota='1/h burst 100', store=RedisStore(sys.argv[1]))\n"
        "print(sum(bool(t.limit()) for _ in range(60)))"
    )
    words = [sys.executable, "-c", program, server.url]
    children = [subprocess.Popen(words, stdout=subprocess.PIPE, text=True) for _ in range(3)]
    assert sum(int(process.communicate(timeout=60)[0]) for process in children) == 100

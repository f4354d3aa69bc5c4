"""Never more than the quota and never less, whoever asks at once: threads, processes and tasks.

What is asserted holds however slow the machine is. A bucket that is emptied first, and is so large
that it cannot fill up again, loses no token: what it admitted and what it has left is what dripped
in. The interval is taken from outside: from before it was emptied until after it was looked at.
"""

from __future__ import annotations

import asyncio
import subprocess
import sys
import threading
import time

import pytest
from servers import RedisServer
from store_help import BUCKETS

from effort import rounds
from headway import Throttled
from headway.asyncio import Throttled as AsyncThrottled
from headway.store import RedisStore

CALLS = rounds(40, 400)
"""Of each thread and of each task."""
LIMIT, BURST = 300, 100_000
WINDOW = 1500

CHILD = """if True:
    import sys
    sys.path[:0] = sys.argv[1:3]
    from test_store_exactness import by_threads
    print(by_threads(sys.argv[3], sys.argv[4], sys.argv[5], 4))
"""


def by_threads(url: str, using: str, quota: str, count: int) -> int:
    """How many calls of so many threads were admitted."""
    limiter = Throttled("key", using=using, quota=quota, store=RedisStore(url))
    admitted: list[int] = []
    threads = [
        threading.Thread(
            target=lambda: admitted.append(sum(bool(limiter.limit()) for _ in range(CALLS)))
        )
        for _ in range(count)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert len(admitted) == count
    return sum(admitted)


def by_tasks(url: str, using: str, quota: str, count: int) -> int:
    """How many calls of so many tasks were admitted."""
    limiter = AsyncThrottled("key", using=using, quota=quota, store=RedisStore(url))

    async def work() -> int:
        return sum([bool(await limiter.limit()) for _ in range(CALLS // 4)])

    async def main() -> int:
        return sum(await asyncio.gather(*(work() for _ in range(count))))

    return asyncio.run(main())


def by_all(url: str, using: str, quota: str) -> int:
    """How many calls were admitted of threads and tasks here, and threads of four processes."""
    here, tests = __file__.rpartition("/")[0], __file__.rpartition("/redis/")[0]
    words = [sys.executable, "-c", CHILD, here, tests, url, using, quota]
    children = [subprocess.Popen(words, stdout=subprocess.PIPE, text=True) for _ in range(4)]
    admitted: list[int] = []
    helpers = [
        threading.Thread(target=lambda: admitted.append(by_threads(url, using, quota, 8))),
        threading.Thread(target=lambda: admitted.append(by_tasks(url, using, quota, 100))),
    ]
    for helper in helpers:
        helper.start()
    admitted += [int(process.communicate(timeout=90)[0]) for process in children]
    for helper in helpers:
        helper.join(90)
    assert len(admitted) == 6
    return sum(admitted)


@pytest.mark.rounds
@pytest.mark.parametrize("using", BUCKETS)
def test_threads_processes_and_tasks_together_get_exactly_what_drips_in(
    using: str, server: RedisServer
) -> None:
    quota = f"{LIMIT}/s burst {BURST}"
    bucket = Throttled("key", using=using, quota=quota, store=RedisStore(server.url))
    before_first = time.monotonic()
    assert bucket.limit(cost=BURST)
    after_first = time.monotonic()
    admitted = by_all(server.url, using, quota)
    before_last = time.monotonic()
    left = bucket.peek().remaining
    after_last = time.monotonic()
    assert (before_last - after_first) * LIMIT - 1 <= admitted + left
    assert admitted + left <= (after_last - before_first) * LIMIT + 1


@pytest.mark.rounds
@pytest.mark.parametrize("using", ["fixed_window", "sliding_window"])
def test_threads_processes_and_tasks_together_get_exactly_what_a_window_has(
    using: str, server: RedisServer
) -> None:
    quota = f"{WINDOW}/365d"
    assert by_all(server.url, using, quota) == WINDOW


def test_a_burst_is_shared_by_processes_to_the_last_token(server: RedisServer) -> None:
    program = (
        "import sys; from headway import Throttled; from headway.store import RedisStore\n"
        "t = Throttled('key', using='gcra', quota='1/h burst 100', store=RedisStore(sys.argv[1]))\n"
        "print(sum(bool(t.limit()) for _ in range(60)))"
    )
    words = [sys.executable, "-c", program, server.url]
    children = [subprocess.Popen(words, stdout=subprocess.PIPE, text=True) for _ in range(3)]
    assert sum(int(process.communicate(timeout=60)[0]) for process in children) == 100

"""Processes that share a file: never more than the quota, never less, whoever is killed or slow."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from headway import SQLiteStore, StoreUnavailableError, Throttled
from headway._core import now_ns
from headway.algorithms import expires_ns
from headway.asyncio import Throttled as AsyncThrottled
from reference.strategies import USINGS

DEADLINE_S = 120.0

# Asks until it is denied often, from threads or from tasks, and prints how much it was given.
_ASKS = """
import asyncio, sys, threading
from headway import Throttled
from headway.asyncio import Throttled as AsyncThrottled
url, using, quota, way = sys.argv[1:]
sys.stdin.readline()
admitted = []
def asks():
    limiter = Throttled("key", using=using, quota=quota, store=url)
    admitted.extend(bool(limiter.limit()) for _ in range(75))
async def main():
    limiter = AsyncThrottled("key", using=using, quota=quota, store=url)
    async def asks():
        for _ in range(75):
            admitted.append(bool(await limiter.limit()))
    await asyncio.gather(*(asks() for _ in range(4)))
if way == "tasks":
    asyncio.run(main())
else:
    threads = [threading.Thread(target=asks) for _ in range(4)]
    for thread in threads: thread.start()
    for thread in threads: thread.join()
print(sum(admitted))
"""


def start(program: str, *args: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", program, *args],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


@pytest.mark.slow
@pytest.mark.parametrize("way", ["threads", "tasks"])
@pytest.mark.parametrize("using", USINGS)
def test_four_processes_are_given_exactly_the_quota(using: str, way: str, tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/x.db"
    children = [start(_ASKS, url, using, "500/1000h; 600/2000h", way) for _ in range(4)]
    for child in children:
        assert child.stdin is not None
        child.stdin.write("go\n")
        child.stdin.flush()
    given = [int(child.communicate(timeout=DEADLINE_S)[0]) for child in children]
    assert sum(given) == 500


_WAITS = """
import sys
from headway import Throttled
limiter = Throttled("key", using=sys.argv[2], quota="100/s burst 1", timeout=60, store=sys.argv[1])
from headway._core import now_ns
for _ in range(15):
    limiter.limit()
    print(limiter.store._now(), flush=True)
"""


@pytest.mark.slow
def test_waiters_of_several_processes_share_the_rate(tmp_path: Path) -> None:
    since = SQLiteStore(tmp_path / "x.db")._now()
    children = [start(_WAITS, f"sqlite:///{tmp_path}/x.db", "gcra") for _ in range(3)]
    instants: list[int] = []
    for child in children:
        instants += map(int, child.communicate(timeout=DEADLINE_S)[0].split())
    assert len(instants) == 45
    # Each was allowed no earlier than 10 ms after another, and the first no earlier than it asked.
    for number, instant in enumerate(sorted(instants)):
        assert instant >= since + number * 10**7


_TAKES = """
import sys
from headway import Throttled
limiter = Throttled("key", quota="1000000/10000h", store=sys.argv[1])
while True:
    limiter.limit()
    print("one", flush=True)
"""


@pytest.mark.slow
def test_a_process_that_is_killed_loses_nothing_and_blocks_nobody(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/x.db"
    limiter = Throttled("key", quota="1000000/10000h", store=url)
    for _ in range(3):
        before = limiter.peek().remaining
        child = start(_TAKES, url)
        assert child.stdout is not None
        said = [child.stdout.readline() for _ in range(50)]
        os.kill(child.pid, signal.SIGKILL)
        said += child.stdout.readlines()
        child.communicate()
        since = time.monotonic()
        taken = before - limiter.peek().remaining
        assert time.monotonic() - since < 20
        whole = sum(line == "one\n" for line in said)
        assert whole <= taken <= whole + 1  # it may not have come to say so
        assert limiter.limit()


@contextlib.contextmanager
def locked(path: Path) -> Iterator[sqlite3.Connection]:
    """Another process' transaction, as far as the file can tell."""
    other = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
    other.execute("BEGIN IMMEDIATE")
    try:
        yield other
    finally:
        if other.in_transaction:
            other.execute("ROLLBACK")
        other.close()


def test_a_file_that_stays_locked_is_an_error_after_the_deadline(tmp_path: Path) -> None:
    limiter = Throttled("key", quota="1/h", store=SQLiteStore(tmp_path / "x.db", busy_timeout=0.2))
    with locked(tmp_path / "x.db"):
        since = time.monotonic()
        with pytest.raises(StoreUnavailableError, match="held it for too long") as caught:
            limiter.limit()
        assert 0.2 <= time.monotonic() - since < 9  # the default is ten
    assert caught.value.fault == "timeout"
    assert isinstance(caught.value.__cause__, sqlite3.OperationalError)
    assert limiter.limit()  # the denied decision took nothing
    assert not limiter.limit()


def test_a_locked_file_is_waited_for(tmp_path: Path) -> None:
    limiter = Throttled("key", quota="1/h", store=SQLiteStore(tmp_path / "x.db"))
    with locked(tmp_path / "x.db") as other:
        timer = threading.Timer(0.1, lambda: other.execute("ROLLBACK"))
        timer.start()
        assert limiter.limit()
        timer.join()


def test_a_locked_file_does_not_block_the_event_loop(tmp_path: Path) -> None:
    limiter = AsyncThrottled("key", quota="2/h", store=SQLiteStore(tmp_path / "x.db"))

    async def main() -> None:
        with locked(tmp_path / "x.db") as other:
            tasks = [asyncio.ensure_future(limiter.limit()) for _ in range(3)]
            longest, last = 0.0, time.monotonic()
            for _ in range(50):
                await asyncio.sleep(0.002)
                longest = max(longest, time.monotonic() - last)
                last = time.monotonic()
            assert not any(task.done() for task in tasks)
            assert longest < 9  # busy_timeout is ten
            other.execute("ROLLBACK")
            results = await asyncio.gather(*tasks)
        assert sorted(map(bool, results)) == [False, True, True]

    asyncio.run(main())


def test_a_file_that_stays_locked_is_an_error_for_a_task_too(tmp_path: Path) -> None:
    store = SQLiteStore(tmp_path / "x.db", busy_timeout=0.1)
    limiter = AsyncThrottled("key", quota="1/h", store=store)

    async def main() -> None:
        with locked(tmp_path / "x.db"):
            for call in (limiter.limit, limiter.peek, limiter.reset):
                with pytest.raises(StoreUnavailableError, match="held it for too long"):
                    await call()
        assert await limiter.limit()

    asyncio.run(main())


def test_who_is_cancelled_while_a_thread_decides_takes_nothing(
    tmp_path: Path, eventually: Callable[..., None]
) -> None:
    limiter = AsyncThrottled("key", quota="3/h", store=SQLiteStore(tmp_path / "x.db"))

    async def main() -> None:
        with locked(tmp_path / "x.db"):
            task = asyncio.ensure_future(limiter.limit(cost=2))
            await asyncio.sleep(0.02)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task

    asyncio.run(main())
    left = Throttled("key", quota="3/h", store=limiter.store)
    eventually(lambda: left.peek().remaining == 3, "the tokens are given back")


_AHEAD = """
import sys, time
from headway import SQLiteStore

def ahead(store):
    # Of the machine's clock, by the reading that took the least time.
    readings = []
    for _ in range(200):
        before = time.monotonic_ns()
        now = store._now()
        readings.append((time.monotonic_ns() - before, now - before))
    return min(readings)[1]
"""


@pytest.mark.skipif(not Path("/proc/sys/kernel/random/boot_id").exists(), reason="no boot id here")
def test_processes_agree_on_the_time_though_the_wall_clock_was_set(
    tmp_path: Path, run_python: Callable[..., str]
) -> None:
    path = str(tmp_path / "x.db")
    SQLiteStore(path).close()
    with sqlite3.connect(path) as file:  # as if the first had started before the clock was set
        file.execute("UPDATE headway_clock SET offset = offset + ?", (3600 * 10**9,))
    theirs = int(run_python(_AHEAD + "print(ahead(SQLiteStore(sys.argv[1])))", path))
    store = SQLiteStore(path)
    known: dict[str, Any] = {}
    exec(_AHEAD, known)
    assert abs(known["ahead"](store) - theirs) < 10**6
    assert store._now() > now_ns() + 3000 * 10**9
    limiter = Throttled("key", quota="1/h burst 1", using="gcra", store=store)
    limiter.limit()
    (key,) = store.keys()
    state = store.get(key)
    assert state is not None
    assert abs(expires_ns(state) - store._now() - 3600 * 10**9) < 60 * 10**9

"""Does a file store leave anything behind? Permits in it, stores that are opened and closed, and
files that cannot be one. Decisions in it are in leak_atomic.py.
"""

from __future__ import annotations

import asyncio
import atexit
import shutil
import tempfile
from pathlib import Path
from typing import Any

from looping import awaited, refusing
from measuring import Case, main, swallow

from headway import SQLiteStore, Throttled
from headway.asyncio import Throttled as AsyncThrottled
from headway.exceptions import SetUpError
from headway.limiters import AsyncSemaphore, MaxSleepExceededError, SyncSemaphore, SyncTokenBucket

folder = Path(tempfile.mkdtemp(prefix="headway-leak-"))
atexit.register(shutil.rmtree, folder, ignore_errors=True)
MANY = "1000000000000/s"
SHARE = 0.005
store = SQLiteStore(folder / "store.db")
plain = Throttled("key", quota=MANY, store=store)
task = AsyncThrottled("key", quota=MANY, store=store)
free = SyncSemaphore("free", 3, expiry=5, connection=store)
shut = SyncSemaphore("shut", 1, max_sleep=0.001, expiry=600, connection=store)
taken = AsyncSemaphore("taken", 1, max_sleep=60, expiry=5, connection=store)
shut_async = AsyncSemaphore("shut", 1, max_sleep=0.001, expiry=600, connection=store)
bucket = SyncTokenBucket("bucket", 10**12, 1, 10**12, connection=store)
other = folder / "other.db"
other.write_text("this is no database, and is longer than its header would be " * 20)
shut.__enter__()


def enter(limiter: Any) -> None:
    with limiter:
        pass


async def enter_async(limiter: Any) -> None:
    async with limiter:
        await asyncio.sleep(0)


async def in_line() -> None:
    await asyncio.gather(*(enter_async(taken) for _ in range(3)))


def opened() -> None:
    made = SQLiteStore(folder / "opened.db")
    Throttled("key", quota=MANY, store=made).limit()
    made.close()


CASES = [
    Case("in_a_file", plain.limit, SHARE),
    awaited("task_in_a_file", lambda: task.limit(), SHARE),
    Case("semaphore", lambda: enter(free), SHARE),
    Case("semaphore_refuses", swallow(MaxSleepExceededError, lambda: enter(shut)), SHARE / 5),
    awaited("async_semaphore_waits", in_line, SHARE / 10, awaits=20),
    awaited(
        "async_semaphore_refuses",
        refusing(MaxSleepExceededError, lambda: enter_async(shut_async)),
        SHARE / 5,
        awaits=20,
    ),
    Case("bucket", lambda: enter(bucket), SHARE),
    Case("opened", opened, SHARE / 10),
    Case("no_database", swallow(SetUpError, lambda: SQLiteStore(other).open()), SHARE / 10),
]

if __name__ == "__main__":
    main(CASES)

"""Does a decision in shared memory leave anything behind? Admitted, denied, waiting, cancelled and
refused; and stores that are made, fail to be made, and are given up.
"""

from __future__ import annotations

import asyncio
import atexit
import os

from looping import awaited, loop
from measuring import Case, main, swallow

from headway import SharedMemoryStore, StoreUnavailableError, Throttled
from headway.asyncio import Throttled as AsyncThrottled
from headway.exceptions import SetUpError

MANY = "1000000000000/s"
NAME = f"leak-{os.getpid()}"

store = SharedMemoryStore(NAME, size="256K")
full = SharedMemoryStore(f"{NAME}-full", size="128K", on_full="raise")
atexit.register(store.remove)
atexit.register(full.remove)
argument = b"a key that is no constant".decode()
plain = Throttled("key", quota=MANY, store=store)
several = Throttled("key", quota=f"{MANY}; 1000000000000/m", store=store)
never = Throttled("never", quota="1/1000h", store=store)
quick = Throttled("quick", quota="20000/s burst 1", timeout=5, store=store)
task = AsyncThrottled("key", quota=MANY, store=store)
never_task = AsyncThrottled("never", quota="1/1000h", store=store)
slow_task = AsyncThrottled("slow", quota="1/h burst 1", timeout=1e9, store=store)
flood = Throttled(quota="9/h", store=full)
refused = ""
for number in range(5000):
    try:
        flood.limit(f"k{number}")
    except StoreUnavailableError:
        refused = f"k{number}"


async def cancelled() -> None:
    waiting = asyncio.ensure_future(slow_task.limit())
    await asyncio.sleep(0)
    waiting.cancel()
    await asyncio.gather(waiting, return_exceptions=True)


async def entered() -> None:
    async with task:
        pass


CASES = [
    Case("admitted", lambda: plain.limit(argument), 0.05, watched=(argument,)),
    Case("several_rules", several.limit, 0.05),
    Case("denied", never.limit, 0.05),
    Case("peek", lambda: plain.peek(argument), 0.05, watched=(argument,)),
    Case("reset", lambda: plain.reset("other"), 0.05),
    Case("settled", lambda: plain._settle("key", 0, 1), 0.05),
    Case("waiting", quick.limit, 0.01),
    Case("refused", swallow(StoreUnavailableError, lambda: flood.limit(refused)), 0.05),
    Case("making", lambda: Throttled("key", quota="5/s; 9/m", store=store), 0.05),
    Case("opening", lambda: SharedMemoryStore(NAME), 0.01),
    Case("a_bad_name", swallow(SetUpError, lambda: SharedMemoryStore("a/b")), 0.01),
    Case("entries", store.entries, 0.002),
    awaited("task_admitted", lambda: task.limit(), 0.05),
    awaited("task_entered", entered, 0.05),
    awaited("task_denied", lambda: never_task.limit(), 0.05),
    awaited("task_peek", lambda: task.peek(), 0.05),
    Case("task_cancelled", lambda: loop.run_until_complete(cancelled()), 0.002),
]

if __name__ == "__main__":
    main(CASES)

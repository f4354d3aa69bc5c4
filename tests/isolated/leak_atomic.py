"""Does a decision in a store of Python's leave anything behind? In a file, and in a store of one's
own; admitted, denied, waiting, cancelled and refused, by threads and by tasks.
"""

from __future__ import annotations

import asyncio
from typing import Any

from looping import awaited, loop
from measuring import Case, main, swallow

from headway import AtomicStore, SQLiteStore, StoreUnavailableError, Throttled
from headway.asyncio import Throttled as AsyncThrottled

MANY = "1000000000000/s"


class Own(AtomicStore):
    def __init__(self, old: bytes | None = None) -> None:
        self.old = old

    def update(self, key: bytes, step: Any) -> Any:
        return step(self.old)[1]


file = SQLiteStore(":memory:")
argument = b"a key that is no constant".decode()
plain = Throttled("key", quota=MANY, store=file)
several = Throttled("key", quota=f"{MANY}; 1000000000000/m", store=file)
never = Throttled("never", quota="1/1000h", store=file)
quick = Throttled("quick", quota="20000/s burst 1", timeout=5, store=file)
by_key = Throttled(quota=lambda key: "5/s; 9/m", store=Own())
broken = Throttled("key", store=Own(b"nonsense"))
task = AsyncThrottled("key", quota=MANY, store=file)
never_task = AsyncThrottled("never", quota="1/1000h", store=file)
slow_task = AsyncThrottled("slow", quota="1/h burst 1", timeout=1e9, store=file)
apart = AsyncThrottled("key", quota="5/s; 9/m", store=Own())


async def cancelled() -> None:
    waiting = asyncio.ensure_future(slow_task.limit())
    await asyncio.sleep(0)
    waiting.cancel()
    await asyncio.gather(waiting, return_exceptions=True)


async def in_a_thread() -> None:
    await apart.limit()


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
    Case("a_quota_by_key", lambda: by_key.limit("key"), 0.05),
    Case("refused", swallow(StoreUnavailableError, broken.limit), 0.05),
    Case("making", lambda: Throttled("key", quota="5/s; 9/m", store=file), 0.05),
    awaited("task_admitted", lambda: task.limit(), 0.05),
    awaited("task_entered", entered, 0.05),
    awaited("task_denied", lambda: never_task.limit(), 0.05),
    awaited("task_peek", lambda: task.peek(), 0.05),
    Case("task_cancelled", lambda: loop.run_until_complete(cancelled()), 0.002),
    Case("in_a_thread", lambda: loop.run_until_complete(in_a_thread()), 0.002),
]

if __name__ == "__main__":
    main(CASES)

"""Event loops in several threads, each closed while tasks of all wait in one line.

    python closing.py SECONDS THREADS cancel|drop

With `cancel` asyncio.run cancels the tasks; with `drop` the loop is closed and dropped
with its tasks in line. Prints 'served' when a call after all that is served: the line is whole.
"""

import asyncio
import faulthandler
import os
import random
import sys
import threading
import time

from headway import MemoryStore
from headway.asyncio import Throttled

seconds, threads, end = float(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
limiter = Throttled(quota="20000/s burst 1", timeout=5, store=MemoryStore())
until = time.monotonic() + seconds


async def ask() -> None:
    for _ in range(20):
        await limiter.limit("k")


async def leave_early(pause: float) -> None:
    tasks = [asyncio.ensure_future(ask()) for _ in range(6)]
    await asyncio.sleep(pause)
    if end == "drop":
        for task in tasks:
            task._log_destroy_pending = False  # type: ignore[attr-defined]


def work(number: int) -> None:
    chance = random.Random(number)
    while time.monotonic() < until:
        pause = chance.random() * 0.002
        if end == "cancel":
            asyncio.run(leave_early(pause))
        else:
            loop = asyncio.new_event_loop()
            loop.run_until_complete(leave_early(pause))
            loop.close()
            del loop


def main() -> None:
    faulthandler.enable()
    crowd = [threading.Thread(target=work, args=(n,), daemon=True) for n in range(threads)]
    for thread in crowd:
        thread.start()
    for thread in crowd:
        thread.join(seconds + 60)
        if thread.is_alive():
            print("a thread was still busy")
            faulthandler.dump_traceback()
            os._exit(9)
    print("served" if asyncio.run(limiter.limit("k", timeout=5)) else "denied")


main()

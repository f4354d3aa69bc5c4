"""A program: two children, made in the way that is asked for, share a quota with their parent.

    python deploy_processes.py METHOD URL

prints how much each was given of the key `before`, whose limiter was made and used before the
children were, by a thread and in an event loop; and of `after`, whose limiter each child makes.
The way `fork` of os is "os.fork"; "pool" is a ProcessPoolExecutor of the default kind; the others
are start methods of multiprocessing.
"""

from __future__ import annotations

import asyncio
import json
import multiprocessing
import os
import signal
import sys
from concurrent.futures import ProcessPoolExecutor
from typing import Any

from headway import Throttled
from headway.asyncio import Throttled as AsyncThrottled

QUOTA = "60/1000h"
FIRST = 10
"""What the parent takes of `before` before anybody else is there."""
ASKS = 80

limiters: dict[str, Any] = {}
"""Made in the parent. A child that is forked has them; one that is spawned has not."""


def make(url: str) -> None:
    limiters["maker"] = os.getpid()
    limiters["thread"] = Throttled("before", quota=QUOTA, store=url)
    limiters["task"] = AsyncThrottled("before", quota=QUOTA, store=url)


async def ask_as_tasks(limiter: Any, times: int) -> int:
    return sum(map(bool, await asyncio.gather(*(limiter.limit() for _ in range(times)))))


def ask(url: str) -> dict[str, int]:
    """What a process is given of both keys, half of it asked for by tasks of a new event loop."""
    signal.alarm(30)
    if not limiters:
        make(url)
    inherited = limiters["maker"] != os.getpid()
    given = {"pid": os.getpid(), "inherited": int(inherited), "before": 0, "after": 0}
    after = Throttled("after", quota=QUOTA, store=url)
    for _ in range(4):
        given["before"] += sum(bool(limiters["thread"].limit()) for _ in range(ASKS // 8))
        given["before"] += asyncio.run(ask_as_tasks(limiters["task"], ASKS // 8))
        given["after"] += sum(bool(after.limit()) for _ in range(ASKS // 4))
    return given


def forked(url: str) -> dict[str, int]:
    """The same, told through a pipe."""
    read, write = os.pipe()
    if os.fork() == 0:
        code = 1
        try:
            os.write(write, json.dumps(ask(url)).encode())
            code = 0
        finally:
            os._exit(code)
    os.close(write)
    with os.fdopen(read) as told:
        found: dict[str, int] = json.loads(told.read())
    os.wait()
    return found


def main(method: str, url: str) -> None:
    signal.alarm(35)
    make(url)
    taken = sum(bool(limiters["thread"].limit()) for _ in range(FIRST // 2))
    taken += asyncio.run(ask_as_tasks(limiters["task"], FIRST - FIRST // 2))
    assert taken == FIRST
    if method == "os.fork":
        children = [forked(url), forked(url)]
    elif method == "pool":
        with ProcessPoolExecutor(2) as pool:
            children = list(pool.map(ask, [url] * 2))
    else:
        with multiprocessing.get_context(method).Pool(2, maxtasksperchild=1) as workers:
            children = workers.map(ask, [url] * 2, chunksize=1)
    print(json.dumps({"first": taken, "children": children, "parent": ask(url)}))


if __name__ == "__main__":
    main(*sys.argv[1:])

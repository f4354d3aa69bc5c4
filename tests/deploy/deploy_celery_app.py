"""A Celery application whose limiters are made when it is imported: in the parent of its workers.

BROKER=redis://… PLACES={"redis": "redis://…"} celery -A deploy_celery_app worker -c 2
"""

from __future__ import annotations

import asyncio
import json
import os
import time
from typing import Any

from celery import Celery

from headway import Throttled
from headway.asyncio import Throttled as AsyncThrottled
from headway.limiters import SyncSemaphore

QUOTA, CAPACITY = "30/1000h", 1
PLACES: dict[str, str] = json.loads(os.environ["PLACES"])

app = Celery("deploy", broker=os.environ["BROKER"], backend=os.environ["BROKER"])
app.conf.update(worker_prefetch_multiplier=1, broker_connection_retry_on_startup=True)

BEFORE = {kind: Throttled("before", quota=QUOTA, store=url) for kind, url in PLACES.items()}
BEFORE_TASKS = {
    kind: AsyncThrottled("before", quota=QUOTA, store=url) for kind, url in PLACES.items()
}
PERMITS = {
    kind: SyncSemaphore("permit", CAPACITY, connection=url)
    for kind, url in PLACES.items()
    if kind != "memory"
}
for limiter in BEFORE.values():
    limiter.peek()  # the parent has used it: its connections are open when it forks


async def _ask(kind: str) -> bool:
    return bool(await BEFORE_TASKS[kind].limit())


@app.task  # type: ignore[untyped-decorator]
def ask(kind: str) -> dict[str, Any]:
    """Three times: as a thread and as a task by what the parent made, and by what is made here."""
    time.sleep(0.005)  # so that no worker can take all of them
    after = Throttled("after", quota=QUOTA, store=PLACES[kind])
    before = bool(BEFORE[kind].limit()) + asyncio.run(_ask(kind))
    return {"pid": os.getpid(), "before": before, "after": int(bool(after.limit()))}


@app.task  # type: ignore[untyped-decorator]
def hold(kind: str) -> dict[str, Any]:
    with PERMITS[kind]:
        since = time.monotonic()
        time.sleep(0.01)
        return {"pid": os.getpid(), "since": since, "to": time.monotonic()}

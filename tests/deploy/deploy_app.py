"""The application that every server of the tests runs: as WSGI, and as ASGI.

PLACES (JSON) names the stores by kind. `/KIND/before` asks a limiter that was made when this module
was imported, which a server that preloads does before it forks; `/KIND/after` one that the worker
makes when it is first asked. Both answer with the process' id and whether it was admitted.
`/KIND/permit` holds a permit for a moment and says from when until when. `/KIND/wait` waits for its
slot, and says when that was.
"""

from __future__ import annotations

import asyncio
import functools
import json
import os
import threading
import time
from collections.abc import Awaitable, Callable, Iterable
from typing import Any

from headway import Throttled
from headway.asyncio import Throttled as AsyncThrottled
from headway.limiters import AsyncSemaphore, SyncSemaphore

QUOTA = "30/1000h"
CAPACITY = 2
WAITED_FOR = "50/s burst 1"
HOLD_S = 0.01

PLACES: dict[str, str] = json.loads(os.environ["PLACES"])


class Limiters:
    """Those of one place: for threads and for tasks, under keys that begin with `name`."""

    def __init__(self, name: str, url: str, permits: bool) -> None:
        self.count = Throttled(name, quota=QUOTA, store=url)
        self.count_tasks = AsyncThrottled(name, quota=QUOTA, store=url)
        self.wait = Throttled(f"{name} wait", quota=WAITED_FOR, timeout=20, store=url)
        self.wait_tasks = AsyncThrottled(f"{name} wait", quota=WAITED_FOR, timeout=20, store=url)
        self.permit: Any = None
        self.permit_tasks: Any = None
        if permits:
            self.permit = SyncSemaphore(name, CAPACITY, connection=url)
            self.permit_tasks = AsyncSemaphore(name, CAPACITY, connection=url)


def of_place(name: str, kind: str) -> Limiters:
    return Limiters(name, PLACES[kind], permits=kind != "memory")


BEFORE = {kind: of_place("before", kind) for kind in PLACES}
AFTER = functools.cache(functools.partial(of_place, "after"))


if os.environ.get("BUSY"):  # a thread is in the middle of something whenever the server forks

    def _ask() -> None:
        while True:
            for limiters in BEFORE.values():
                limiters.wait.limit("asked for by the parent's thread")

    threading.Thread(target=_ask, daemon=True).start()


def answer(path: str) -> dict[str, Any]:
    kind, _, what = path.strip("/").partition("/")
    if what == "permit":
        with BEFORE[kind].permit:
            since = time.monotonic()
            time.sleep(HOLD_S)
            return {"pid": os.getpid(), "since": since, "to": time.monotonic()}
    if what == "wait":
        admitted = bool(BEFORE[kind].wait.limit())
        return {"pid": os.getpid(), "admitted": admitted, "at": time.monotonic()}
    limiters = BEFORE[kind] if what == "before" else AFTER(kind)
    time.sleep(0.001)  # so that no worker can take all requests
    return {"pid": os.getpid(), "admitted": bool(limiters.count.limit())}


async def answer_as_task(path: str) -> dict[str, Any]:
    kind, _, what = path.strip("/").partition("/")
    if what == "permit":
        async with BEFORE[kind].permit_tasks:
            since = time.monotonic()
            await asyncio.sleep(HOLD_S)
            return {"pid": os.getpid(), "since": since, "to": time.monotonic()}
    if what == "wait":
        admitted = bool(await BEFORE[kind].wait_tasks.limit())
        return {"pid": os.getpid(), "admitted": admitted, "at": time.monotonic()}
    limiters = BEFORE[kind] if what == "before" else AFTER(kind)
    await asyncio.sleep(0.001)
    return {"pid": os.getpid(), "admitted": bool(await limiters.count_tasks.limit())}


def wsgi(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
    path = environ["PATH_INFO"]
    body = b"{}" if path == "/" else json.dumps(answer(path)).encode()
    start_response("200 OK", [("Content-Length", str(len(body)))])
    return [body]


async def asgi(
    scope: dict[str, Any],
    receive: Callable[[], Awaitable[dict[str, Any]]],
    send: Callable[[dict[str, Any]], Awaitable[None]],
) -> None:
    if scope["type"] == "lifespan":
        while True:
            said = (await receive())["type"]
            await send({"type": f"{said}.complete"})
            if said == "lifespan.shutdown":
                return
    path = scope["path"]
    body = b"{}" if path == "/" else json.dumps(await answer_as_task(path)).encode()
    headers = [(b"content-length", str(len(body)).encode()), (b"connection", b"close")]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": body})

"""An HTTP API that enforces limits and tells of them in one of the dialects that APIs speak.

It is an ASGI application, so that a server of somebody else's serves it. What it enforces is said
by the environment variable ENFORCE, as JSON:

    {"dialect": "github", "limit": 50, "window": 2.0, "kind": "fixed", "skew": 0, "delay": 0.01}

kind: "fixed" (windows aligned to the epoch), "sliding" (exact: the last `window` seconds) or
"bucket" (a leaky bucket of `limit`, filling in `window`). skew: how far the server's clock is
ahead. tokens: a second limit, spent by the header `X-Cost`. `GET /stats` counts what was answered;
it is free.
"""

from __future__ import annotations

import asyncio
import json
import os
import time
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Any

from dialects import DIALECTS, Standing

CONFIG: dict[str, Any] = json.loads(os.environ.get("ENFORCE", "{}"))


class Limit:
    """One limit; `take` decides, `standing` tells."""

    def __init__(self, kind: str, limit: int, window: float) -> None:
        self.kind, self.limit, self.window = kind, limit, window
        self.used = 0.0
        self.since = 0.0
        self.log: deque[tuple[float, float]] = deque()

    def _advance(self, now: float) -> None:
        if self.kind == "fixed":
            start = now // self.window * self.window
            if start > self.since:
                self.since, self.used = start, 0.0
        elif self.kind == "sliding":
            while self.log and self.log[0][0] <= now - self.window:
                self.used -= self.log.popleft()[1]
        else:
            drained = (now - self.since) * self.limit / self.window
            self.used = max(0.0, self.used - drained)
            self.since = now

    def fits(self, cost: float, now: float) -> bool:
        self._advance(now)
        return self.used + cost <= self.limit

    def take(self, cost: float, now: float) -> None:
        self.used += cost
        if self.kind == "sliding":
            self.log.append((now, cost))

    def standing(self, now: float) -> Standing:
        self._advance(now)
        if self.kind == "fixed":
            reset = self.since + self.window
        elif self.kind == "sliding":
            reset = self.log[0][0] + self.window if self.log else now
        else:
            reset = now + self.used * self.window / self.limit
        remaining = max(0, int(self.limit - self.used))
        if self.kind == "bucket" and not remaining:
            wait = (self.used - self.limit + 1) * self.window / self.limit
        else:
            wait = reset - now
        return Standing(self.limit, remaining, reset, self.window, now, max(0.0, wait))


class Api:
    """Decides, counts and answers."""

    def __init__(self, config: dict[str, Any]) -> None:
        kind, limit = config.get("kind", "fixed"), int(config.get("limit", 100))
        window = float(config.get("window", 1.0))
        self.dialect = DIALECTS[config.get("dialect", "x_ratelimit")]
        self.skew, self.delay = float(config.get("skew", 0)), float(config.get("delay", 0))
        self.requests = Limit(kind, limit, window)
        self.tokens = Limit(kind, int(config["tokens"]), window) if "tokens" in config else None
        self.stats = {"200": 0, "429": 0, "first": 0.0, "last": 0.0, "paths": {}}

    def answer(self, path: str, cost: float) -> tuple[int, list[tuple[str, str]]]:
        now = time.time() + self.skew
        spends = [(self.requests, 1.0)] + ([(self.tokens, cost)] if self.tokens else [])
        admitted = all(limit.fits(spent, now) for limit, spent in spends)
        if admitted:
            for limit, spent in spends:
                limit.take(spent, now)
        status = 200 if admitted else 429
        self._count(status, path, now)
        standings = [limit.standing(now) for limit, _ in spends]
        refused = [
            s for (one, spent), s in zip(spends, standings, strict=True) if not one.fits(spent, now)
        ]
        retry = max((standing.wait for standing in refused), default=0.0) if not admitted else None
        return status, self.dialect(standings, retry)

    def _count(self, status: int, path: str, now: float) -> None:
        stats: dict[str, Any] = self.stats
        stats[str(status)] += 1
        stats["first"] = stats["first"] or now
        stats["last"] = now
        stats["paths"][path] = stats["paths"].get(path, 0) + 1


API = Api(CONFIG)
Send = Callable[[dict[str, Any]], Awaitable[None]]


async def app(scope: dict[str, Any], receive: Any, send: Send) -> None:
    if scope["type"] == "lifespan":
        while True:
            message = await receive()
            await send({"type": f"{message['type']}.complete"})
            if message["type"] == "lifespan.shutdown":
                return
    path: str = scope["path"]
    if path == "/stats":
        await _reply(send, 200, [], json.dumps(API.stats).encode())
        return
    if path.startswith("/redirect/"):
        await _reply(send, 302, [("location", "/" + path.removeprefix("/redirect/"))], b"")
        return
    headers = {name.decode(): value.decode() for name, value in scope["headers"]}
    status, told = API.answer(path, float(headers.get("x-cost", 1)))
    if API.delay:
        await asyncio.sleep(API.delay)
    echoed = json.dumps({"path": path, "method": scope["method"], "headers": headers}).encode()
    await _reply(send, status, told, echoed)


async def _reply(send: Send, status: int, headers: list[tuple[str, str]], body: bytes) -> None:
    date = time.strftime("%a, %d %b %Y %H:%M:%S GMT", time.gmtime(time.time() + API.skew))
    named = [("content-type", "application/json"), ("date", date), *headers]
    raw = [(name.lower().encode(), value.encode()) for name, value in named]
    raw.append((b"content-length", str(len(body)).encode()))
    await send({"type": "http.response.start", "status": status, "headers": raw})
    await send({"type": "http.response.body", "body": body})

"""The server of the tests: it says when a request came, and ends its answer when it is told to.

/                     the instant of the request, by the machine's monotonic clock
/stream               one line at once, another after a while
/redirect             to /
/busy                 a moment of work, with how many were being worked on at most so far
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Awaitable, Callable
from typing import Any

busy = most = 0


async def app(
    scope: dict[str, Any],
    receive: Callable[[], Awaitable[dict[str, Any]]],
    send: Callable[[dict[str, Any]], Awaitable[None]],
) -> None:
    global busy, most
    assert scope["type"] == "http"
    at = time.monotonic()
    busy += 1
    most = max(most, busy)
    try:
        path, headers = scope["path"], []
        status = 200
        if path == "/redirect":
            status, headers = 302, [(b"location", b"/")]
        await send({"type": "http.response.start", "status": status, "headers": headers})
        if path == "/stream":
            line = b"a line\n"
            await send({"type": "http.response.body", "body": line, "more_body": True})
            await asyncio.sleep(0.05)
        if path == "/busy":
            await asyncio.sleep(0.02)
        body = json.dumps({"at": at, "most": most}).encode()
        await send({"type": "http.response.body", "body": body})
    finally:
        busy -= 1

"""Runs one block of smartratelimit.md, with the drop-in and without the internet.

argv: the block, port of the HTTP server that plays all hosts, code that comes before the block, and
code that comes after it. The HTTP libraries are the real ones; what they would send to a host goes
to the local server, below the limiter. A block may await at its top level, as in a notebook.
"""

from __future__ import annotations

import ast
import asyncio
import inspect
import sys
from pathlib import Path
from typing import Any

import aiohttp
import httpx
import requests

from headway import dropin

HOME = "127.0.0.1"


def play_all_hosts(port: int) -> None:
    """Redirect the three libraries where they hand a request to the network."""
    adapter, transport, session = (
        requests.adapters.HTTPAdapter,
        httpx.AsyncHTTPTransport,
        aiohttp.ClientSession,
    )
    send, handle, call = adapter.send, transport.handle_async_request, session._request

    def local_send(self: Any, request: Any, *args: Any, **kwargs: Any) -> Any:
        asked = request.url
        request.url = f"http://{HOME}:{port}{request.path_url}"
        try:
            return send(self, request, *args, **kwargs)
        finally:
            request.url = asked

    async def local_handle(self: Any, request: Any) -> Any:
        request.url = request.url.copy_with(scheme="http", host=HOME, port=port)
        return await handle(self, request)

    async def local_call(self: Any, method: str, url: str, **kwargs: Any) -> Any:
        path = httpx.URL(str(url)).raw_path.decode()
        return await call(self, method, f"http://{HOME}:{port}{path}", **kwargs)

    adapter.send = local_send  # type: ignore[method-assign]
    transport.handle_async_request = local_handle  # type: ignore[method-assign]
    session._request = local_call  # type: ignore[method-assign]


def main(block: str, port: str, before: str, after: str) -> None:
    sys.path.insert(0, str(Path(__file__).with_name("smartratelimit_stand_ins")))
    dropin.install("smartratelimit")
    play_all_hosts(int(port))
    names: dict[str, Any] = {"__name__": "__main__"}
    for code in (before, Path(block).read_text(encoding="utf-8"), after):
        compiled = compile(code, block, "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
        done = eval(compiled, names)
        if inspect.iscoroutine(done):
            asyncio.run(done)


if __name__ == "__main__":
    main(*sys.argv[1:])

"""What the tests of web integrations stand on: apps called as a server calls them, and a server.

`ask` and `Socket` call an ASGI app directly, with what a server would give it. `Served` runs it in
uvicorn, in a thread and on a free port. `Plain` is a request for the core, which knows no
framework.
"""

from __future__ import annotations

import asyncio
import json
import socket
import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any

import uvicorn

from headway import _core

DEADLINE_S = 30.0
CLIENT = ("192.0.2.1", 4711)


@dataclass
class Answer:
    """What an app sent, as a client would see it."""

    messages: list[Any] = field(default_factory=list)

    @property
    def start(self) -> Any:
        wanted = ("http.response.start", "websocket.http.response.start", "websocket.accept")
        found = [message for message in self.messages if message["type"] in wanted]
        assert len(found) == 1, self.messages
        return found[0]

    @property
    def status(self) -> int:
        return int(self.start["status"])

    @property
    def raw(self) -> list[tuple[str, str]]:
        return [(name.decode(), value.decode()) for name, value in self.start.get("headers", ())]

    @property
    def headers(self) -> dict[str, str]:
        """By name; fails where one stands there twice."""
        names = [name for name, _ in self.raw]
        assert len(set(names)) == len(names), self.raw
        return dict(self.raw)

    @property
    def body(self) -> bytes:
        ends = ("http.response.body", "websocket.http.response.body")
        return b"".join(m.get("body", b"") for m in self.messages if m["type"] in ends)

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def limits(self) -> dict[str, str]:
        """The fields that tell limits."""
        return {name: value for name, value in self.raw if "ratelimit" in name}

    def observed(self) -> dict[str, tuple[int | None, int | None]]:
        """Limit and remaining by policy, as headway's own reader of responses sees them."""
        seen = _core.parse_headers(self.raw, self.status)
        assert seen.ignored == 0, self.raw
        return {one.name: (one.limit, one.remaining) for one in seen.dimensions}


def scope_of(path: str = "/", method: str = "GET", **more: Any) -> dict[str, Any]:
    headers = more.pop("headers", {})
    scope = {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.4"},
        "http_version": "1.1",
        "method": method,
        "scheme": "http",
        "path": path,
        "raw_path": path.encode(),
        "query_string": b"",
        "root_path": "",
        "headers": [(name.lower().encode(), value.encode()) for name, value in headers.items()],
        "client": CLIENT,
        "server": ("testserver", 80),
    }
    scope.update(more)
    return scope


async def call(app: Any, path: str = "/", method: str = "GET", **more: Any) -> Answer:
    """One HTTP request. `more`: headers, client, query_string, … of the scope."""
    answer = Answer()
    waiting = asyncio.Event()

    async def receive() -> Any:
        if waiting.is_set():
            await asyncio.Event().wait()
        waiting.set()
        return {"type": "http.request", "body": more.get("body", b""), "more_body": False}

    async def send(message: Any) -> None:
        answer.messages.append(message)

    body = more.pop("body", b"")
    scope = scope_of(path, method, **more)
    more["body"] = body
    await app(scope, receive, send)
    return answer


def ask(app: Any, path: str = "/", method: str = "GET", **more: Any) -> Answer:
    return asyncio.run(call(app, path, method, **more))


def statuses(app: Any, count: int, path: str = "/", **more: Any) -> list[int]:
    return [ask(app, path, **more).status for _ in range(count)]


class Socket:
    """A WebSocket of an app, as a task: `async with Socket(app, "/ws") as ws`."""

    def __init__(self, app: Any, path: str = "/", denial: bool = False, **more: Any) -> None:
        self.app = app
        self.answer = Answer()
        self.scope = scope_of(path, **more)
        self.scope.update(type="websocket", scheme="ws", subprotocols=[])
        del self.scope["method"]
        if denial:
            self.scope["extensions"] = {"websocket.http.response": {}}
        self._incoming: asyncio.Queue[Any] = asyncio.Queue()
        self._sent = asyncio.Event()

    async def __aenter__(self) -> Socket:
        self._incoming.put_nowait({"type": "websocket.connect"})
        self._task = asyncio.ensure_future(self.app(self.scope, self._incoming.get, self._send))
        await asyncio.wait_for(self._sent.wait(), DEADLINE_S)
        return self

    async def _send(self, message: Any) -> None:
        self.answer.messages.append(message)
        self._sent.set()

    @property
    def accepted(self) -> bool:
        return self.answer.messages[0]["type"] == "websocket.accept"

    async def __aexit__(self, *_: object) -> None:
        self._incoming.put_nowait({"type": "websocket.disconnect", "code": 1000})
        await asyncio.wait_for(self._task, DEADLINE_S)


async def hello(scope: Any, receive: Any, send: Any) -> None:
    """The smallest app."""
    if scope["type"] == "lifespan":
        return
    if scope["type"] == "websocket":
        await echo(scope, receive, send)
        return
    start = {"type": "http.response.start", "status": 200}
    await send({**start, "headers": [(b"content-type", b"text/plain")]})
    await send({"type": "http.response.body", "body": b"hello"})


async def echo(scope: Any, receive: Any, send: Any) -> None:
    """Accepts a WebSocket and stays until it is closed."""
    await receive()
    await send({"type": "websocket.accept"})
    while (await receive())["type"] != "websocket.disconnect":
        pass


@dataclass
class Plain:
    """A request of no framework."""

    method: str = "GET"
    path: str = "/"
    ip: str | None = "192.0.2.1"
    headers: dict[str, str] = field(default_factory=dict)
    parameters: dict[str, str] = field(default_factory=dict)
    name: str | None = None

    @property
    def request(self) -> Any:
        return self

    def address(self) -> str | None:
        return self.ip

    def header(self, name: str) -> str | None:
        return self.headers.get(name)

    def query(self, name: str) -> str | None:
        return self.parameters.get(name)

    def route(self) -> str:
        return self.path

    def user(self) -> str | None:
        return self.name


class Served:
    """An app in uvicorn: `with Served(app) as server: httpx.get(server.url)`."""

    def __init__(self, app: Any, **options: Any) -> None:
        config = uvicorn.Config(app, log_level="warning", **{"proxy_headers": False, **options})
        self.server = uvicorn.Server(config)
        self._listening = socket.socket()
        self._listening.bind(("127.0.0.1", 0))
        self.port = self._listening.getsockname()[1]
        self._thread = threading.Thread(
            target=self.server.run, kwargs={"sockets": [self._listening]}, daemon=True
        )

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def __enter__(self) -> Served:
        self._thread.start()
        _until(lambda: self.server.started, "uvicorn listens")
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.server.should_exit = True
        self._thread.join(DEADLINE_S)
        self._listening.close()
        assert not self._thread.is_alive(), "uvicorn did not stop"


def _until(condition: Callable[[], object], what: str) -> None:
    end = time.monotonic() + DEADLINE_S
    while not condition():
        assert time.monotonic() < end, f"not seen within {DEADLINE_S} s: {what}"
        time.sleep(0.005)


def decisions(policy: Any, facts: Iterable[Any]) -> list[int]:
    """The status of each request, its permits given back at once."""
    found = []
    for one in facts:
        verdict = policy.decide(one)
        verdict.release()
        found.append(verdict.status)
    return found


def closed_port() -> int:
    """A port on which nobody listens."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])

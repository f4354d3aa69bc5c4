"""The demo's server: four limited handlers, as a user would write them, and the server's thread.

Two handlers are plain functions, which Starlette runs in its thread pool, and two are coroutine
functions on the event loop: the same decorator serves both.
"""

from __future__ import annotations

import errno
import math
import socket
import threading
from collections.abc import Callable
from types import TracebackType
from typing import TYPE_CHECKING

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

from headway import Throttled
from headway.demo import scenario
from headway.demo.access_log import AccessLog, LoggedApp
from headway.demo.recorder import Recorder
from headway.exceptions import LimitedError

if TYPE_CHECKING:
    from typing_extensions import Self

HOST = "127.0.0.1"
START_DEADLINE = 10.0  # seconds; it takes a tenth of one
STOP_DEADLINE = 5.0


def by_client(route: scenario.Route) -> Callable[[Request], str]:
    """A key function: one limit for each client of this route, told by its `X-Client` header."""
    return lambda request: scenario.key_of(route, client_of(request))


def client_of(request: Request) -> str:
    """Who asks. A real service would take the name from a session or an API key."""
    address = request.client.host if request.client else "unknown"
    return request.headers.get("x-client", address)


def make_app(recorder: Recorder) -> Starlette:
    """The application: limited handlers, and 429 with `Retry-After` for who is over the limit."""

    @Throttled(
        key=by_client(scenario.SEARCH),
        quota="20/s burst 10",
        using="token_bucket",
        hooks=[recorder],
    )
    def search(request: Request) -> JSONResponse:
        return JSONResponse({"found": ["headway", "headland", "headlamp"]})

    @Throttled(
        key=by_client(scenario.FEED), quota="50/s; 120/3s", using="sliding_window", hooks=[recorder]
    )
    async def feed(request: Request) -> JSONResponse:
        return JSONResponse({"items": [1, 2, 3]})

    @Throttled(key=by_client(scenario.LOGIN), quota="5/s", using="fixed_window", hooks=[recorder])
    async def login(request: Request) -> JSONResponse:
        return JSONResponse({"welcome": client_of(request)})

    @Throttled(
        key=scenario.SHARED_KEY, quota="2/s burst 3", using="gcra", timeout=1.2, hooks=[recorder]
    )
    def export(request: Request) -> JSONResponse:
        return JSONResponse({"rows": 1000})

    routes = [
        Route("/search", search),
        Route("/feed", feed),
        Route("/login", login),
        Route("/export", export),
    ]
    return Starlette(routes=routes, exception_handlers={LimitedError: too_many_requests})


def too_many_requests(request: Request, error: Exception) -> JSONResponse:
    """429, with `Retry-After` in whole seconds as HTTP wants it and the exact time in the body."""
    result = error.rate_limit_result if isinstance(error, LimitedError) else None
    wait = result.state.retry_after if result else 1.0
    headers = {"Retry-After": str(max(1, math.ceil(wait)))} if math.isfinite(wait) else {}
    body = {"error": "too many requests", "retry_after": round(wait, 6)}
    return JSONResponse(body, status_code=429, headers=headers)


def listen(port: int) -> socket.socket:
    """A listening socket on this port of 127.0.0.1 (0: any free one). Errors: OSError."""
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((HOST, port))
        listener.listen(128)
    except OSError as error:
        listener.close()
        if error.errno == errno.EADDRINUSE:
            advice = f"port {port} is in use; choose another, or --port 0 for any free one"
        else:
            advice = f"port {port} cannot be used: {error.strerror}"
        raise OSError(error.errno, advice) from error
    return listener


class Server:
    """A uvicorn server in a thread of its own: `with Server(...) as server`, on `server.port`."""

    def __init__(self, recorder: Recorder, log: AccessLog, listener: socket.socket) -> None:
        """Serve on this socket, which is the server's from now on."""
        self._socket = listener
        self.port: int = listener.getsockname()[1]
        config = uvicorn.Config(
            LoggedApp(make_app(recorder), log),
            lifespan="off",
            log_level="error",
            access_log=False,
            proxy_headers=False,
            timeout_graceful_shutdown=2,
        )
        self._server = _AnnouncedServer(config)
        self._thread = threading.Thread(target=self._run, name="headway-demo-server", daemon=True)

    @property
    def url(self) -> str:
        """Where it listens."""
        return f"http://{HOST}:{self.port}"

    def __enter__(self) -> Self:
        """Start; return once it answers. Errors: RuntimeError where it does not start."""
        self._thread.start()
        if not self._server.announced.wait(START_DEADLINE) or not self._server.started:
            self.stop()
            raise RuntimeError(f"the server at {self.url} did not start")
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc_val: BaseException | None,
        exc_tb: TracebackType | None,
    ) -> None:
        self.stop()

    def stop(self) -> None:
        """Let requests in flight finish, then close; stopping twice does no harm."""
        self._server.should_exit = True
        if self._thread.is_alive():
            self._thread.join(STOP_DEADLINE)
        self._socket.close()

    def _run(self) -> None:
        try:
            self._server.run(sockets=[self._socket])
        finally:
            self._server.announced.set()


class _AnnouncedServer(uvicorn.Server):
    """A uvicorn server that says when it is up."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.announced = threading.Event()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets=sockets)
        self.announced.set()

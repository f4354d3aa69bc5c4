"""From options to a server that listens: sockets, TLS, signals, and a stop that lets all finish.

uvicorn runs the loop. The socket is opened here, so that an address in use is an error with a
sentence; signals are taken here, so that SIGHUP reads the tokens again and SIGTERM ends with 0.
"""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import logging
import resource
import signal
import socket
import ssl
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from uvicorn import Config, Server

from headway.exceptions import SetUpError
from headway.serve import early
from headway.serve.app import Service
from headway.serve.protocol import Guard, guarded
from headway.serve.tokens import Tenants, read_tokens
from headway.types import AnyStore

__all__ = ["MOST_KEYS", "Options", "serve"]

_log = logging.getLogger("headway.serve")
_SPARE_FILES = 64
"""Descriptors that are no connection: the store's, the log's, the loop's."""
_BACKLOG = 2048
MOST_KEYS = 65_536
_TIDY_S = 5.0
_GOODBYE_S = 3.0
"""How long the end of a TLS connection waits for the peer's."""


@dataclass
class Options:
    """What the command line says; times are seconds, sizes bytes."""

    host: str
    port: int
    store: AnyStore
    token_file: str | None = None
    max_keys: int | None = None
    """Of each tenant, in memory."""
    tls_cert: str | None = None
    tls_key: str | None = None
    max_body: int = 64 * 1024
    max_wait: float = 60.0
    max_connections: int = 10_000
    header_timeout: float = 10.0
    body_timeout: float = 10.0
    keep_alive: float = 75.0
    stop_timeout: float = 10.0
    metrics_public: bool = False
    access_log: bool = False


def serve(options: Options, say: Callable[[str], None]) -> None:
    """Serve until a signal says to stop. Raises SetUpError naming what is wrong.

    `say` is told where the service listens, once it does.
    """
    tokens = None if options.token_file is None else read_tokens(options.token_file)
    if tokens is None and not _is_loopback(options.host):
        raise SetUpError(
            f"Invalid listen: {options.host} can be reached from other machines: give "
            "--token-file, or listen on 127.0.0.1."
        )
    _warn_of_short(tokens)
    tls = _tls(options)
    most = _files_for(options.max_connections)
    guard = Guard(
        options.header_timeout,
        options.body_timeout,
        options.keep_alive,
        max_message=options.max_body * 8 + 64 * 1024,
        max_connections=most,
    )
    tenants = Tenants(options.store, options.max_keys or MOST_KEYS)
    service = Service(
        options.store,
        tenants,
        guard,
        max_body=options.max_body,
        max_wait=options.max_wait,
        metrics_public=options.metrics_public,
    )
    service.use_tokens(tokens)
    listener = _listen(options.host, options.port)
    with listener:
        config = Config(
            service,
            http=guarded(guard),
            ws="none",
            lifespan="off",
            log_config=None,
            access_log=options.access_log,
            proxy_headers=False,
            server_header=False,
            timeout_graceful_shutdown=options.stop_timeout,  # type: ignore[arg-type]
            backlog=_BACKLOG,
        )
        config.load()
        if tls is not None:
            config.ssl = tls
        server = _Server(config, service, guard, options)
        scheme = "https" if tls is not None else "http"
        host, port = listener.getsockname()[:2]
        where = f"{scheme}://{f'[{host}]' if ':' in host else host}:{port}"
        server.run_on(listener, lambda: say(where))


class _Server(Server):
    """uvicorn's server, with signals of our own and a task that watches connections."""

    def __init__(self, config: Config, service: Service, guard: Guard, options: Options) -> None:
        super().__init__(config)
        self._service, self._guard, self._options = service, guard, options
        self._on_start: Callable[[], None] = lambda: None

    def run_on(self, listener: socket.socket, on_start: Callable[[], None]) -> None:
        self._on_start = on_start
        loop = _new_loop(self._guard.header_timeout)
        try:
            asyncio.set_event_loop(loop)
            loop.run_until_complete(self.serve(sockets=[listener]))
        finally:
            left = asyncio.all_tasks(loop)
            for task in left:
                task.cancel()
            loop.run_until_complete(asyncio.gather(*left, return_exceptions=True))
            loop.run_until_complete(loop.shutdown_asyncgens())
            asyncio.set_event_loop(None)
            loop.close()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self._watching = asyncio.ensure_future(self._guard.watch())
        self._tidying = asyncio.ensure_future(self._tidy())
        self._on_start()

    async def _tidy(self) -> None:
        while True:
            await asyncio.sleep(_TIDY_S)
            self._service.tidy()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        self._service.stop()
        # Before uvicorn gives up on those that read nothing, and calls that an error.
        late = self._options.stop_timeout * 0.8
        ending = asyncio.get_running_loop().call_later(late, self._guard.end_unread)
        await super().shutdown(sockets)
        ending.cancel()
        self._watching.cancel()
        self._tidying.cancel()

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, self.handle_exit, number, None)
        loop.add_signal_handler(signal.SIGHUP, self._read_again)
        if early.hung_up:
            self._read_again()
        try:
            yield
        finally:
            with early.held_back():  # a signal that comes now must not find the default
                for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
                    loop.remove_signal_handler(number)
                early.ignore()

    def _read_again(self) -> None:
        self._read_tokens()
        self._read_certificate()

    def _read_tokens(self) -> None:
        if self._options.token_file is None:
            return
        try:
            tokens = read_tokens(self._options.token_file)
            self._service.use_tokens(tokens)
        except SetUpError as error:
            _log.error("%s The tokens stay as they were.", error)
            return
        _warn_of_short(tokens)
        _log.warning("%d tokens were read again.", len(tokens))

    def _read_certificate(self) -> None:
        context = self.config.ssl
        if context is None:
            return
        try:
            _tls(self._options)  # so that a certificate without its key changes nothing
            _load_certificate(context, self._options)
        except SetUpError as error:
            _log.error("%s The certificate stays as it was.", error)
            return
        _log.warning("The certificate was read again.")


def _new_loop(handshake_timeout: float) -> asyncio.AbstractEventLoop:
    """Return an event loop, uvloop's where it is installed, that times the handshakes of TLS.

    No connection is there for uvicorn, or for Guard, before its handshake is done.
    """
    base: Any = asyncio.SelectorEventLoop
    with contextlib.suppress(ImportError):
        import uvloop

        base = uvloop.Loop

    async def create_server(self: Any, *args: Any, **how: Any) -> Any:
        if how.get("ssl") is not None:
            how.setdefault("ssl_handshake_timeout", handshake_timeout)
            if base is not asyncio.SelectorEventLoop or sys.version_info >= (3, 11):
                how.setdefault("ssl_shutdown_timeout", _GOODBYE_S)
        return await base.create_server(self, *args, **how)

    loop: asyncio.AbstractEventLoop = type("Loop", (base,), {"create_server": create_server})()
    return loop


def _warn_of_short(tokens: dict[str, tuple[str, bool]] | None) -> None:
    short = sum(len(token) < 16 for token in tokens or ())
    if short:  # not whose: where a line has its halves the wrong way round, the name is the token
        _log.warning("%d of the tokens have fewer than 16 characters.", short)


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _listen(host: str, port: int) -> socket.socket:
    where = f"{f'[{host}]' if ':' in host else host}:{port}"
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        listener = socket.socket(family, kind, protocol)
    except OSError as error:
        raise SetUpError(f"Invalid listen: {where}: {error.strerror}.") from None
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        listener.bind(address)
        listener.listen(_BACKLOG)
    except OSError as error:
        listener.close()
        raise SetUpError(f"Invalid listen: {where}: {error.strerror}.") from None
    listener.setblocking(False)
    return listener


def _tls(options: Options) -> ssl.SSLContext | None:
    if options.tls_cert is None and options.tls_key is None:
        return None
    if options.tls_cert is None:
        raise SetUpError("Invalid tls_key: it needs --tls-cert, its certificate.")
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(["http/1.1"])
    _load_certificate(context, options)
    return context


def _load_certificate(context: ssl.SSLContext, options: Options) -> None:
    assert options.tls_cert is not None
    try:
        context.load_cert_chain(options.tls_cert, options.tls_key, _no_password)
    except OSError as error:  # ssl.SSLError is one
        what = error.strerror or error.args[0]
        key = f" with the key {options.tls_key!r}" if options.tls_key else ""
        raise SetUpError(f"Invalid tls_cert: {options.tls_cert!r}{key}: {what}.") from None


def _no_password() -> str:
    raise SetUpError("Invalid tls_key: it is encrypted; give one that is not.")


def _files_for(connections: int) -> int:
    """Raise the limit of open files as far as it goes; return how many connections that lets in."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = connections + _SPARE_FILES
    if soft != resource.RLIM_INFINITY and soft < wanted:
        soft = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        with contextlib.suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        soft = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    if soft == resource.RLIM_INFINITY or soft >= wanted:
        return connections
    possible = max(1, soft - _SPARE_FILES)
    _log.warning(
        "The limit of open files (ulimit -n) is %d: at most %d connections.", soft, possible
    )
    return possible

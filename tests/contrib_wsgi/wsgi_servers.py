"""Real servers for WSGI applications, each on a free port in a thread, and a client for them."""

from __future__ import annotations

import http.client
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer

import pytest

__all__ = ["SERVERS", "Answer", "get", "serving"]

SERVERS = ("wsgiref", "waitress")


class _Quiet(WSGIRequestHandler):
    def log_message(self, format: str, *args: Any) -> None:
        pass


@contextmanager
def _wsgiref(app: Any) -> Iterator[int]:
    with WSGIServer(("127.0.0.1", 0), _Quiet) as server:
        server.set_app(app)
        thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
        thread.start()
        try:
            yield server.server_port
        finally:
            server.shutdown()
            thread.join(30)


@contextmanager
def _waitress(app: Any) -> Iterator[int]:
    waitress = pytest.importorskip("waitress.server")
    listener = socket.create_server(("127.0.0.1", 0))
    channels: dict[Any, Any] = {}
    server = waitress.create_server(app, sockets=[listener], threads=4, map=channels)
    stop = threading.Event()

    def loop() -> None:
        while not stop.is_set():
            server.asyncore.loop(timeout=0.02, map=channels, count=1)

    thread = threading.Thread(target=loop, daemon=True)
    thread.start()
    try:
        yield listener.getsockname()[1]
    finally:
        stop.set()
        thread.join(30)
        for channel in list(channels.values()):
            channel.close()
        server.task_dispatcher.shutdown()


@contextmanager
def serving(app: Any, server: str = "wsgiref") -> Iterator[int]:
    """The port of a server that runs `app`."""
    with {"wsgiref": _wsgiref, "waitress": _waitress}[server](app) as port:
        yield port


class Answer:
    def __init__(self, response: http.client.HTTPResponse) -> None:
        self.status = response.status
        self.fields = [(name.lower(), value) for name, value in response.getheaders()]
        self.headers = dict(self.fields)
        self.body = response.read()


def get(port: int, path: str = "/", method: str = "GET", **headers: str) -> Answer:
    """One request over a connection of its own. Underscores of header names are hyphens."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    try:
        sent = {name.replace("_", "-"): value for name, value in headers.items()}
        connection.request(method, path, headers=sent)
        return Answer(connection.getresponse())
    finally:
        connection.close()

"""A `headway serve` of a test's own: started on a free port, asked, and stopped.

    with ServiceProcess(tokens=["alice:a-token-of-alice"]) as service:
        service.post("/v1/limit", {"key": "k", "quota": "1/m"}, "a-token-of-alice").json

Time is real here, so quotas are of hours where nothing may come back meanwhile.
"""

from __future__ import annotations

import http.client
import json
import signal
import socket
import ssl
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlencode, urlsplit

ALICE, BOB, OPS = "a-token-of-alice", "a-token-of-bob-b", "a-token-of-ops-o"
"""The tokens of the shared service: two tenants, and an admin."""
START_S = 30.0
STOP_S = 20.0


@dataclass(frozen=True)
class Said:
    """A response."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


class ServiceProcess:
    """One process of the service. `options` are those of the command line."""

    def __init__(self, *options: str, tokens: Sequence[str] | None = None) -> None:
        self._directory = tempfile.TemporaryDirectory()
        self.token_file = Path(self._directory.name) / "tokens"
        self._options = list(options)
        if tokens is not None:
            self.write_tokens(tokens)
            self._options += ["--token-file", str(self.token_file)]
        self.log = ""
        self.url = ""

    def write_tokens(self, lines: Sequence[str], mode: int = 0o600) -> None:
        self.token_file.touch(mode=mode)
        self.token_file.chmod(mode)
        self.token_file.write_text("\n".join(lines) + "\n")

    def __enter__(self) -> ServiceProcess:
        command = [sys.executable, "-m", "headway.serve", *self._options]
        if "--listen" not in self._options:
            command += ["--listen", "127.0.0.1:0"]
        self.process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        self._reader = threading.Thread(target=self._read_log, daemon=True)
        self._reader.start()
        watchdog = threading.Timer(START_S, self.process.kill)
        watchdog.start()
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        watchdog.cancel()
        if not line.startswith("headway serves on "):
            self.stop(signal.SIGKILL)
            raise AssertionError(f"the service did not start: {line}{self.log}")
        self.url = line.split()[-1]
        parts = urlsplit(self.url)
        self.address = (str(parts.hostname), int(parts.port or 0))
        return self

    def _read_log(self) -> None:
        assert self.process.stderr is not None
        for line in self.process.stderr:
            self.log += line

    def __exit__(self, *error: object) -> None:
        if self.process.poll() is None:
            self.stop()
        self._directory.cleanup()
        print(self.log[-4000:])

    def stop(self, number: int = signal.SIGTERM) -> int:
        """Send a signal and return the exit code."""
        self.process.send_signal(number)
        try:
            code = self.process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
            raise AssertionError(f"still there {STOP_S} s after signal {number}") from None
        self._reader.join(5)
        for stream in (self.process.stdout, self.process.stderr):
            assert stream is not None
            stream.close()
        return code

    def connect(self, context: ssl.SSLContext | None = None) -> http.client.HTTPConnection:
        if context is not None:
            return http.client.HTTPSConnection(*self.address, timeout=30, context=context)
        return http.client.HTTPConnection(*self.address, timeout=30)

    def socket(self, timeout: float = 20.0) -> socket.socket:
        return socket.create_connection(self.address, timeout)

    def ask(
        self,
        method: str,
        path: str,
        body: bytes | None = None,
        token: str | None = None,
        headers: Mapping[str, str] | None = None,
        over: http.client.HTTPConnection | None = None,
    ) -> Said:
        """Send a request, over a connection of its own unless one is given."""
        connection = over or self.connect()
        try:
            sent = dict(headers or {})
            if token is not None:
                sent["Authorization"] = f"Bearer {token}"
            connection.request(method, path, body, sent)
            response = connection.getresponse()
            return Said(response.status, dict(response.getheaders()), response.read())
        finally:
            if over is None:
                connection.close()

    def get(self, path: str, token: str | None = None, **fields: object) -> Said:
        query = f"?{urlencode(fields)}" if fields else ""
        return self.ask("GET", path + query, token=token)

    def post(self, path: str, data: object, token: str | None = None, **headers: str) -> Said:
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        return self.ask("POST", path, json.dumps(data).encode(), token, named)


def until(what: Callable[[], object], sentence: str, deadline: float = 20.0) -> None:
    """Look until something is so; fail with the sentence that says what was waited for."""
    end = time.monotonic() + deadline
    while not what():
        if time.monotonic() > end:
            raise AssertionError(f"{deadline} s have passed, and not yet: {sentence}")
        time.sleep(0.02)


def read_all(sock: socket.socket) -> bytes:
    """What comes until the other side hangs up."""
    parts = []
    try:
        while part := sock.recv(65536):
            parts.append(part)
    except ConnectionResetError:
        pass
    return b"".join(parts)


def call(key: str, /, **fields: object) -> dict[str, object]:
    """The fields of choked's query: a bucket of 5 calls that takes an hour to fill."""
    return {
        "key": key,
        "request_capacity": 5,
        "request_refill_rate": 5 / 3600,
        "token_capacity": 0,
        "token_refill_rate": 0.0,
        "requests_needed": 1,
        "tokens_needed": 0,
        **fields,
    }

"""Starts the API of enforcing_app.py on uvicorn, in a process and on a port of its own.

with EnforcingServer(dialect="github", limit=50, window=2.0) as server:
    requests.get(server.url + "/users")
    assert server.stats["429"] == 0
"""

from __future__ import annotations

import json
import os
import socket
import ssl
import subprocess
import sys
import time
import urllib.request
from pathlib import Path
from types import TracebackType
from typing import Any

import pytest

HERE = Path(__file__).resolve().parent
DEADLINE_S = 30.0


class EnforcingServer:
    """One server process. `certificates` (file of the key, file of the chain): behind TLS."""

    def __init__(
        self,
        *,
        certificates: tuple[Path, Path] | None = None,
        ca: Path | None = None,
        **enforce: Any,
    ) -> None:
        self._certificates, self._ca = certificates, ca
        self._enforce = enforce
        self._process: subprocess.Popen[bytes] | None = None
        self.port = 0

    @property
    def url(self) -> str:
        return f"{'https' if self._certificates else 'http'}://localhost:{self.port}"

    @property
    def host(self) -> str:
        return f"localhost:{self.port}"

    def __enter__(self) -> EnforcingServer:
        pytest.importorskip("uvicorn")
        listening = socket.socket()
        listening.bind(("127.0.0.1", 0))
        listening.listen(1024)
        self.port = listening.getsockname()[1]
        command = [sys.executable, "-m", "uvicorn", "enforcing_app:app", "--no-access-log"]
        command += ["--fd", str(listening.fileno()), "--no-date-header", "--log-level", "warning"]
        if self._certificates:
            key, chain = map(str, self._certificates)
            command += ["--ssl-keyfile", key, "--ssl-certfile", chain]
        environment = {**os.environ, "ENFORCE": json.dumps(self._enforce)}
        self._process = subprocess.Popen(
            command, cwd=HERE, env=environment, pass_fds=[listening.fileno()]
        )
        listening.close()  # the server has its own
        self._await_answer()
        return self

    def _await_answer(self) -> None:
        deadline = time.monotonic() + DEADLINE_S
        while True:
            try:
                assert self.stats["200"] == 0
                return
            except OSError:
                assert self._process is not None
                assert self._process.poll() is None, "the server has ended"
                assert time.monotonic() < deadline, "the server does not answer"
                time.sleep(0.02)

    @property
    def stats(self) -> dict[str, Any]:
        """What it has answered: {"200": 12, "429": 0, "first": …, "last": …, "paths": …}."""
        context = ssl.create_default_context(cafile=str(self._ca)) if self._certificates else None
        with urllib.request.urlopen(f"{self.url}/stats", timeout=10, context=context) as reply:
            told: dict[str, Any] = json.load(reply)
            return told

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._process is not None:
            if self._certificates:  # asyncio waits 30 s for clients that hang up without a word
                self._process.kill()
            self._process.terminate()
            try:
                self._process.wait(DEADLINE_S)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()

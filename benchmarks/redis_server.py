"""A Redis server of the benchmark's own, on a free port of loopback, without persistence; and on
which processors it and its clients run.

Client and server take turns, and where the scheduler puts them decides more than any client can: on
one processor a round trip takes a third of what it takes when each wakes the other's idle one. It
stays as it began, for seconds, so contenders would be measured in different places. So both are
placed: the server on a processor of its own, the clients beside it.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

DEADLINE_S = 10.0


@dataclass(frozen=True)
class Server:
    """Where it is, and which version."""

    port: int
    version: str
    pid: int

    @property
    def url(self) -> str:
        """As the clients want it."""
        return f"redis://127.0.0.1:{self.port}/0"

    def command_of(self, work: Callable[[], object]) -> list[str]:
        """The words of the one EVALSHA that `work` sends, as MONITOR shows them."""
        with socket.create_connection(("127.0.0.1", self.port), DEADLINE_S) as watcher:
            watcher.sendall(b"MONITOR\r\n")
            seen = watcher.recv(64)
            work()
            while (line := re.search(rb'\] ("evalsha" .*)\r\n', seen, re.IGNORECASE)) is None:
                seen += watcher.recv(65536)
        return [word.decode() for word in re.findall(rb'"((?:[^"\\]|\\.)*)"', line[1])]


@contextlib.contextmanager
def running() -> Iterator[Server]:
    """Starts a server and stops it at the end."""
    program = shutil.which("redis-server") or shutil.which("valkey-server")
    if program is None:
        raise RuntimeError("redis-server is not installed")
    with tempfile.TemporaryDirectory() as folder:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        options = ["--port", str(port), "--bind", "127.0.0.1", "--save", "", "--dir", folder]
        process = subprocess.Popen([program, *options], stdout=subprocess.DEVNULL)
        try:
            yield Server(port, _version(port, process), process.pid)
        finally:
            process.kill()
            process.wait()


@contextlib.contextmanager
def placed(server: Server, where: str, spread_out: bool = False) -> Iterator[str]:
    """Runs the server and what is started inside in places: `apart`, `together` or `free`.

    With `spread_out` the clients have all processors but the server's. Yields a sentence on it.
    """
    if not hasattr(os, "sched_setaffinity") or len(os.sched_getaffinity(0)) < 2:
        yield "Here the scheduler places server and client, which moves the figures threefold."
        return
    every = os.sched_getaffinity(0)
    first, *others = sorted(every)
    beside = set(others) if spread_out else {others[len(others) // 2]}
    theirs, ours, sentence = {
        "apart": ({first}, beside, "The server has a processor of its own."),
        "together": ({first}, {first}, "Server and client share one processor."),
        "free": (every, every, "The scheduler places server and client."),
    }[where]
    for thread in os.listdir(f"/proc/{server.pid}/task"):
        os.sched_setaffinity(int(thread), theirs)
    os.sched_setaffinity(0, ours)
    try:
        yield sentence
    finally:
        os.sched_setaffinity(0, every)


def _version(port: int, process: subprocess.Popen[bytes]) -> str:
    end = time.monotonic() + DEADLINE_S
    while process.poll() is None and time.monotonic() < end:
        with (
            contextlib.suppress(OSError),
            socket.create_connection(("127.0.0.1", port), 1) as client,
        ):
            client.sendall(b"INFO server\r\n")
            found = re.search(rb"redis_version:([\d.]+)", client.recv(4096))
            if found:
                return found[1].decode()
        time.sleep(0.02)
    raise RuntimeError(f"the server on port {port} did not start")

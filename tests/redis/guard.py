"""Processes and ports that are given back however a test run ends.

A guard process reads from a pipe who lives; when the test process ends, be it by SIGKILL, the pipe
closes, and the guard kills what is left and removes its files. A port is drawn below the range from
which the kernel takes the ports of outgoing connections (else a client that reconnects to a stopped
server can meet itself), and stays claimed while its server is down: the claim is a bound UDP socket
of the same number, which dies with its process.
"""

from __future__ import annotations

import atexit
import os
import random
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path

from wire import DEADLINE_S, RedisError

PORTS = range(10_000, 20_000)
"""Where ports are drawn from. A cluster node also listens on its port plus 10,000."""


class ServerFailed(Exception):
    """A server that did not start or did not do what was asked, with the end of its log."""


def until(condition: Callable[[], object], what: str, deadline: float = DEADLINE_S) -> None:
    """Waits for something that must happen. An error reply or a lost connection is a no."""
    end, last = time.monotonic() + deadline, "it was not so"
    while True:
        try:
            if condition():
                return
        except (RedisError, OSError) as error:
            last = repr(error)
        if time.monotonic() > end:
            raise ServerFailed(f"not seen within {deadline} s: {what} ({last})")
        time.sleep(0.01)


class Guard:
    """Outlives this process by an instant: kills its servers and removes their files."""

    PROGRAM = """if True:
        import os, shutil, sys
        alive = set()
        for line in sys.stdin:
            (alive.add if line[0] == "+" else alive.discard)(int(line[1:]))
        for group in alive:
            try:
                os.killpg(group, 9)
            except OSError:
                pass
        shutil.rmtree(sys.argv[1], ignore_errors=True)
    """
    _lock = threading.Lock()
    _current: Guard | None = None

    def __init__(self) -> None:
        self.owner = os.getpid()
        self.root = Path(tempfile.mkdtemp(prefix="headway-redis-"))
        self._process = subprocess.Popen(
            [sys.executable, "-I", "-S", "-c", self.PROGRAM, str(self.root)],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            bufsize=0,
            start_new_session=True,
        )
        assert self._process.stdin is not None
        self._pipe = self._process.stdin
        os.register_at_fork(after_in_child=self._pipe.close)
        atexit.register(self.end)

    @classmethod
    def current(cls) -> Guard:
        """The guard of this process, which is not that of the process it was forked from."""
        with cls._lock:
            if cls._current is None or cls._current.owner != os.getpid():
                cls._current = cls()
            return cls._current

    def watch(self, group: int) -> None:
        self._pipe.write(b"+%d\n" % group)

    def forget(self, group: int) -> None:
        self._pipe.write(b"-%d\n" % group)

    def end(self) -> None:
        if self.owner == os.getpid():
            self._pipe.close()
            self._process.wait(DEADLINE_S)


def claim_port() -> tuple[int, socket.socket]:
    """A port nobody listens on, and its claim, which keeps the others of this house away."""
    for port in random.SystemRandom().sample(PORTS, min(len(PORTS), 2_000)):
        claim = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        try:
            claim.bind(("127.0.0.1", port))
            for taken in (port, port + 10_000):
                with socket.socket() as probe:
                    probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                    probe.bind(("127.0.0.1", taken))
            return port, claim
        except OSError:
            claim.close()
    raise ServerFailed(f"no free port between {PORTS.start} and {PORTS.stop}")

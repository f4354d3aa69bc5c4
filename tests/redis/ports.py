"""Ports of one's own, and waiting for what a server does.

A port is drawn below the range from which the kernel takes the ports of outgoing connections (else
a client that reconnects to a stopped server can meet itself), and stays claimed while its server is
down: the claim is a bound UDP socket of the same number, which ends with its process.
"""

from __future__ import annotations

import random
import socket
import time
from collections.abc import Callable

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

"""The callers: threads that send real HTTP requests over keep-alive connections.

Each load has a pace of its own: a group of requests is due every `every` seconds, whatever the
answers were. Only who is told to wait by the server's own queue comes later than it meant to.
"""

from __future__ import annotations

import http.client
import itertools
import threading
import time
from collections import Counter
from collections.abc import Sequence
from types import TracebackType
from typing import TYPE_CHECKING

from headway.demo.access_log import USER_AGENT
from headway.demo.scenario import Client, Load

if TYPE_CHECKING:
    from typing_extensions import Self

REQUEST_DEADLINE = 10.0  # seconds for one answer
JOIN_DEADLINE = 15.0


class Clients:
    """All callers of the scenario: `with Clients(...)` starts them, leaving lets them finish."""

    def __init__(self, port: int, loads: Sequence[Load]) -> None:
        self._port = port
        self._stop = threading.Event()
        self._lock = threading.Lock()
        self._statuses: Counter[int] = Counter()
        self._errors: list[str] = []
        self._threads = [
            threading.Thread(target=self._call, args=(load, member), daemon=True)
            for load in loads
            for member in range(load.connections)
        ]

    @property
    def statuses(self) -> Counter[int]:
        """How often each HTTP status came back."""
        with self._lock:
            return Counter(self._statuses)

    @property
    def errors(self) -> list[str]:
        """What went wrong otherwise: connections refused, answers that did not come."""
        with self._lock:
            return list(self._errors)

    def __enter__(self) -> Self:
        """Start every thread."""
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc_val: BaseException | None,
        exc_tb: TracebackType | None,
    ) -> None:
        self.stop()

    def stop(self) -> None:
        """Send nothing more and wait for the answers that are under way."""
        self._stop.set()
        deadline = time.monotonic() + JOIN_DEADLINE
        for thread in self._threads:
            if thread.is_alive():
                thread.join(max(0.0, deadline - time.monotonic()))

    def _call(self, load: Load, member: int) -> None:
        """One connection's share of a load: requests member, member + connections, … of each group.

        Single requests are dealt out in turn as well, so that the pace is that of the whole load.
        """
        connection = _connect(self._port, load.client)
        start = time.monotonic()
        try:
            for number in itertools.count(member, load.connections):
                due = start + number // load.burst * load.every
                if self._stop.wait(max(0.0, due - time.monotonic())):
                    return
                self._send(connection, load)
        finally:
            connection.close()

    def _send(self, connection: http.client.HTTPConnection, load: Load) -> None:
        headers = {
            "X-Client": load.client.name,
            "User-Agent": f"{USER_AGENT} ({load.client.manners})",
        }
        try:
            connection.request("GET", load.route.path, headers=headers)
            response = connection.getresponse()
            response.read()
        except (OSError, http.client.HTTPException) as error:
            connection.close()  # the next request opens it anew
            with self._lock:
                self._errors.append(f"{load.client.name} {load.route.path}: {error!r}")
            return
        with self._lock:
            self._statuses[response.status] += 1


def _connect(port: int, client: Client) -> http.client.HTTPConnection:
    """A connection from the client's own loopback address, where the system has more than one."""
    connection = http.client.HTTPConnection(
        "127.0.0.1", port, timeout=REQUEST_DEADLINE, source_address=(client.address, 0)
    )
    try:
        connection.connect()
    except OSError:
        connection.close()
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=REQUEST_DEADLINE)
    return connection

"""What the connections of a server share: their limits, their number, and who watches them.

A request costs no timer. `Guard.watch` looks at all connections twice a second, asks each whether
it has waited for too long, and cuts it off.

Where there are as many connections as may be, a newcomer from an address with few of them takes
the room of idle ones of the address that has the most. So one address cannot shut others out by
opening connections and leaving them.
"""

from __future__ import annotations

import asyncio
import ipaddress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from headway.serve.protocol import GuardedConnection

__all__ = ["Guard", "address_of"]

_LOOK_S = 0.5
_AT_ONCE = 256
"""Connections that are looked at before others have a turn of the event loop."""


@dataclass
class Guard:
    """The limits of a server's connections, and what was counted."""

    header_timeout: float = 10.0
    body_timeout: float = 10.0
    keep_alive: float = 75.0
    max_head: int = 32 * 1024
    """Bytes of a request line and its headers."""
    max_headers: int = 128
    max_message: int = 1024 * 1024
    """Bytes of a request on the wire, with the framing of its chunks."""
    max_held: int = 64 * 1024 * 1024
    """Bytes of pipelined requests that are held back, of all connections."""
    max_connections: int = 10_000
    open: set[GuardedConnection] = field(default_factory=set)
    """Connections that were let in and have not ended."""
    leaving: set[GuardedConnection] = field(default_factory=set)
    """Connections that were turned away, until they have ended."""
    held: int = 0
    slow: int = 0
    """Connections that were closed for being slow."""
    refused: int = 0
    """Connections that were closed because there were too many."""
    displaced: int = 0
    """Idle connections that were closed for those of other addresses."""
    malformed: int = 0
    """Requests that were no HTTP, or too large a head."""
    _full_until: float = 0.0

    async def watch(self) -> None:
        """Cut off the connections that are overdue, for ever."""
        loop = asyncio.get_running_loop()
        while True:
            looked_at = 0
            for connection in (*self.open, *self.leaving):
                looked_at += 1
                if not looked_at % _AT_ONCE:
                    await asyncio.sleep(0)
                if connection.lost or not connection.overdue(loop.time()):
                    continue
                self.slow += not connection.ends
                connection.cut_off()
            await asyncio.sleep(_LOOK_S)

    def let_in(self, connection: GuardedConnection) -> bool:
        """Count a connection, and return whether there is room for it."""
        if len(self.open) < self.max_connections or self._make_room(connection.address):
            self.open.add(connection)
            return True
        self.refused += 1
        self.leaving.add(connection)
        return False

    def end_unread(self) -> None:
        """End the connections that only wait for their peer to read, since the server stops."""
        for connection in (*self.open, *self.leaving):
            if not connection.lost and connection.ends:
                connection.cut_off()

    def _make_room(self, newcomer: str) -> bool:
        """Close idle connections of the address that has the most, if `newcomer` has fewer."""
        now = asyncio.get_running_loop().time()
        if now < self._full_until:
            return False
        whose: dict[str, list[GuardedConnection]] = {}
        for connection in self.open:
            whose.setdefault(connection.address, []).append(connection)
        most = max(whose.values(), key=len)
        idle = [connection for connection in most if connection.idle]
        excess = len(most) - 1 - len(whose.get(newcomer, ()))
        if not idle or excess < 1:
            self._full_until = now + _LOOK_S
            return False
        # An eighth at once, so that many newcomers share the cost of choosing.
        idle.sort(key=lambda connection: connection.since)
        for connection in idle[: max(1, min(excess, len(most) // 8))]:
            self.displaced += 1
            self.open.discard(connection)
            self.leaving.add(connection)
            connection.hang_up()
        return True


def address_of(client: tuple[str, int] | None) -> str:
    """Return what counts as one address: one of IPv4, or a network of 64 bits of IPv6."""
    if client is None:
        return ""
    host = client[0]
    if ":" not in host:
        return host
    try:
        address = ipaddress.IPv6Address(host.partition("%")[0])
    except ValueError:
        return host
    return str(address.ipv4_mapped) if address.ipv4_mapped else address.packed[:8].hex()

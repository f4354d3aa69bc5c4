"""Who serves: the primary that sentinels agree on, or the nodes of a cluster.

A store asks when a request could not be sent, or when a server says that another serves. What
is found is told to the store, which the compiled client then goes by.
"""

import threading
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from headway._core import Link
from headway._forks import open_after_fork
from headway._workers import in_worker
from headway.exceptions import StoreUnavailableError

if TYPE_CHECKING:
    from headway.store import RedisStore

__all__ = ["Cluster", "Sentinels"]

Address = tuple[str, int]
LEAST_INTERVAL = 0.05
# What whoever answers there may bring about: the next is asked.
_NONSENSE = (StoreUnavailableError, LookupError, TypeError, ValueError, AttributeError)


class _Topology:
    """Looks at most every 50 ms, one thread at a time."""

    def __init__(self) -> None:
        self._lock = open_after_fork(threading.Lock())
        self._last = 0.0

    def refresh(self, store: "RedisStore") -> None:
        """Find out who serves, and tell the store. Raises StoreUnavailableError."""
        started = time.monotonic()
        with self._lock:
            if self._last > started:
                return  # somebody has looked while we waited for the lock
            pause = self._last + LEAST_INTERVAL - time.monotonic()
            if pause > 0:
                time.sleep(pause)
            try:
                self._look(store)
            finally:
                self._last = time.monotonic()

    async def refresh_async(self, store: "RedisStore") -> None:
        """As `refresh`, in a thread of the store: the loop's executor is the program's."""
        await in_worker(store, partial(self.refresh, store))

    def _look(self, store: "RedisStore") -> None:
        raise NotImplementedError


class Sentinels(_Topology):
    """Follows the primary of one service."""

    def __init__(
        self, service: str, sentinels: Sequence[Address], sentinel_link: Callable[..., Link]
    ) -> None:
        super().__init__()
        self._service = service
        self._sentinels = list(sentinels)
        self._sentinel_link = sentinel_link
        self._primary: Address | None = None

    def _look(self, store: "RedisStore") -> None:
        failures: list[StoreUnavailableError] = []
        for address in list(self._sentinels):
            try:
                found = self._ask(address)
                if found is None:
                    error = StoreUnavailableError(
                        f"{store.server} cannot answer: {address[0]}:{address[1]} "
                        f"does not know {self._service!r}."
                    )
                    error.fault = "address"
                    failures.append(error)
                    continue
                link = store._link_to(*found)
                if _checked(link.execute("ROLE"))[0] != b"master":
                    continue  # not yet
            except StoreUnavailableError as unavailable:
                failures.append(unavailable)
                continue
            except _NONSENSE:
                continue
            # The next question goes to the sentinel that could answer this one.
            self._sentinels.remove(address)
            self._sentinels.insert(0, address)
            self._primary = found
            store._set_primary(link)
            return
        # What waiting will not mend is said; else the caller asks again until its time is up.
        for failure in failures:
            if failure.fault in ("address", "database", "login", "tls"):
                raise failure

    def _ask(self, address: Address) -> Address | None:
        reply = _checked(
            self._sentinel_link(*address).execute(
                "SENTINEL", "GET-MASTER-ADDR-BY-NAME", self._service
            )
        )
        return None if reply is None else _place(reply[0].decode(), reply[1])


class Cluster(_Topology):
    """Knows which node serves which slots."""

    def __init__(self, nodes: Sequence[Address]) -> None:
        super().__init__()
        self._nodes = list(nodes)

    def _look(self, store: "RedisStore") -> None:
        for address in list(self._nodes):
            known: list[Address] = []
            served: list[tuple[int, int, str, int]] = []
            try:
                link = store._brief_link(*address, share=len(self._nodes))
                for first, last, primary, *replicas in _checked(link.execute("CLUSTER", "SLOTS")):
                    host, port = _address(primary, address)
                    if not 0 <= int(first) <= int(last) < 16384:
                        raise ValueError("there are 16384 slots")
                    served.append((int(first), int(last), host, port))
                    known += [(host, port), *(_address(replica, address) for replica in replicas)]
            except _NONSENSE:
                continue
            if not served:
                continue
            for first, last, host, port in served:
                store._set_slots(first, last, host, port)
            # Those that are gone may come back: they are asked last.
            gone = [node for node in self._nodes if node not in known]
            self._nodes = [*dict.fromkeys(known), *gone][:64]
            return


def _address(node: Any, asked: Address) -> Address:
    return _place(node[0].decode() if node[0] else asked[0], node[1])


def _place(host: str, port: Any) -> Address:
    if not 0 < int(port) < 65536:
        raise ValueError(f"{port!r} is no port")
    return host, int(port)


def _checked(reply: Any) -> Any:
    if isinstance(reply, StoreUnavailableError):
        if str(reply).startswith(("NOAUTH", "WRONGPASS", "NOPERM")):
            reply.fault = "login"
        raise reply
    return reply

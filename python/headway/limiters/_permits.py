"""The permits of one name on a server: what is asked of it, and the leases that this process holds.

What is done on the server is one script, src/redis/lua/semaphore.lua: a request is a list of steps,
each with the id of a lease or of a waiter, and the reply says where each of them stands.
"""

import asyncio
import concurrent.futures
import itertools
import logging
import secrets
import threading
import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple
from weakref import ReferenceType, WeakSet, ref

from headway import _core
from headway._redis_errors import unavailable
from headway.exceptions import SetUpError, StoreUnavailableError

if TYPE_CHECKING:
    from headway.types import AnyStore

__all__ = ["BEAT", "Answer", "Lease", "Permits", "Step"]

BEAT = 5.0
"""Seconds for which a listener's waiters stay in line without another word from it."""
TERM_MIN = 0.1
"""A lease is no shorter, in seconds: renewing one crosses a network."""
CLAIM = 0.02
"""After so many seconds a permit that was handed over gets its own term. Most are back by then."""
SURELY_OVER = (0.05, 1.0, 6.0)
"""When what may still arrive is taken back: a request that was cut off on its way."""
LOOP_TIMEOUT = 10.0
"""Seconds for which the renewing thread waits for an event loop that asks for it."""
AT_ONCE = 256
"""Steps of one request."""

Step = tuple[str, str, int, int]
"""verb, id, term in microseconds, place."""


class Answer(NamedTuple):
    """What the server says after the steps."""

    held: int
    waiting: int
    lapse: float
    """Seconds until the earliest lease lapses, if that is ours to look at; else negative."""
    places: list[int]
    """Of each step: 0 for a holder, -1 for neither, else its place in line."""


class Lease:
    """A permit that is held here. Times are those of `time.monotonic`."""

    __slots__ = ("due", "holder", "id", "term", "until")

    def __init__(
        self, id: str, holder: "ReferenceType[object]", term: float, since: float, claimed: bool
    ) -> None:
        self.id = id
        self.holder = holder
        self.term = term
        self.due = since + (term / 3 if claimed else min(CLAIM, term / 3))
        # One that was handed over lapses with its listener, until it is claimed.
        self.until = since + (term if claimed else min(term, BEAT))

    @property
    def term_us(self) -> int:
        return int(self.term * 1e6)


class Permits:
    """What the semaphores of one name share in this process."""

    params: Mapping[str, Any]
    where: str
    store: Any
    """A RedisStore."""

    def __init__(self, store: "AnyStore", name: str, capacity: int) -> None:
        self.store = store
        self.name = name
        self.capacity = capacity
        # As the keys of limits: see put_key in src/redis/scripts.c.
        mark = "\\" if name[0] in "}\\" else ""
        tagged = f"limiters:v1:semaphore:{{{mark}{name}}}:".encode("utf-8", "surrogatepass")
        self.keys = tuple(tagged + part for part in (b"held", b"line", b"listeners"))
        self.news = tagged + b"news:"
        self._start_anew()
        _all.add(self)

    def _start_anew(self) -> None:
        """In a fork's child: what the parent holds is the parent's, and so are its locks."""
        from headway.limiters._line import Lines

        self.lock = threading.RLock()
        self.leases: dict[str, Lease] = {}
        self.given_back: dict[str, tuple[list[float], float]] = {}
        """Id -> when to say so, and until when it matters."""
        self._retries = 0
        self._loop: ref[asyncio.AbstractEventLoop] | None = None
        self.lines = Lines(self)
        self.listener = secrets.token_hex(8)
        self.numbers = itertools.count(1)

    # Asking.

    def words(
        self, listener: str, steps: Sequence[Step]
    ) -> tuple[str, tuple[bytes, ...], tuple[bytes | str | int, ...]]:
        """The arguments of the store's `_run`."""
        flat: list[bytes | str | int] = [self.capacity, listener, int(BEAT * 1e6)]
        for step in steps:
            flat += step
        return "semaphore", self.keys, tuple(flat)

    def ask(self, listener: str = "", steps: Sequence[Step] = ()) -> Answer:
        """Take the steps, as a thread. Raises StoreUnavailableError."""
        if self.store._client is not None and self.store._client.awaits:
            return self._ask_by_loop(listener, steps)
        return self._read(self.store._run(*self.words(listener, steps)), steps)

    async def ask_async(self, listener: str, steps: Sequence[Step]) -> Answer:
        if self.store._client is not None and self.store._client.awaits:
            self._loop = ref(asyncio.get_running_loop())
        return self._read(await self.store._run_async(*self.words(listener, steps)), steps)

    def _read(self, reply: Any, steps: Sequence[Step]) -> Answer:
        """What the script has answered: two counts, a time, and a place for each step."""
        try:
            held, waiting, lapse, *places = map(int, reply if isinstance(reply, list) else ())
            if len(places) != len(steps):
                raise ValueError
        except (TypeError, ValueError):
            raise unavailable(
                self.store.server,
                "protocol",
                f"it answers a semaphore's script {reply!r:.80}",
                True,
            ) from None
        return Answer(held, waiting, lapse / 1e6, places)

    def _ask_by_loop(self, listener: str, steps: Sequence[Step]) -> Answer:
        """A client for asyncio can be used by its event loop alone, which asks for this thread."""
        loop = self._loop() if self._loop is not None else None
        if loop is None or loop.is_closed():
            raise StoreUnavailableError(
                f"{self.store.server} cannot answer: the event loop of its client is closed."
            )
        if loop is _running_loop():
            raise SetUpError(
                f"{self.store.server} is a client for asyncio, which an event loop cannot ask "
                "without await."
            )
        asked = asyncio.run_coroutine_threadsafe(self.ask_async(listener, steps), loop)
        try:
            return asked.result(LOOP_TIMEOUT)
        except (TimeoutError, concurrent.futures.TimeoutError) as error:
            asked.cancel()
            raise StoreUnavailableError(
                f"{self.store.server} cannot answer: the event loop of its client is busy."
            ) from error

    def ear(self, seconds: float) -> Any:
        """What a listener sleeps on, for so long at most: a connection of its own."""
        return self.store._for_blocking(seconds)

    def policy(self, error: StoreUnavailableError) -> Any:
        """What on_error says to an error: "allow", "deny", a MemoryStore; or raise it."""
        return self.store._policy(error)

    @property
    def held(self) -> int:
        """How many permits are held now, by all processes. Asks the server, as `waiting` does."""
        return self.ask().held

    @property
    def waiting(self) -> int:
        return self.ask().waiting

    # Leases. Whoever changes them tells the keeper (headway.limiters._keeper).

    def give_back(self, id: str, term: float, *, arriving: bool = False) -> None:
        """End a lease or a place in line soon, by another thread; never raises, never waits.

        `arriving`: the request that it comes from may not have arrived yet, so it is said again.
        """
        from headway.limiters._keeper import keeper_of

        now = time.monotonic()
        when = [now + pause for pause in SURELY_OVER] if arriving else [now]
        with self.lock:
            self.given_back[id] = when, now + max(term, BEAT) + SURELY_OVER[-1]
        keeper_of(self).watch(self, when[0])

    def look_after(self, now: float) -> float | None:
        """Renew what is due, end what was given back. Return when to come again, if at all.

        Only the keeper's thread calls this. A lease whose holder is gone is left to lapse.
        """
        ending, renewing = self._due(now)
        instants: list[float] = []
        steps: list[Step] = [("leave", id, 0, 0) for id in ending]
        steps += [("renew", lease.id, lease.term_us, 0) for lease in renewing]
        try:
            for first in range(0, len(steps), AT_ONCE):
                self.ask("", steps[first : first + AT_ONCE])
        except Exception as error:
            if not isinstance(error, StoreUnavailableError):  # of a client of the user's own
                logging.getLogger("headway.limiters").exception("Leases could not be renewed.")
            self._retries += 1
            return now + min(0.05 * 2.0 ** min(self._retries, 8), 1.0)
        self._retries = 0
        with self.lock:
            for id in ending:
                when, until = self.given_back.get(id, ([], now))
                del when[:1]
                if not when or until <= now:
                    self.given_back.pop(id, None)
            for lease in renewing:
                lease.due, lease.until = now + lease.term / 3, now + lease.term
                if lease.id not in self.leases:  # it was left meanwhile; which came first?
                    self.given_back[lease.id] = [now], lease.until
            instants += [lease.due for lease in self.leases.values()]
            instants += [when[0] for when, _ in self.given_back.values()]
        return min(instants) if instants else None

    def _due(self, now: float) -> tuple[list[str], list[Lease]]:
        """What is to be ended, and what renewed: where one is due, those that are due soon too."""
        with self.lock:
            for id, (_, until) in list(self.given_back.items()):
                if until <= now:
                    del self.given_back[id]
            ending = [id for id, (when, _) in self.given_back.items() if when[0] <= now]
            leases = list(self.leases.values())
        if not ending and all(lease.due > now for lease in leases):
            return [], []
        renewing = []
        for lease in leases:
            if lease.due > now + lease.term / 6:
                continue
            if _core._holder_lives(lease.holder):
                renewing.append(lease)
                continue
            lease.due = lease.until
            if lease.until <= now:
                with self.lock:
                    self.leases.pop(lease.id, None)
        return ending, renewing


def _running_loop() -> "asyncio.AbstractEventLoop | None":
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        return None


def term_of(expiry: float) -> float:
    """Seconds of a lease's term."""
    return max(expiry, TERM_MIN)


_all: "WeakSet[Permits]" = WeakSet()


def start_anew() -> None:
    """In a fork's child."""
    for permits in list(_all):
        permits._start_anew()

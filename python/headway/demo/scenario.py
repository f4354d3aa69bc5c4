"""Who asks for what, how fast, and which quota holds there.

Four routes, one for each way of counting, and six clients. Three of them visit most routes: alice
stays below every quota, bob comes in bursts, mallory does not care. Three batch jobs share one
key on `/export`, where a request waits for its turn instead of being turned away.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True)
class Route:
    """A limited handler: its path, quota text, algorithm, and how long a request may wait."""

    path: str
    quota: str
    using: str
    timeout: float | None = None  # seconds that a request may wait for its slot; None: none

    @property
    def name(self) -> str:
        """The path without its slash: the first part of this route's keys."""
        return self.path.removeprefix("/")


SEARCH: Final = Route("/search", "20/s burst 10", "token_bucket")
FEED: Final = Route("/feed", "50/s; 120/3s", "sliding_window")
LOGIN: Final = Route("/login", "5/s", "fixed_window")
EXPORT: Final = Route("/export", "2/s burst 3", "gcra", timeout=1.2)

ROUTES: Final = (SEARCH, FEED, LOGIN, EXPORT)

SHARED_KEY: Final = "export:everyone"


@dataclass(frozen=True)
class Client:
    """A caller: the name it sends as `X-Client`, its own loopback address, and its manners."""

    name: str
    address: str
    manners: str


ALICE: Final = Client("alice", "127.0.0.2", "polite")
BOB: Final = Client("bob", "127.0.0.3", "bursty")
MALLORY: Final = Client("mallory", "127.0.0.4", "abusive")
JOBS: Final = tuple(Client(f"job-{n}", f"127.0.0.{10 + n}", "batch") for n in (1, 2, 3, 4))

CLIENTS: Final = (ALICE, BOB, MALLORY, *JOBS)


@dataclass(frozen=True)
class Load:
    """What one client does on one route: `burst` requests at once, every `every` seconds.

    `connections` is the number of threads, each with a connection of its own, that share the work.
    """

    client: Client
    route: Route
    every: float
    burst: int = 1
    connections: int = 1


LOADS: Final = (
    Load(ALICE, SEARCH, every=1 / 12),
    Load(BOB, SEARCH, every=1.0, burst=28, connections=4),
    Load(MALLORY, SEARCH, every=1 / 100, connections=4),
    Load(ALICE, FEED, every=1 / 20),
    Load(BOB, FEED, every=0.8, burst=64, connections=4),
    Load(MALLORY, FEED, every=1 / 120, connections=4),
    Load(ALICE, LOGIN, every=0.5),
    Load(MALLORY, LOGIN, every=1 / 25, connections=2),
    *(Load(job, EXPORT, every=0.25) for job in JOBS),
)


def key_of(route: Route, client: str) -> str:
    """The limiter's key for this client on this route; `/export` has one key for all."""
    return SHARED_KEY if route is EXPORT else f"{route.name}:{client}"


def keys() -> Mapping[str, Route]:
    """Every key that the scenario uses, with its route, in the order in which they are shown."""
    return {key_of(load.route, load.client.name): load.route for load in LOADS}

"""Where snapshots come from, as SOURCE names it.

Each source has `name`, for messages, with the password masked, and `snapshot(search, sort, limit)`,
which raises `StoreUnavailableError` where nobody answers and `Refused` where who answers will not.
"""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING, Any, Protocol
from urllib.parse import urlencode

from headway._snapshot import Snapshot
from headway.commands.parser import Refused
from headway.exceptions import StoreUnavailableError

if TYPE_CHECKING:
    from headway.commands.service import Service
    from headway.store import RedisStore

__all__ = ["NamedSource", "source_of"]

WOULD_DO = "redis://…, shm:///… or the http://… of a service"
_CALLED = "argument SOURCE"
DEFAULT_TENANT = "default"
SERVICE_MOST = 1000
"""Keys that a service tells at once."""


class NamedSource(Protocol):
    """A source that messages can name."""

    @property
    def name(self) -> str:
        """Its URL, the password masked."""
        ...

    @property
    def note(self) -> str:
        """What whoever looks should know of it; empty for nothing."""
        ...

    def snapshot(self, search: str = "", sort: str = "denied", limit: int = 100) -> Snapshot:
        """What is going on now."""
        ...


def source_of(url: str | None, token_file: str | None = None) -> NamedSource:
    """The source that a URL names, or REDIS_URL without one. Raises Refused."""
    from headway._redis_url import SCHEMES, masked

    called = _CALLED
    if url is None:
        url, called = os.environ.get("REDIS_URL") or None, "REDIS_URL"
    if url is None:
        raise Refused(f"{_CALLED}: not given, and REDIS_URL is not set; must be {WOULD_DO}")
    scheme, separator, _ = url.partition("://")
    if not separator:
        raise Refused(f"{called}: {masked(url)!r}, must be {WOULD_DO}")
    if scheme in ("http", "https"):
        from headway.commands.service import Service

        return ServiceSource(Service(url, called, token_file))
    if token_file is not None:
        raise Refused(f"argument --token-file: {token_file!r}, only a service asks for a token")
    if scheme == "memory":
        raise Refused(
            f"{called}: {url!r} is memory of one process, which no other can look into; let the "
            f"program publish with Activity(publish='redis://…'), or take {WOULD_DO}"
        )
    if scheme == "shm":
        from headway.top.shared import SharedMemorySource

        return SharedMemorySource(url, called)
    if scheme in SCHEMES:
        from headway.commands.targets import store_of

        return RedisSource(store_of(url, called), masked(url))  # type: ignore[arg-type]
    raise Refused(f"{called}: {masked(url)!r}, nothing is published there; must be {WOULD_DO}")


class ServiceSource:
    """A `headway serve`."""

    note = ""

    def __init__(self, service: Service) -> None:
        self._service = service

    @property
    def name(self) -> str:
        """Its URL."""
        return self._service.name

    def snapshot(self, search: str = "", sort: str = "denied", limit: int = 100) -> Snapshot:
        """What the service counted; of one tenant, or all, as the token says."""
        asked = {"search": search, "sort": sort, "limit": min(limit, SERVICE_MOST)}
        query = urlencode(asked, errors="replace")
        status, body = self._service.ask("GET", f"/v1/keys?{query}")
        if status in (401, 403):
            said = "does not accept the token" if self._service.token else "asks for a token"
            raise Refused(f"{self.name} {said}; give --token-file, or set HEADWAY_TOKEN")
        if status != 200:
            raise StoreUnavailableError(f"{self.name} cannot answer: it says {status}.")
        try:
            return Snapshot.from_json(_with_tenants(json.loads(body)))
        except (AttributeError, KeyError, TypeError, ValueError):
            raise StoreUnavailableError(
                f"{self.name} cannot answer: what it says is not what a headway serve says."
            ) from None


def _with_tenants(data: Any) -> Any:
    """A key of a tenant, with its name in front: another tenant may have a key of that name."""
    for row in data["keys"]:
        if row.get("tenant", DEFAULT_TENANT) != DEFAULT_TENANT:
            row["key"] = f"{row['tenant']}: {row['key']}"
    return data


class RedisSource:
    """A Redis server: what processes publish there, or, where none does, the keys alone."""

    def __init__(self, store: RedisStore, name: str) -> None:
        from headway._activity_redis import PublishedSource
        from headway.top.scan import ScannedSource

        self.name = name
        self._published = PublishedSource(store)
        self._scanned = ScannedSource(store)
        self._publishes = False

    @property
    def note(self) -> str:
        """Why counts are missing, if they are."""
        return "" if self._publishes else self._scanned.note

    def snapshot(self, search: str = "", sort: str = "denied", limit: int = 100) -> Snapshot:
        """What is known."""
        self._publishes = self._published.exists()
        source = self._published if self._publishes else self._scanned
        return source.snapshot(search, sort, limit)

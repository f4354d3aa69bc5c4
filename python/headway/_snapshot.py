"""What those who watch look at: keys with what they did, at one instant.

An `Activity` makes snapshots of what a process counted, a server of what many did, and the service
sends them as JSON. All choose, sort and cut in one way: `Snapshot.of`.
"""

import math
import time
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any, Protocol

__all__ = ["SORTS", "KeyActivity", "Snapshot", "Source", "after", "rank", "text_of"]

SORTS = ("denied", "admitted", "waiting", "remaining", "recent", "key")
"""What a snapshot can be sorted by: most first; the smallest share that remains first; by name."""
REFILLING = frozenset({"gcra", "token_bucket", "leaking_bucket"})
"""Algorithms whose quota comes back steadily, the windows' all at once."""


@dataclass(frozen=True, slots=True)
class KeyActivity:
    """One key with one quota. What remains is worked out from the last decision."""

    key: str
    """Bytes that are no UTF-8 are written as `\\xff`, lone surrogates of text as `\\udcff`."""
    algorithm: str
    quota: str
    """In the quota language, or empty where nobody said."""
    limit: int | None
    """None where no decision has been seen, only waiters."""
    remaining: int | None
    admitted: int | None
    """Requests since the counting began. None where a store cannot tell, as for `denied`."""
    denied: int | None
    waiting: int
    """Calls that have asked and have no answer yet."""
    reset_after: float
    """Seconds until all of the quota is there again."""
    last_seen: float
    """Seconds since the epoch; 0.0 where a store cannot tell."""

    def as_json(self) -> dict[str, Any]:
        """What the service answers of it, ready for `json.dumps`."""
        return {name: getattr(self, name) for name in _SENT}


_SENT = tuple(name for name in KeyActivity.__slots__ if name != "last_seen")


@dataclass(frozen=True, slots=True)
class Snapshot:
    """What was going on at one instant."""

    now: float
    """Seconds since the epoch."""
    admitted: int
    """Requests of all keys, of those too that are not shown or have made room."""
    denied: int
    total: int
    """How many keys match the search; `keys` are the first of them."""
    keys: tuple[KeyActivity, ...]

    def as_json(self) -> dict[str, Any]:
        """What `GET /v1/keys` of the service answers, ready for `json.dumps`."""
        return {**self.totals_as_json(), "keys": [key.as_json() for key in self.keys]}

    def totals_as_json(self) -> dict[str, Any]:
        """`as_json` without the keys."""
        return {
            "now": self.now,
            "admitted": self.admitted,
            "denied": self.denied,
            "total": self.total,
        }

    @classmethod
    def from_json(cls, data: Any) -> "Snapshot":
        """The snapshot that `as_json` was made of. Raises ValueError for anything else."""
        try:
            keys = []
            for key in data["keys"]:
                keys.append(
                    KeyActivity(
                        key=_name(key["key"]),
                        algorithm=_name(key["algorithm"]),
                        quota=_name(key["quota"]),
                        limit=_count(key["limit"]),
                        remaining=_count(key["remaining"]),
                        admitted=_count(key["admitted"]),
                        denied=_count(key["denied"]),
                        waiting=int(key["waiting"]),
                        reset_after=_seconds(key["reset_after"]),
                        last_seen=_seconds(key.get("last_seen", 0.0)),
                    )
                )
            admitted, denied, total = (int(data[name]) for name in ("admitted", "denied", "total"))
            return cls(_seconds(data["now"]), admitted, denied, total, tuple(keys))
        except (AttributeError, KeyError, TypeError, ValueError, OverflowError) as error:
            raise ValueError(f"Invalid snapshot: {error}.") from None

    @classmethod
    def of(
        cls,
        now: float,
        admitted: int,
        denied: int,
        keys: Iterable[KeyActivity],
        search: str = "",
        sort: str = "denied",
        limit: int = 100,
    ) -> "Snapshot":
        """Choose from `keys`: those with `search` in their name, sorted, the first `limit`.

        Raises ValueError for a sort that is not in `SORTS` or a limit below 0.
        """
        if sort not in SORTS:
            raise ValueError(f"Invalid sort: {sort!r}, must be one of {', '.join(SORTS)}.")
        if limit < 0:
            raise ValueError(f"Invalid limit: {limit!r}, must be 0 or more.")
        wanted = search.casefold()
        found = [key for key in keys if wanted in key.key.casefold()]
        found.sort(key=lambda key: (rank(key, sort), key.key, key.algorithm, key.quota))
        return cls(now, admitted, denied, len(found), tuple(found[:limit]))

    @classmethod
    def merged(
        cls, snapshots: Iterable["Snapshot"], sort: str = "denied", limit: int = 100
    ) -> "Snapshot":
        """Several snapshots as one, such as those of all tenants of a service."""
        parts = list(snapshots)
        keys = (key for part in parts for key in part.keys)
        now = max((part.now for part in parts), default=time.time())
        admitted, denied = sum(part.admitted for part in parts), sum(part.denied for part in parts)
        chosen = cls.of(now, admitted, denied, keys, "", sort, limit)
        return replace(chosen, total=sum(part.total for part in parts))


class Source(Protocol):
    """Where snapshots come from: an `Activity`, a server, a service."""

    def snapshot(self, search: str = "", sort: str = "denied", limit: int = 100) -> Snapshot:
        """What is going on now. Raises StoreUnavailableError where nobody answers."""
        ...


def text_of(key: str | bytes) -> str:
    """A key as people read it, and as text that is UTF-8: a lone surrogate is `\\udcff`."""
    if isinstance(key, bytes):
        return key.decode("utf-8", "backslashreplace")
    return key if key.isascii() else key.encode("utf-8", "backslashreplace").decode()


def after(
    algorithm: str, limit: int, remaining: int, reset_after: float, age: float
) -> tuple[int, float]:
    """What remains, and seconds until all is back, `age` seconds after a decision said so.

    A bucket refills steadily, so this is right to a token; a window is taken to refill at its end.
    """
    if age >= reset_after:
        return limit, 0.0
    if algorithm in REFILLING:
        remaining += int((limit - remaining) * (age / reset_after))
    return remaining, reset_after - age


def rank(key: KeyActivity, sort: str) -> float:
    """What to sort by, least first. What is not known comes last."""
    if sort == "key":
        return 0.0
    if sort == "remaining":
        return key.remaining / max(key.limit, 1) if key.remaining is not None and key.limit else 2.0
    counts = {"denied": key.denied, "admitted": key.admitted, "waiting": key.waiting}
    return -(key.last_seen if sort == "recent" else counts[sort] or 0)


def _name(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{value!r} is no name")
    return value


def _seconds(value: Any) -> float:
    seconds = float(value)
    if not math.isfinite(seconds):
        raise ValueError(f"{value!r} is no time")
    return seconds


def _count(value: Any) -> int | None:
    return None if value is None else int(value)

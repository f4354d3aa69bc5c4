"""What limiters do, for those who watch: which keys come, who is admitted, denied, kept waiting.

    activity = Activity()
    throttle = Throttled(quota="100/s", hooks=[ActivityHook(activity)])
    activity.snapshot(sort="denied", limit=10).keys

The one fact behind this file: a record adds to two counters and keeps the decision's result as it
is, about a microsecond, and everything else (what remains by now, order, search) is worked out when
somebody looks. It holds `max_keys` keys at most; the longest unseen make room, and one that was
denied counts as seen ten minutes later than it was. Totals stay right whoever makes room.

What is counted are requests. One that costs nothing only looks, and is not counted.
With `publish`, processes add what they count to a Redis server: see `headway._activity_redis`.
"""

import heapq
import os
import threading
import time
from bisect import bisect_left
from collections.abc import Awaitable, Callable, Generator
from dataclasses import replace
from typing import TYPE_CHECKING
from weakref import WeakSet

from headway._core import RateLimitResult
from headway._snapshot import SORTS, KeyActivity, Snapshot, Source, after, rank, text_of
from headway.exceptions import SetUpError
from headway.hooks import AsyncHook, Hook, HookContext

if TYPE_CHECKING:
    from headway._activity_redis import Publisher
    from headway._core import RedisStore

__all__ = [
    "Activity",
    "ActivityHook",
    "AsyncActivityHook",
    "Family",
    "KeyActivity",
    "SORTS",
    "Snapshot",
    "Source",
    "WAITS",
    "published",
]

WAITS = (0.0, 0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1.0, 5.0, 10.0, 60.0)
"""Upper bounds, in seconds, of the ranges in which waits are counted; one more is above all."""
DENIAL_KEEPS = 600.0
"""A key that was denied makes room as if it had been seen so many seconds later."""


class Family:
    """What the keys of one algorithm in one kind of store did together."""

    __slots__ = ("admitted", "algorithm", "denied", "spent", "store", "waited", "waiting", "waits")

    def __init__(self, algorithm: str, store: str) -> None:
        self.algorithm = algorithm
        self.store = store
        self.admitted = 0
        self.denied = 0
        self.spent = 0
        """What was admitted, by its cost."""
        self.waiting = 0
        self.waits = [0] * (len(WAITS) + 1)
        """How many waits were in each range of `WAITS`, none of them counted twice."""
        self.waited = 0.0
        """Seconds, all together."""


_Ident = tuple[str | bytes, str, str, str]
_Seen = tuple[_Ident, int, int, int, RateLimitResult | None, float]
"""An entry as a snapshot sees it: admitted, denied, waiting, the last result, when it was seen."""
_Candidate = tuple[float, str, tuple[str, str, str], int, _Seen]
"""Its rank, what decides among equals, a number of its own, and the entry."""
_AT_ONCE = 32
"""Keys of a step of a snapshot; a search in long keys takes some microseconds for each."""
_FIRST: dict[str, Callable[[_Seen], float]] = {
    "admitted": lambda seen: -seen[1],
    "denied": lambda seen: -seen[2],
    "waiting": lambda seen: -seen[3],
    "recent": lambda seen: -seen[5],
    "key": lambda seen: 0.0,
}
"""`rank` of `_snapshot`, before a key is made: of all sorts but one that has to be worked out."""


class _Entry:
    """One key, algorithm, quota and kind of store. `seen` is by the monotonic clock."""

    __slots__ = ("admitted", "denied", "family", "result", "seen", "taken", "waiting")

    def __init__(self, family: Family) -> None:
        self.family = family
        self.admitted = 0
        self.denied = 0
        self.waiting = 0
        self.result: RateLimitResult | None = None
        self.seen = time.monotonic()
        self.taken = (0, 0)
        """What was admitted and denied when the publisher last looked."""


class Activity:
    """A record of what limiters do, for any number of threads and tasks.

    `publish` is the URL of a Redis server or a `RedisStore`: what is counted here is then added to
    what other processes count, once a second, and `headway top URL` shows the sum. Raises
    `SetUpError` for another store, ValueError for a `max_keys` that is not a positive integer.
    """

    def __init__(self, max_keys: int = 10_000, *, publish: object = None) -> None:
        if isinstance(max_keys, bool) or not isinstance(max_keys, int) or max_keys < 1:
            raise ValueError(f"Invalid max_keys: {max_keys!r}, must be a positive integer.")
        self.max_keys = max_keys
        self._publisher: Publisher | None = None
        if publish is not None:
            self._publisher = _publisher(self, publish)
        self._start_anew()
        _all.add(self)

    def _start_anew(self) -> None:
        """Forget all: also what a fork's child does, whose parent goes on counting the old."""
        # Re-entrant: a signal handler or a finalizer may decide in the midst of a record.
        self._lock = threading.RLock()
        self._entries: dict[_Ident, _Entry] = {}
        self._families: dict[tuple[str, str], Family] = {}
        if self._publisher is not None:
            self._publisher.start_anew()

    def record(
        self,
        key: str | bytes,
        algorithm: str,
        quota: str,
        result: RateLimitResult,
        cost: int = 1,
        waited: float = 0.0,
        store: str = "",
    ) -> None:
        """Count a decision. `waited` is how many seconds the caller was kept, `store` its kind."""
        if cost == 0:
            return
        ident = (key, algorithm, quota, store)
        limited = result.limited
        now = time.monotonic()
        with self._lock:
            entry = self._entries.get(ident) or self._enter(ident)
            family = entry.family
            if limited:
                entry.denied += 1
                family.denied += 1
            else:
                entry.admitted += 1
                family.admitted += 1
                family.spent += cost
            entry.result = result
            entry.seen = now
            if waited > 0:
                family.waits[bisect_left(WAITS, waited)] += 1
                family.waited += waited
            else:
                family.waits[0] += 1

    def begin_wait(self, key: str | bytes, algorithm: str, quota: str, store: str = "") -> None:
        """Say that a call has asked and may be kept waiting; `end_wait` must follow."""
        ident = (key, algorithm, quota, store)
        with self._lock:
            entry = self._entries.get(ident) or self._enter(ident)
            entry.waiting += 1
            entry.family.waiting += 1

    def end_wait(self, key: str | bytes, algorithm: str, quota: str, store: str = "") -> None:
        """Say that a call has its answer, or has gone."""
        with self._lock:
            entry = self._entries.get((key, algorithm, quota, store))
            if entry is not None and entry.waiting:
                entry.waiting -= 1
                entry.family.waiting -= 1

    def reset(self, key: str | bytes, algorithm: str, quota: str, store: str = "") -> None:
        """Say that a key's quota was given back. Its counts stay."""
        with self._lock:
            entry = self._entries.get((key, algorithm, quota, store))
            if entry is not None and entry.result is not None:
                state = entry.result.state
                fresh = type(state)(state.limit, state.limit, 0, 0)
                entry.result = type(entry.result)(False, fresh)

    def snapshot(self, search: str = "", sort: str = "denied", limit: int = 100) -> Snapshot:
        """The first `limit` keys in the order of `sort` (one of `SORTS`) with `search` in them."""
        looking = self._looking(search, sort, limit, self.max_keys)
        while True:
            try:
                next(looking)
            except StopIteration as end:
                snapshot: Snapshot = end.value
                return snapshot

    def snapshot_in_steps(
        self, search: str = "", sort: str = "denied", limit: int = 100
    ) -> Generator[None, None, Snapshot]:
        """`snapshot` for an event loop: it yields after some keys, and returns what it has found.

        Keys that are counted meanwhile are seen as they are when their turn comes.
        """
        return self._looking(search, sort, limit, _AT_ONCE)

    def totals(self) -> tuple[int, int, int]:
        """How many requests were admitted and denied, and how many keys are known."""
        with self._lock:
            admitted = sum(family.admitted for family in self._families.values())
            denied = sum(family.denied for family in self._families.values())
            return admitted, denied, len(self._entries)

    def _looking(
        self, search: str, sort: str, limit: int, at_once: int
    ) -> Generator[None, None, Snapshot]:
        """A snapshot in steps of `at_once` keys; each step's keys are of one instant."""
        monotonic, now = time.monotonic(), time.time()
        with self._lock:
            admitted, denied, _ = self.totals()
            entries = list(self._entries.items())
            seen = _seen(entries[:at_once])
        nothing = Snapshot.of(now, admitted, denied, (), "", sort, limit)  # checks the arguments
        wanted, order = search.casefold(), _FIRST.get(sort)
        best: list[_Candidate] = []
        total = 0
        for start in range(0, len(entries), at_once):
            if start:
                yield
                with self._lock:
                    seen = _seen(entries[start : start + at_once])
            found = []
            last = best[-1][:3] if len(best) == limit > 0 else None
            for one in seen:
                text = text_of(one[0][0])
                if wanted and wanted not in text.casefold():
                    continue
                total += 1
                # "remaining" has to be worked out; the others are ranked before a key is made.
                first = order(one) if order else rank(_key_activity(one, monotonic, now), sort)
                place = (first, text, one[0][1:])
                if last is None or place < last:
                    found.append((*place, total, one))
            if found and limit:
                best = heapq.nsmallest(limit, best + found)
        keys = []
        for number, candidate in enumerate(best):
            if number and not number % at_once:
                yield
            keys.append(_key_activity(candidate[-1], monotonic, now))
        return replace(nothing, total=total, keys=tuple(keys))

    def families(self) -> list[Family]:
        """Copies of the counts of each algorithm and kind of store, for collectors of metrics."""
        with self._lock:
            return [_copy(family) for family in self._families.values()]

    def publish(self) -> None:
        """Publish now what is not published yet, where there is a server to publish to.

        Raises `StoreUnavailableError`; what could not be published is tried again in a second.
        """
        if self._publisher is not None:
            self._publisher.tell()

    def _enter(self, ident: _Ident) -> _Entry:
        """Make the entry of a key that is new. The lock is held."""
        if len(self._entries) >= self.max_keys:
            self._make_room()
        _, algorithm, _, store = ident
        family = self._families.get((algorithm, store))
        if family is None:
            family = self._families[algorithm, store] = Family(algorithm, store)
        entry = self._entries[ident] = _Entry(family)
        if self._publisher is not None:
            self._publisher.wake()
        return entry

    def _make_room(self) -> None:
        """Let an eighth of the keys go, so that many newcomers share the cost of choosing."""
        order = sorted(
            self._entries.items(),
            key=lambda item: (
                item[1].waiting > 0,
                item[1].seen + (DENIAL_KEEPS if item[1].denied else 0.0),
            ),
        )
        for ident, entry in order[: max(1, self.max_keys // 8)]:
            if self._publisher is not None:
                self._publisher.leaves(ident, entry)
            entry.family.waiting -= entry.waiting  # nobody will find it, to take them off
            del self._entries[ident]


class _QuotaText:
    """The text of a limiter's quota, made once."""

    __slots__ = ("_fixed", "_known")

    def __init__(self, fixed: str | None) -> None:
        self._fixed = fixed
        self._known: tuple[object, str] = (None, "")

    def of(self, context: HookContext) -> str:
        if self._fixed is not None:
            return self._fixed
        quota, text = self._known
        if context.quota is not quota:
            quota = context.quota
            rules = quota if isinstance(quota, tuple) else () if quota is None else (quota,)
            text = "; ".join(map(str, rules))
            self._known = quota, text
        return text


class ActivityHook(Hook):
    """Feeds an `Activity` with the decisions of a `Throttled`: `Throttled(hooks=[it])`.

    `quota` is what is shown beside its keys, where it is not to be the limiter's own as text.
    """

    def __init__(self, activity: Activity, quota: str | None = None) -> None:
        self._activity = activity
        self._quota = _QuotaText(quota)

    def on_limit(
        self, call_next: Callable[[], RateLimitResult], context: HookContext
    ) -> RateLimitResult:
        who = (context.key, context.algorithm, self._quota.of(context), context.store_type)
        activity = self._activity
        activity.begin_wait(*who)
        started = time.perf_counter()
        try:
            result = call_next()
        finally:
            activity.end_wait(*who)
        waited = time.perf_counter() - started
        activity.record(*who[:3], result, context.cost, waited, context.store_type)
        return result


class AsyncActivityHook(AsyncHook):
    """`ActivityHook` for `headway.asyncio.Throttled`."""

    def __init__(self, activity: Activity, quota: str | None = None) -> None:
        self._activity = activity
        self._quota = _QuotaText(quota)

    async def on_limit(
        self, call_next: Callable[[], Awaitable[RateLimitResult]], context: HookContext
    ) -> RateLimitResult:
        who = (context.key, context.algorithm, self._quota.of(context), context.store_type)
        activity = self._activity
        activity.begin_wait(*who)
        started = time.perf_counter()
        try:
            result = await call_next()
        finally:
            activity.end_wait(*who)
        waited = time.perf_counter() - started
        activity.record(*who[:3], result, context.cost, waited, context.store_type)
        return result


def _seen(entries: list[tuple[_Ident, _Entry]]) -> list[_Seen]:
    """Entries as they are. The lock is held."""
    return [
        (ident, entry.admitted, entry.denied, entry.waiting, entry.result, entry.seen)
        for ident, entry in entries
    ]


def _key_activity(seen: _Seen, monotonic: float, now: float) -> KeyActivity:
    """An entry as it is now, some time after its last decision."""
    (key, algorithm, quota, _), admitted, denied, waiting, result, at = seen
    age = max(0.0, monotonic - at)
    limit = remaining = None
    reset_after = 0.0
    if result is not None:
        state = result.state
        limit = state.limit
        remaining, reset_after = after(algorithm, limit, state.remaining, state.reset_after, age)
    return KeyActivity(
        key=text_of(key),
        algorithm=algorithm,
        quota=quota,
        limit=limit,
        remaining=remaining,
        admitted=admitted,
        denied=denied,
        waiting=waiting,
        reset_after=reset_after,
        last_seen=now - age,
    )


def published(store: object) -> Source:
    """What all processes have published to a Redis server: a `RedisStore`, its URL, or a client.

    Its `snapshot` raises `StoreUnavailableError` where the server does not answer.
    """
    from headway._activity_redis import PublishedSource

    return PublishedSource(_redis_store(store, "store"))


def _copy(family: Family) -> Family:
    copy = Family(family.algorithm, family.store)
    copy.admitted, copy.denied, copy.spent = family.admitted, family.denied, family.spent
    copy.waiting, copy.waits, copy.waited = family.waiting, list(family.waits), family.waited
    return copy


def _publisher(activity: Activity, place: object) -> "Publisher":
    from headway._activity_redis import Publisher

    return Publisher(activity, _redis_store(place, "publish"))


def _redis_store(place: object, argument: str) -> "RedisStore":
    from headway.store import RedisStore, from_any

    store = from_any(place)
    if not isinstance(store, RedisStore):
        raise SetUpError(
            f"Invalid {argument}: {place!r}, must be a RedisStore or its URL, such as "
            "'redis://localhost:6379/0'."
        )
    return store


_all: "WeakSet[Activity]" = WeakSet()


def start_anew() -> None:
    """In a fork's child: what was counted before belongs to the parent."""
    for activity in list(_all):
        activity._start_anew()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=start_anew)

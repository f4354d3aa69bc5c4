"""Activity of many processes on a Redis server: each adds what it counted, readers see the sum.

Once a second a thread sends the differences since the last time, in portions; one script adds them.
So the counts outlive their process, and a server that is gone for a while misses nothing but time.
Who waits is no count: each process says how many wait at it, and is believed for five seconds.

Four keys, in one slot of a cluster, which expire an hour after the last word of anybody:

    {headway:activity}:counts    hash   ident -> admitted denied limit remaining reset_ms seen_ms
    {headway:activity}:seen      zset   ident -> seen_ms: who has been unseen for longest goes first
    {headway:activity}:totals    hash   admitted, denied: of all keys, gone ones too
    {headway:activity}:waiting   hash   process -> instant in ms, and JSON: ident -> waiters

An ident is a JSON array: key, algorithm, quota, kind of store. Instants are the server's.
"""

import atexit
import itertools
import json
import logging
import os
import secrets
import threading
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any
from weakref import WeakSet, ref

from headway._snapshot import KeyActivity, Snapshot, after, text_of
from headway.exceptions import SetUpError, StoreUnavailableError

if TYPE_CHECKING:
    from headway._core import RedisStore
    from headway.activity import Activity

__all__ = ["PublishedSource", "Publisher"]

INTERVAL = 1.0
"""Seconds between two words of a process."""
BELIEVED = 5.0
"""For so many seconds a process is believed that calls wait at it."""
LIVES = 3600
"""Seconds after which all is forgotten where nobody publishes."""
PORTION = 500
"""Keys of one request."""
KEY_MOST = 512
"""Characters of a key that are published."""

COUNTS, SEEN, TOTALS, WAITING = (
    f"{{headway:activity}}:{name}".encode() for name in ("counts", "seen", "totals", "waiting")
)
_KEYS = (COUNTS, SEEN, TOTALS, WAITING)

# ARGV: most keys, TTL in s, process, its waiters, admitted, denied; then of each key: ident,
# admitted, denied, limit, remaining, ms until it is reset (limit -1: no decision seen).
_ADD = """
local call, whole = redis.call, '%.0f'
if redis.replicate_commands and not redis.REDIS_VERSION_NUM then redis.replicate_commands() end
local time = call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
for i = 7, #ARGV, 6 do
  local ident, admitted, denied, limit, remaining, reset = unpack(ARGV, i, i + 5)
  local old = call('HGET', KEYS[1], ident)
  local a, d, l, r, at = string.match(old or '0 0 -1 0 0 ', '^(%d+) (%d+) (-?%d+) (%d+) (%d+) ')
  if tonumber(limit) >= 0 then
    l, r, at = limit, remaining, string.format(whole, now + reset)
  end
  a, d = string.format(whole, a + admitted), string.format(whole, d + denied)
  local seen = string.format(whole, now)
  call('HSET', KEYS[1], ident, table.concat({a, d, l, r, at, seen}, ' '))
  call('ZADD', KEYS[2], now, ident)
end
local over = call('ZCARD', KEYS[2]) - ARGV[1]
if over > 0 then
  for _, ident in ipairs(call('ZRANGE', KEYS[2], 0, math.min(over, 1000) - 1)) do
    call('HDEL', KEYS[1], ident)
    call('ZREM', KEYS[2], ident)
  end
end
call('HINCRBY', KEYS[3], 'admitted', ARGV[5])
call('HINCRBY', KEYS[3], 'denied', ARGV[6])
if ARGV[4] == '' then
  call('HDEL', KEYS[4], ARGV[3])
else
  call('HSET', KEYS[4], ARGV[3], string.format(whole, now) .. ' ' .. ARGV[4])
end
local processes = call('HGETALL', KEYS[4])
for i = 1, #processes, 2 do
  if (tonumber(string.match(processes[i + 1], '^%d+')) or 0) < now - 60000 then
    call('HDEL', KEYS[4], processes[i])
  end
end
for i = 1, #KEYS do
  call('EXPIRE', KEYS[i], ARGV[2])
end
return 1
"""

_READ = """
local call = redis.call
local time = call('TIME')
local now = string.format('%.0f', time[1] * 1000 + math.floor(time[2] / 1000))
return {now, call('HGETALL', KEYS[1]), call('HGETALL', KEYS[3]), call('HGETALL', KEYS[4])}
"""


class _Difference:
    """What one key did since the server was told."""

    __slots__ = ("admitted", "denied", "report")

    def __init__(self) -> None:
        self.admitted = 0
        self.denied = 0
        self.report: tuple[int, int, int] = (-1, 0, 0)
        """Limit, remaining, ms until it is reset. A limit of -1: nobody has decided."""


class Publisher:
    """What one `Activity` has not told the server yet, and the thread that tells it."""

    def __init__(self, activity: "Activity", store: "RedisStore") -> None:
        check_asks(store, "publish")
        self._store = store
        self._activity = ref(activity)
        self._max_keys = activity.max_keys
        self.start_anew()
        _all.add(self)

    def start_anew(self) -> None:
        """Begin with nothing to tell; a fork's child does so too, under a name of its own."""
        self._process = f"{os.getpid()}-{secrets.token_hex(6)}"
        self._telling = threading.Lock()
        self._thread: threading.Thread | None = None
        self._taken_totals = (0, 0)
        self._untold: dict[str, _Difference] = {}
        self._untold_totals = [0, 0]
        self._told_waiters = ""
        self._silent = False

    def wake(self) -> None:
        """There is something to tell. The activity's lock is held."""
        if self._thread is None:
            self._thread = threading.Thread(
                target=_publish_for, args=(ref(self),), name="headway-activity", daemon=True
            )
            try:
                self._thread.start()
            except RuntimeError:  # the interpreter shuts down, or no thread can be had
                self._thread = None

    def leaves(self, ident: tuple[str | bytes, str, str, str], entry: Any) -> None:
        """A key makes room in the activity, whose lock is held."""
        self._take(ident, entry)

    def _take(self, ident: tuple[str | bytes, str, str, str], entry: Any) -> None:
        """Note what a key did since it was last looked at."""
        counts, before = (entry.admitted, entry.denied), entry.taken
        if counts == before:
            return
        entry.taken = counts
        name = ident_text(ident)
        untold = self._untold.get(name)
        if untold is None:
            if len(self._untold) >= self._max_keys:  # the server has not answered for long
                return
            untold = self._untold[name] = _Difference()
        untold.admitted += counts[0] - before[0]
        untold.denied += counts[1] - before[1]
        if entry.result is not None:
            state = entry.result.state
            untold.report = (state.limit, state.remaining, int(state.reset_after * 1000))

    def tell(self) -> None:
        """Send what is new. Raises StoreUnavailableError, and then what is new remains so."""
        activity = self._activity()
        if activity is None:
            return
        with self._telling:
            waiters: dict[str, int] = {}
            with activity._lock:
                for ident, entry in activity._entries.items():
                    self._take(ident, entry)
                    if entry.waiting:
                        waiters[ident_text(ident)] = entry.waiting
                families = activity._families.values()
                admitted = sum(family.admitted for family in families)
                denied = sum(family.denied for family in families)
                self._untold_totals[0] += admitted - self._taken_totals[0]
                self._untold_totals[1] += denied - self._taken_totals[1]
                self._taken_totals = (admitted, denied)
            self._send(activity, json.dumps(waiters) if waiters else "")

    def _send(self, activity: "Activity", waiters: str) -> None:
        while self._untold or any(self._untold_totals) or waiters or self._told_waiters:
            with activity._lock:
                names = list(itertools.islice(self._untold, PORTION))
                portion = {name: self._untold.pop(name) for name in names}
                totals, self._untold_totals = self._untold_totals, [0, 0]
            words: list[str | int] = [self._max_keys, LIVES, self._process, waiters, *totals]
            for name, new in portion.items():
                words += (name, new.admitted, new.denied, *new.report)
            try:
                ask(self._store, _ADD, words)
            except StoreUnavailableError as error:
                # What may have been added is not added again: rather too low a count than too high.
                if not getattr(error, "may_have_counted", False):
                    self._untold = self._put_back(activity, portion, totals)
                raise
            self._told_waiters = waiters
            if not self._untold:
                return

    def _put_back(
        self, activity: "Activity", portion: dict[str, _Difference], totals: list[int]
    ) -> dict[str, _Difference]:
        with activity._lock:
            for name, newer in self._untold.items():
                old = portion.setdefault(name, newer)
                if old is not newer:
                    old.admitted += newer.admitted
                    old.denied += newer.denied
                    old.report = newer.report
            self._untold_totals = [
                old + new for old, new in zip(totals, self._untold_totals, strict=True)
            ]
        return portion

    def tell_or_log(self) -> None:
        """As `tell`, for who has nobody to raise to. A silence of the server is logged once."""
        try:
            self.tell()
        except Exception as error:
            if not self._silent:
                self._silent = True
                _logger.warning("Activity is not published for now: %s", error)
        else:
            if self._silent:
                self._silent = False
                _logger.info("Activity is published again to %s.", self._store.server)


def _publish_for(publisher_ref: "ref[Publisher]") -> None:
    """Tell the server once a second until the publisher is gone."""
    while True:
        time.sleep(INTERVAL)
        publisher = publisher_ref()
        if publisher is None or publisher._activity() is None:
            return
        publisher.tell_or_log()
        del publisher


class PublishedSource:
    """What all processes have published to a server."""

    def __init__(self, store: "RedisStore") -> None:
        check_asks(store, "source")
        self._store = store

    def exists(self) -> bool:
        """Whether anybody has published within the hour. Raises StoreUnavailableError."""
        return bool(int(self._store._run(None, (TOTALS,), ("EXISTS", TOTALS))))

    def snapshot(self, search: str = "", sort: str = "denied", limit: int = 100) -> Snapshot:
        """What is going on now, in all processes. Raises StoreUnavailableError."""
        now_ms, counts, totals, waiting = ask(self._store, _READ, ())
        now = int(now_ms) / 1000
        waiters = _waiters(waiting, now)
        rows = dict(_pairs(counts))
        keys = []
        for name in rows.keys() | waiters.keys():
            key = _key_activity(name, rows.get(name), waiters.get(name, 0), now)
            if key is not None:
                keys.append(key)
        total = {_text(name): int(count) for name, count in _pairs(totals)}
        admitted, denied = total.get("admitted", 0), total.get("denied", 0)
        return Snapshot.of(now, admitted, denied, keys, search, sort, limit)


def check_asks(store: "RedisStore", argument: str) -> None:
    """Raise SetUpError for a store with a client that only an event loop can use."""
    if store._client is not None and store._client.awaits:
        raise SetUpError(
            f"Invalid {argument}: {store.server} is a client for asyncio, which a thread cannot "
            "ask. Give a URL, or a client such as redis.Redis."
        )


def ask(store: "RedisStore", script: str, words: Any) -> Any:
    """Run a script on the keys of the activity. Raises StoreUnavailableError."""
    return store._run(None, (COUNTS,), ("EVAL", script, len(_KEYS), *_KEYS, *words))


def ident_text(ident: tuple[str | bytes, str, str, str]) -> str:
    """How a key with its quota is called on the server; very long keys are cut."""
    key, *rest = ident
    text = text_of(key)
    return json.dumps([text if len(text) <= KEY_MOST else f"{text[:KEY_MOST]}…", *rest])


def _text(word: Any) -> str:
    return word if isinstance(word, str) else bytes(word).decode("utf-8", "backslashreplace")


def _pairs(flat: Any) -> Iterator[tuple[str, str]]:
    words = iter(flat)
    return ((_text(name), _text(value)) for name, value in zip(words, words, strict=True))


def _waiters(flat: Any, now: float) -> dict[str, int]:
    """Ident -> how many wait, of the processes that have been heard of lately."""
    counts: dict[str, int] = {}
    for _, said in _pairs(flat):
        instant, _, waiters = said.partition(" ")
        try:
            if int(instant) / 1000 < now - BELIEVED:
                continue
            for name, count in json.loads(waiters).items():
                counts[name] = counts.get(name, 0) + int(count)
        except (ValueError, AttributeError, TypeError):  # somebody else's
            continue
    return counts


def _key_activity(name: str, row: str | None, waiting: int, now: float) -> KeyActivity | None:
    """Read one key; None where somebody else has written there."""
    try:
        key, algorithm, quota, _ = json.loads(name)
        words = (row or "0 0 -1 0 0 0").split(" ")
        admitted, denied, limit, left, reset_ms, seen_ms = map(int, words)
        seen = seen_ms / 1000 if row is not None else now
        known = limit >= 0
        remaining, reset_after = left, 0.0
        if known:
            reset_after = max(reset_ms / 1000 - seen, 0.0)
            # What is published is up to two intervals old. A busy key has not been idle since.
            idle = max(0.0, now - seen - 2 * INTERVAL)
            remaining, reset_after = after(algorithm, limit, left, reset_after, idle)
        return KeyActivity(
            key=str(key),
            algorithm=str(algorithm),
            quota=str(quota),
            limit=limit if known else None,
            remaining=remaining if known else None,
            admitted=admitted,
            denied=denied,
            waiting=waiting,
            reset_after=reset_after,
            last_seen=seen,
        )
    except (ValueError, TypeError):
        return None


_logger = logging.getLogger("headway.activity")
_all: "WeakSet[Publisher]" = WeakSet()


def _tell_the_last() -> None:
    for publisher in list(_all):
        if publisher._thread is not None:
            publisher.tell_or_log()


atexit.register(_tell_the_last)

"""The doctor's findings of a store: whether it answers, how fast, and what is particular to it."""

from __future__ import annotations

import argparse
import json
import os
import secrets
import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

from headway._redis_url import masked
from headway.commands.doctor.finding import OK, PROBLEM, WARNING, Finding
from headway.commands.output import duration
from headway.commands.targets import SERVICES, Limit, close, store_of, url_of
from headway.exceptions import BaseThrottledError

if TYPE_CHECKING:
    from headway.types import AnyStore

__all__ = ["ROOM", "findings"]

ROOM = "store"
PREFIX = "headway-doctor"
QUOTA = "1000000000/3650d"
"""So that no decision is denied, which may be cheaper; and so slow that the state lives for some
seconds and can be removed: one that has expired lies in a file until it is swept."""
SLOW_S = 0.02
LITTLE_DISK = 1 << 20
OFF_MACHINE = ("9p", "afs", "ceph", "cifs", "fuse.sshfs", "glusterfs", "nfs", "nfs4", "smb3")


def findings(args: argparse.Namespace) -> Iterator[Finding]:
    """Of the store that the arguments name. Raises Refused where they cannot mean one."""
    url, source = url_of(args)
    if url is None or url == "memory://":
        value = "memory of each process: " + (
            "neither --store nor REDIS_URL names another" if url is None else url
        )
        advice = "To share limits among processes, set REDIS_URL or give limiters a store."
        yield Finding(ROOM, "kept in", value, OK, advice)
        from headway import MemoryStore

        yield from _timed(MemoryStore(), args.decisions)
        return
    if url.partition("://")[0] in SERVICES:
        yield from _service(url, source, args)
        return
    store = store_of(url, source)
    yield Finding(ROOM, "kept in", f"{masked(url)} ({source.removeprefix('argument ')})")
    try:
        yield from _of(store, args.decisions)
    finally:
        close(store)


def _of(store: AnyStore, decisions: int) -> Iterator[Finding]:
    from headway.store import RedisStore

    timed = list(_timed(store, decisions))
    yield from timed
    decides = timed[0].level != PROBLEM
    if isinstance(store, RedisStore):
        from headway.commands.doctor import redis

        # A server that does not decide may say why; one that is not there is not told of twice.
        yield from (each for each in redis.findings(store) if decides or each.name != "questions")
    elif store.TYPE == "sqlite" and decides:
        yield from _sqlite(Path(getattr(store, "path")))  # noqa: B009
    elif store.TYPE == "shm":
        yield _shared_memory(store)


def _timed(store: AnyStore, decisions: int) -> Iterator[Finding]:
    from headway._core import Throttled

    limiter = Throttled(
        key=secrets.token_hex(8), quota=QUOTA, store=store, key_prefix=PREFIX, timeout=-1
    )
    try:
        limiter.limit()  # connects
        took = _times(limiter.limit, decisions)
    except BaseThrottledError as error:
        yield _unreached(str(error))
        return
    finally:
        _removed(limiter.reset)
    yield _latency(took)


def _removed(reset: Callable[[], object]) -> None:
    try:
        reset()
    except BaseThrottledError:
        return  # it is not there, or expires within a second or two


def _times(decide: Callable[[], object], count: int) -> list[float]:
    took = []
    clock = time.perf_counter
    for _ in range(count):
        begin = clock()
        decide()
        took.append(clock() - begin)
    return sorted(took)


def _latency(took: list[float]) -> Finding:
    median, late = took[len(took) // 2], took[min(len(took) - 1, len(took) * 99 // 100)]
    slow = median > SLOW_S
    return Finding(
        ROOM,
        "a decision",
        f"takes {duration(median)}, 1 in 100 {duration(late)} or more ({len(took):,} timed)",
        WARNING if slow else OK,
        "Move the store nearer to the program, or lease tokens in blocks (?lease=50ms)."
        if slow
        else "",
    )


def _unreached(why: str) -> Finding:
    return Finding(
        ROOM,
        "a decision",
        why,
        PROBLEM,
        "Until it answers, limiters of this store raise StoreUnavailableError or follow on_error.",
    )


# ---- SQLite


def _sqlite(path: Path) -> Iterator[Finding]:
    with closing(sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True)) as connection:
        mode = connection.execute("PRAGMA journal_mode").fetchone()[0]
    wal = mode == "wal"
    yield Finding(
        ROOM,
        "sqlite",
        f"{sqlite3.sqlite_version}, journal mode {mode}",
        OK if wal else WARNING,
        "" if wal else "Decisions are faster with PRAGMA journal_mode=WAL.",
    )
    system = file_system_of(path)
    if system in OFF_MACHINE:
        yield Finding(
            ROOM,
            "file system",
            system,
            PROBLEM,
            "SQLite's WAL is for one machine: put the file on a local disk, or use Redis.",
        )
    free = os.statvfs(path.parent)
    left = free.f_bavail * free.f_frsize
    short = left < LITTLE_DISK
    yield Finding(
        ROOM,
        "file",
        f"{path.stat().st_size / 1024:,.0f} KiB, {left >> 20:,} MiB free beside it",
        PROBLEM if short else OK,
        "The disk is full: decisions that have to write will fail." if short else "",
    )


def file_system_of(path: Path) -> str | None:
    """The kind of file system that holds a file, where /proc tells."""
    try:
        lines = Path("/proc/self/mounts").read_text(errors="replace").splitlines()
    except OSError:
        return None
    place, best, kind = str(path.absolute()), "", None
    for line in lines:
        fields = line.split(" ")
        point = fields[1].encode().decode("unicode_escape").rstrip("/")
        if (place == point or place.startswith(point + "/")) and len(point) >= len(best):
            best, kind = point, fields[2]
    return kind


# ---- shared memory


def _shared_memory(store: Any) -> Finding:
    keys, capacity, evictions = len(store), store.capacity, store.evictions
    value = f"{keys:,} of {capacity:,} keys in {store.size >> 10:,} KiB, {evictions:,} evicted"
    if not evictions:
        return Finding(ROOM, "shared memory", value)
    advice = (
        "Keys that were evicted have their whole limit again: remove it, and make a larger one."
    )
    return Finding(ROOM, "shared memory", value, WARNING, advice)


# ---- a service


def _service(url: str, source: str, args: argparse.Namespace) -> Iterator[Finding]:
    from headway.commands.service import Service

    with Service(url, source, args.token_file) as service:
        yield Finding(ROOM, "kept in", f"the service {service.name}")
        try:
            status, body = service.ask("GET", "/healthz")
        except BaseThrottledError as error:
            yield _unreached(str(error))
            return
        healthy = status == 200
        yield Finding(
            ROOM,
            "health",
            f"it answers {status}{_said(body)}",
            OK if healthy else PROBLEM,
            "" if healthy else "Look at the service's log: it cannot reach its own store.",
        )
        yield from _asked(service.peek, args.decisions)


def _asked(peek: Callable[[Limit], object], decisions: int) -> Iterator[Finding]:
    from headway.commands.parser import Refused

    limit = Limit(f"{PREFIX}:{secrets.token_hex(8)}", QUOTA, "token_bucket", None)
    try:
        peek(limit)
        took = _times(lambda: peek(limit), decisions)
    except BaseThrottledError as error:
        yield _unreached(str(error))
    except Refused as error:
        advice = "Ask whoever runs the service for a token, and check what it was refused for."
        yield Finding(ROOM, "a decision", str(error), PROBLEM, advice)
    else:
        yield _latency(took)


def _said(body: bytes) -> str:
    try:
        answer = json.loads(body)
    except ValueError:
        return ""
    said = answer.get("error") or answer.get("status") if isinstance(answer, dict) else None
    return f", {said}" if isinstance(said, str) else ""

"""The doctor's findings of a Redis server: its version, its clock, and settings that matter to
limits. All are what the server says of itself (INFO, TIME); nothing is set.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping

from headway.commands.doctor.finding import OK, PROBLEM, WARNING, Finding
from headway.commands.output import duration
from headway.exceptions import StoreUnavailableError
from headway.store import RedisStore

__all__ = ["findings", "of_info"]

ROOM = "store"
OLDEST = (5, 0)
"""Scripts read the clock and then write, which older servers refuse."""
FAR_S = 1.0
NEARLY_FULL = 0.9
_KEY = b"headway-doctor"
"""Only says which node of a cluster is asked."""


def findings(store: RedisStore) -> Iterator[Finding]:
    """What the server says; a question that it refuses is a warning."""
    try:
        yield _clock(store)
        info = _info(store)
    except StoreUnavailableError as error:
        advice = "Allow the user TIME and INFO, so that the server can be looked at."
        yield Finding(ROOM, "questions", f"refused: {error}", WARNING, advice)
        return
    place = store._place
    yield from of_info(
        info,
        cluster=place is not None and place.cluster,
        wait_replicas=store.wait_replicas,
    )


def _clock(store: RedisStore) -> Finding:
    from headway._core import now_ns

    asked = []
    for _ in range(5):
        begin, ours = time.perf_counter_ns(), now_ns()
        told, micros = store._run(None, (_KEY,), (b"TIME",))
        trip = time.perf_counter_ns() - begin
        theirs = int(told) * 10**9 + int(micros) * 1000
        asked.append((trip, theirs - (ours + trip // 2)))
    trip, ahead = min(asked)
    far = abs(ahead) > FAR_S * 1e9
    side = "ahead of" if ahead > 0 else "behind"
    return Finding(
        ROOM,
        "clock",
        f"{duration(abs(ahead) / 1e9)} {side} this machine's, give or take {duration(trip / 2e9)}",
        WARNING if far else OK,
        "Limits go by the server's clock and stay right; set both by NTP, so that logs agree."
        if far
        else "",
    )


def _info(store: RedisStore) -> dict[str, str]:
    text: bytes = store._run(None, (_KEY,), (b"INFO",))
    lines = text.decode("utf-8", "replace").splitlines()
    return dict(line.split(":", 1) for line in lines if ":" in line)


def of_info(
    info: Mapping[str, str], *, cluster: bool = False, wait_replicas: int = 0
) -> Iterator[Finding]:
    """What the fields of INFO mean for limits."""
    yield _version(info)
    yield from _memory(info)
    yield from _persistence(info)
    yield from _replication(info, wait_replicas)
    if info.get("cluster_enabled") == "1" and not cluster:
        yield Finding(
            ROOM,
            "cluster",
            "the server is a node of a cluster",
            WARNING,
            "Name it as redis+cluster://host:port, so that all its nodes are used.",
        )


def _version(info: Mapping[str, str]) -> Finding:
    server = info.get("server_name", "redis")
    version = info.get(f"{server}_version") or info.get("redis_version", "?")
    numbers = tuple(int(n) for n in info.get("redis_version", "").split(".")[:2] if n.isdigit())
    old = bool(numbers) and numbers < OLDEST
    return Finding(
        ROOM,
        "server",
        f"{server} {version}, {info.get('redis_mode', 'standalone')}",
        PROBLEM if old else OK,
        "It is too old for the scripts of headway: use Redis 5 or newer." if old else "",
    )


def _memory(info: Mapping[str, str]) -> Iterator[Finding]:
    most, used = _number(info, "maxmemory"), _number(info, "used_memory")
    policy = info.get("maxmemory_policy", "noeviction")
    gone = _number(info, "evicted_keys")
    size = f"{used / 2**20:,.1f} MiB used"
    if not most:
        yield Finding(ROOM, "memory", f"{size}, no maxmemory")
        return
    value = f"{size} of {most / 2**20:,.1f}, {policy}, {gone:,} keys evicted"
    if policy != "noeviction":
        advice = (
            "A full server drops keys of limits, which sets free who is at a limit: use a server "
            "of its own with maxmemory-policy noeviction."
        )
        yield Finding(ROOM, "memory", value, WARNING, advice)
    elif used > NEARLY_FULL * most:
        advice = "When it is full, decisions fail: raise maxmemory."
        yield Finding(ROOM, "memory", value, PROBLEM, advice)
    else:
        yield Finding(ROOM, "memory", value)


def _persistence(info: Mapping[str, str]) -> Iterator[Finding]:
    aof = info.get("aof_enabled") == "1"
    failed = [
        name
        for name in ("rdb_last_bgsave_status", "aof_last_bgrewrite_status", "aof_last_write_status")
        if info.get(name, "ok") != "ok"
    ]
    if failed:
        advice = "The server may refuse to write until it can save: look at its log and its disk."
        yield Finding(ROOM, "persistence", f"{', '.join(failed)}: failed", PROBLEM, advice)
        return
    saved = _number(info, "rdb_last_save_time")
    value = "each write is logged (AOF)" if aof else "snapshots at most"
    if not aof and saved:
        value += f", the last {duration(max(0.0, time.time() - saved))} ago"
    advice = "" if aof else "A server that starts again may forget what was spent since then."
    yield Finding(ROOM, "persistence", value, OK, advice)


def _replication(info: Mapping[str, str], wait_replicas: int) -> Iterator[Finding]:
    if info.get("role") == "slave":
        advice = "Replicas refuse to write: name the primary, or its sentinels."
        yield Finding(ROOM, "replication", "it is a replica", PROBLEM, advice)
        return
    count = _number(info, "connected_slaves")
    value = f"{count} replica{'s' * (count != 1)}"
    if wait_replicas > count:
        advice = "Decisions fail until so many replicas are connected: start them, or ask for less."
        yield Finding(
            ROOM, "replication", f"{value}, wait_replicas={wait_replicas}", PROBLEM, advice
        )
    else:
        yield Finding(ROOM, "replication", value)


def _number(info: Mapping[str, str], name: str) -> int:
    text = info.get(name, "")
    return int(text) if text.isascii() and text.isdigit() else 0

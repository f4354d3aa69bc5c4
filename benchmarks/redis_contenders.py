"""Who asks the server: headway, throttled-py, redis-py by hand, and C by hand.

The scripts of headway are the measure: redis-py and the C program send the very EVALSHA that
headway sends, word by word, as MONITOR shows it. throttled-py sends its own scripts. redis-py uses
hiredis' parser, which it takes by itself where it is installed; it must be here.

Nothing is denied, and the states live on: buckets hold 10^9 and take in 1,000 a second, so that
each decision moves an instant that lies ahead; windows hold 10^9 a minute.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import shlex
import subprocess
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.contenders import NEVER_DENIES
from benchmarks.harness import BASELINE, HEADWAY, PEER, Names
from benchmarks.redis_harness import Runner, Took, many_tasks, many_threads, one_thread
from benchmarks.redis_server import Server

WINDOWS = ("fixed_window", "sliding_window")
ROOT = Path(__file__).parent.parent
FLAGS = ("-std=c11", "-D_GNU_SOURCE", "-O3", "-pthread", "-Wall", "-Wextra")

Way = Callable[[str, Names], Callable[[int], Took]]
"""How a statement is run: `one_thread`, or many of them."""


def ways(threads: int) -> Way:
    """The way of so many threads."""
    if threads == 1:
        return one_thread
    return lambda statement, names: many_threads(statement, names, threads)


def headway_limiter(server: Server, using: str, **more: Any) -> Any:
    """A headway limiter with a store of its own."""
    from headway import Throttled
    from headway.store import RedisStore

    quota = "1000000000/m" if using in WINDOWS else "1000/s burst 1000000000"
    return Throttled(using=using, quota=quota, store=RedisStore(server.url), **more)


def headway(server: Server, using: str, threads: int = 1) -> Runner:
    """`limit("k")` of headway."""
    limiter = headway_limiter(server, using)
    run = ways(threads)('limit("k")', {"limit": limiter.limit})
    return Runner(f"headway {using}", HEADWAY, run, limiter.store.close)


def throttled(server: Server, using: str, threads: int = 1) -> Runner:
    """`limit("k")` of throttled-py."""
    import throttled

    quota = (
        throttled.rate_limiter.per_min(NEVER_DENIES)
        if using in WINDOWS
        else throttled.rate_limiter.per_sec(1_000, burst=NEVER_DENIES)
    )
    store = throttled.RedisStore(server=server.url)
    limit = throttled.Throttled(using=using, quota=quota, store=store).limit
    return Runner(f"throttled-py {using}", PEER, ways(threads)('limit("k")', {"limit": limit}))


def evalsha(server: Server, using: str, threads: int = 1) -> Runner:
    """The EVALSHA of headway's script, by redis-py."""
    client = redis_client(server)
    _, sha, keys, *rest = words_of(server, using)
    names = {"evalsha": client.evalsha, "sha": sha, "keys": int(keys), "rest": tuple(rest)}
    run = ways(threads)("evalsha(sha, keys, *rest)", names)
    return Runner(f"redis-py, EVALSHA of {using}", PEER, run, client.close)


def incrby(server: Server, threads: int = 1) -> Runner:
    """A plain INCRBY by redis-py."""
    client = redis_client(server)
    run = ways(threads)('incrby("redis-py", 1)', {"incrby": client.incrby})
    return Runner("redis-py, INCRBY", BASELINE, run, client.close)


def redis_client(server: Server) -> Any:
    """A client of redis-py, which reads with hiredis."""
    import redis
    from redis.utils import HIREDIS_AVAILABLE

    if not HIREDIS_AVAILABLE:
        raise RuntimeError("redis-py is to use hiredis' parser: pip install hiredis")
    return redis.Redis.from_url(server.url)


def words_of(server: Server, using: str) -> list[str]:
    """The EVALSHA that headway sends: the command, the script's hash, how many keys, and so on."""
    limiter = headway_limiter(server, using)
    for key in ("k", "k"):  # the server may not know the script yet
        limiter.limit(key)
    words = server.command_of(lambda: limiter.limit("k"))
    limiter.store.close()
    return words


def headway_tasks(server: Server, loop: asyncio.AbstractEventLoop, tasks: int) -> Runner:
    """`await limit("k")` of headway.asyncio, in so many tasks."""
    from headway.asyncio import Throttled
    from headway.store import RedisStore

    store = RedisStore(server.url)
    limiter = Throttled(using="gcra", quota="1000/s burst 1000000000", store=store)
    return Runner("headway gcra", HEADWAY, many_tasks(loop, limiter.limit, tasks), store.close)


def throttled_tasks(server: Server, loop: asyncio.AbstractEventLoop, tasks: int) -> Runner:
    """`await limit("k")` of throttled.asyncio, in so many tasks, with a connection for each."""
    from throttled import asyncio as throttled

    options = {"CONNECTION_POOL_KWARGS": {"max_connections": 256}}
    limiter = throttled.Throttled(
        using="gcra",
        quota=throttled.rate_limiter.per_sec(1_000, burst=NEVER_DENIES),
        store=throttled.RedisStore(server=server.url, options=options),
    )
    return Runner("throttled.asyncio gcra", PEER, many_tasks(loop, limiter.limit, tasks))


class Program:
    """`hiredis_evalsha.c`, compiled and running, for the command that headway sends."""

    def __init__(self, server: Server, using: str) -> None:
        self._folder = tempfile.TemporaryDirectory()
        words = words_of(server, using)
        self._process = subprocess.Popen(
            [_build(Path(self._folder.name)), str(server.port), *words],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def runner(self, label: str, mode: str, depth: int = 1, kind: str = BASELINE) -> Runner:
        """One of its modes as a runner."""

        def run(count: int) -> Took:
            process = self._process
            assert process.stdin is not None
            assert process.stdout is not None
            with contextlib.suppress(BrokenPipeError):
                process.stdin.write(f"{mode} {depth} {count}\n")
                process.stdin.flush()
            answer = process.stdout.readline().split()
            if len(answer) != 2:
                raise RuntimeError(f"hiredis_evalsha {mode} {depth} {count} ended: {answer}")
            return int(answer[0]), int(answer[1])

        return Runner(label, kind, run, self.close)

    def close(self) -> None:
        """Ends the process and removes the program."""
        self._process.kill()
        self._process.communicate()
        self._folder.cleanup()


def _build(folder: Path) -> str:
    program = folder / "hiredis_evalsha"
    generated = ROOT / "build" / "generated"
    if not generated.exists():
        raise RuntimeError(
            f"{generated} is not there: this question needs a checkout that is built"
        )
    sources = [
        Path(__file__).with_name("hiredis_evalsha.c"),
        *sorted((ROOT / "src" / "core").glob("*.c")),
        ROOT / "src" / "redis" / "connection.c",
        ROOT / "src" / "redis" / "link.c",
        ROOT / "src" / "redis" / "link_threads.c",
    ]
    folders = (ROOT / "src" / "core", ROOT / "src" / "redis", generated)
    includes = [word for place in folders for word in ("-I", str(place))]
    compiler = shlex.split(os.environ.get("CC", "cc"))
    done = subprocess.run(
        [*compiler, *FLAGS, *includes, *map(str, sources), "-lhiredis", "-o", str(program)],
        capture_output=True,
        text=True,
    )
    if done.returncode != 0:
        raise RuntimeError(f"hiredis_evalsha.c does not compile:\n{done.stderr}")
    return str(program)

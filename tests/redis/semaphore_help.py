"""What the tests of semaphores on a server share: both kinds of waiting under one face, processes
that use a semaphore, and a room on the server itself that counts who is in it.

The room does not know the semaphore: INCR on entering says how many are inside, and the most there
ever were is kept.
"""

from __future__ import annotations

import asyncio
import contextlib
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from servers import RedisServer

from headway.limiters import AsyncSemaphore, SyncSemaphore

DEADLINE_S = 30.0

PREAMBLE = """
import asyncio, os, signal, sys, threading, time, warnings
warnings.simplefilter("ignore", DeprecationWarning)
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell may have set it aside
from headway.limiters import AsyncSemaphore, MaxSleepExceededError, SyncSemaphore
from headway.store import RedisStore

url = sys.argv[1]
store = RedisStore(url)

def say(*words):
    print(*words, flush=True)

def hear():
    return sys.stdin.readline().strip()

def room_enter():
    inside = store._run(None, (b"room",), ("INCR", "room"))
    store._run(None, (b"room",), ("ZADD", "most", "GT", inside, "inside"))

def room_leave():
    store._run(None, (b"room",), ("DECR", "room"))
"""


class Process:
    """A program with a semaphore, in an interpreter of its own; it says lines and hears lines."""

    def __init__(self, program: str, url: str, *args: str) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-c", PREAMBLE + program, url, *args],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            bufsize=1,
        )

    @property
    def pid(self) -> int:
        return self._process.pid

    def hears(self) -> str:
        """The next line that it says; empty at its end."""
        assert self._process.stdout is not None
        return self._process.stdout.readline().strip()

    def told(self, line: str = "") -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(line + "\n")
        self._process.stdin.flush()

    def kill(self) -> None:
        self._process.kill()
        self._process.wait()

    def ends(self) -> int:
        return self._process.wait(DEADLINE_S)

    def close(self) -> None:
        self.kill()
        for pipe in (self._process.stdin, self._process.stdout):
            with contextlib.suppress(OSError):
                assert pipe is not None
                pipe.close()


@pytest.fixture
def process() -> Iterator[Callable[..., Process]]:
    """Starts a program: `process("with SyncSemaphore(...): ...", url)`."""
    with contextlib.ExitStack() as stack:

        def start(program: str, url: str, *args: str) -> Process:
            started = Process(program, url, *args)
            stack.callback(started.close)
            return started

        yield start


def most_inside(server: RedisServer) -> int:
    return int(server.command("ZSCORE", "most", "inside") or 0)


def commands(server: RedisServer) -> int:
    """How many scripts and waits for news the server has been asked for."""
    stats = server.info("commandstats")
    asked = 0
    for name in ("evalsha", "eval", "blpop"):
        asked += int(stats.get(f"cmdstat_{name}", "calls=0").partition("=")[2].partition(",")[0])
    return asked


def semaphore_keys(name: str) -> list[str]:
    return [f"limiters:v1:semaphore:{{{name}}}:{part}" for part in ("held", "line", "listeners")]


def held(server: RedisServer, name: str = "name") -> int:
    """How many leases there are, lapsed ones that nobody has looked at included."""
    return int(server.command("ZCARD", semaphore_keys(name)[0]))


def in_line(server: RedisServer, name: str = "name") -> int:
    return int(server.command("ZCARD", semaphore_keys(name)[1]))


def until(condition: Callable[[], object], what: str, deadline: float = DEADLINE_S) -> None:
    end = time.monotonic() + deadline
    while not condition():
        if time.monotonic() > end:
            pytest.fail(f"not seen within {deadline} s: {what}")
        time.sleep(0.002)


class AsThread:
    """Enters and leaves as a thread does."""

    kind: Any = SyncSemaphore

    @staticmethod
    def run(semaphore: Any, work: Callable[[], Any] = lambda: None) -> Any:
        with semaphore:
            return work()


class AsTask:
    """Enters and leaves as a task does, in an event loop for each call."""

    kind: Any = AsyncSemaphore

    @staticmethod
    def run(semaphore: Any, work: Callable[[], Any] = lambda: None) -> Any:
        async def main() -> Any:
            async with semaphore:
                return await asyncio.to_thread(work)

        return asyncio.run(main())


@pytest.fixture(params=[AsThread, AsTask], ids=["thread", "task"])
def way(request: pytest.FixtureRequest) -> Any:
    """`way.kind(name, ...)` makes a semaphore, `way.run(semaphore, work)` works in its block."""
    return request.param

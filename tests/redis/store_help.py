"""A limiter on a Redis store, asked as a thread asks or as a task does.

Most promises hold both ways, so tests take `ask` from here (the fixture is parametrised) and say
once what they expect: `ask(store, "limit", quota="5/s")`. Each call of it in asyncio is an event
loop of its own.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from headway import StoreUnavailableError, Throttled
from headway.asyncio import Throttled as AsyncThrottled
from headway.store import RedisStore

USINGS = ("fixed_window", "sliding_window", "token_bucket", "leaking_bucket", "gcra")
BUCKETS = USINGS[2:]
SLACK_S = 15.0
"""How late a busy machine may be."""


class NoExecutor(ThreadPoolExecutor):
    """For a loop whose executor is the program's: headway must not use it."""

    def submit(self, *args: Any, **how: Any) -> Any:
        raise AssertionError("the loop's default executor was used")


def ask_as_thread(store: object, method: str = "limit", *args: Any, **how: Any) -> Any:
    call = {name: how.pop(name) for name in ("cost", "timeout") if name in how}
    limiter = Throttled(store=store, **({"key": "key", "quota": "5/s"} | how))  # type: ignore[arg-type]
    return getattr(limiter, method)(*args, **call)


def ask_as_task(store: object, method: str = "limit", *args: Any, **how: Any) -> Any:
    call = {name: how.pop(name) for name in ("cost", "timeout") if name in how}
    limiter = AsyncThrottled(store=store, **({"key": "key", "quota": "5/s"} | how))  # type: ignore[arg-type]

    async def main() -> Any:
        return await getattr(limiter, method)(*args, **call)

    return asyncio.run(main())


@pytest.fixture(params=[ask_as_thread, ask_as_task], ids=["thread", "task"])
def ask(request: pytest.FixtureRequest) -> Callable[..., Any]:
    """Asks a limiter on a store: `ask(store, "peek", quota="1/m")`."""
    return request.param  # type: ignore[no-any-return]


def unavailable(
    ask: Callable[..., Any], url: str, options: dict[str, Any] | None = None, within: float = 0.0
) -> StoreUnavailableError:
    """The error that the first decision meets, at most so late."""
    store = RedisStore(url, options)
    start = time.monotonic()
    with pytest.raises(StoreUnavailableError) as caught:
        ask(store)
    assert time.monotonic() - start < within + SLACK_S
    return caught.value


def repr_of(error: BaseException) -> str:
    """All that a log could show of an error, its causes included."""
    seen, text = error, ""
    while seen is not None:
        text += f"{seen} {seen!r} {vars(seen)}"
        seen = seen.__cause__ or seen.__context__  # type: ignore[assignment]
    return text


def descriptors() -> int:
    """How many descriptors this process has, once what is unreachable is gone.

    The timer of an event loop is not counted: it is made once and stays with the loop.
    """
    gc.collect()
    count = 0
    for entry in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError):  # that of the listing itself
            what = os.readlink(f"/proc/self/fd/{entry}")
            count += "timerfd" not in what and "eventfd" not in what
    return count


def descriptors_settle_at(wanted: int) -> int:
    """How many there are once they are as many as wanted, or after some seconds: what an earlier
    test has left to a thread may still be closing.
    """
    end = time.monotonic() + SLACK_S
    while (found := descriptors()) != wanted and time.monotonic() < end:
        time.sleep(0.02)
    return found


def resident_kib() -> int:
    with open("/proc/self/statm") as statm:
        return int(statm.read().split()[1]) * os.sysconf("SC_PAGESIZE") // 1024


@contextlib.contextmanager
def child(work: Callable[[], bytes]) -> Iterator[Callable[[], bytes]]:
    """Forks; the child writes what `work` returns, or its error. Yields what reads that."""
    read, write = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            os.close(read)
            try:
                said = work()
            except BaseException as error:
                said = repr(error).encode()
            os.write(write, said)
        finally:
            os._exit(0)
    os.close(write)
    with open(read, "rb") as pipe:
        yield pipe.read
    os.waitpid(pid, 0)

"""A thousand faults leave nothing behind: no descriptor, no memory, no reference."""

from __future__ import annotations

import asyncio
import gc
import os
import weakref
from collections.abc import Callable
from pathlib import Path

import pytest
from faults_ask import Ask, ask, store_of
from faults_server import HANG_UP, Answer, FakeServer, array, decided

from headway import StoreUnavailableError

__all__ = ["ask"]

pytestmark = pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="needs /proc")

FAULTS: dict[str, Answer] = {
    "an error": b"-OOM " + b"x" * 2_000 + b"\r\n",
    "a wrong reply": array(*["x" * 100] * 50),
    "garbage": b"?" * 4_000 + b"\r\n",
    "half a reply": [decided()[:-5], HANG_UP],
    "the end": HANG_UP,
    "more than was asked": decided() * 20,
}


def descriptors(port: int) -> int:
    """How many sockets of this process are connected to the port."""
    wanted = f":{port:04X}"
    inodes = {
        line.split()[9]
        for line in Path("/proc/net/tcp").read_text().splitlines()[1:]
        if line.split()[2].endswith(wanted)
    }
    count = 0
    for entry in os.listdir("/proc/self/fd"):
        try:
            target = os.readlink(f"/proc/self/fd/{entry}")
        except OSError:
            continue
        count += target[len("socket:[") : -1] in inodes
    return count


def resident_kib() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4


def grown_kib(work: Callable[[], None]) -> int:
    """How much more memory there is after the work: the least of some times."""
    least = 10**9
    for _ in range(4):
        gc.collect()
        before = resident_kib()
        work()
        gc.collect()
        least = min(least, resident_kib() - before)
    return least


@pytest.mark.parametrize("reply", FAULTS.values(), ids=FAULTS)
def test_faults_leave_no_descriptor_and_no_memory(ask: Ask, reply: Answer) -> None:
    with FakeServer(lambda request: reply) as server:
        limiter = ask.limiter(store_of(server.url))

        def work() -> None:
            for _ in range(120):
                ask.told(limiter)

        grown = grown_kib(work)
        assert descriptors(server.port) <= 1
        assert grown < 120, "more than 1 KiB for each fault"


def test_a_store_that_is_let_go_of_after_a_fault_hangs_up(ask: Ask) -> None:
    with FakeServer(lambda request: b"junk\r\n") as server:
        for reply in (b"+wrong\r\n", b"junk\r\n", decided()):
            server.answer = lambda request, reply=reply: reply  # type: ignore[misc]
            store = store_of(server.url)
            gone = weakref.ref(store)
            limiter = ask.limiter(store)
            ask.told(limiter)
            del store, limiter
            gc.collect()
            ask.turn(0.01)
            assert gone() is None
            assert descriptors(server.port) == 0


def test_a_store_that_was_closed_hangs_up_and_connects_again(ask: Ask) -> None:
    with FakeServer() as server:
        store = store_of(server.url)
        limiter = ask.limiter(store)
        for _ in range(3):
            ask.limit(limiter)
            store.close()
            ask.turn(0.01)
            assert descriptors(server.port) == 0
        assert not ask.limit(limiter).limited


def test_event_loops_that_end_in_the_middle_of_it_leave_nothing() -> None:
    with FakeServer(lambda request: b"") as server:
        ask = Ask(as_task=True)
        store = store_of(server.url, timeout=5.0)
        limiter = ask.limiter(store)

        async def begin() -> None:
            asyncio.get_running_loop().create_task(limiter.limit("key"))
            await asyncio.sleep(0.02)

        for _ in range(10):
            asyncio.run(begin())  # cancels the task
        gc.collect()
        assert descriptors(server.port) <= 1
        ask.close()


def test_tasks_that_are_cancelled_leave_the_connection_in_step() -> None:
    """Their replies come, and are nobody's."""
    ask = Ask(as_task=True)
    with FakeServer(lambda request: decided(0, ahead_us=10**9)) as server:
        limiter = ask.limiter(store_of(server.url, timeout=5.0))

        async def cancel_some() -> None:
            for n in range(50):
                task = asyncio.ensure_future(limiter.limit("denied"))
                await asyncio.sleep(0)
                if n % 2:
                    await asyncio.sleep(0)
                server.answer = lambda request: (
                    decided(0, ahead_us=10**9) if b"denied" in request else decided()
                )
                other = asyncio.ensure_future(limiter.limit("admitted"))
                await asyncio.sleep(0)
                task.cancel()
                assert not (await other).limited

        asyncio.run(cancel_some())
        assert server.connections == 1
    ask.close()


def test_the_error_of_a_fault_keeps_nothing_alive(ask: Ask) -> None:
    with FakeServer(lambda request: b"junk\r\n") as server:
        store = store_of(server.url)
        error = ask.error(ask.limiter(store))
        assert isinstance(error, StoreUnavailableError)
        gone = weakref.ref(store)
        error.__traceback__ = None
        del store
        gc.collect()
        ask.turn(0.01)
        gc.collect()
        assert gone() is None

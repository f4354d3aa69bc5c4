"""A signal's handler that raises while a block is entered or left: the permit comes back.

An `expiry` of an hour says that it comes back because it is given back, and not because it lapses.
"""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from headway import SharedMemoryStore, SQLiteStore, StoreUnavailableError
from headway.limiters import AsyncSemaphore, MaxSleepExceededError, SyncSemaphore
from headway.limiters._keeper import Keeper
from headway.limiters._line import LoopLine
from interrupting import Interruption, interruptions


@pytest.fixture(params=["sqlite", "shm"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Any]:
    if request.param == "sqlite":
        yield SQLiteStore(tmp_path / "x.db")
        return
    shared = SharedMemoryStore(f"interrupted-{os.getpid()}", size="1M")
    yield shared
    shared.remove()


def test_wherever_a_block_is_interrupted_its_permit_comes_back(
    store: Any, name: str, eventually: Callable[..., None]
) -> None:
    semaphore = SyncSemaphore(name, 3, max_sleep=1, expiry=3600, connection=store)
    pool: Any = semaphore._pool

    def work() -> None:
        with semaphore:
            pass

    for place in interruptions(work):
        eventually(lambda: pool.held == 0, f"all permits free after {place}")
        assert not pool.permits.leases, place
        assert not pool._entries, place


def test_wherever_a_wait_is_interrupted_the_line_is_empty_again(
    store: Any, name: str, eventually: Callable[..., None], start: Callable[..., Any]
) -> None:
    semaphore = SyncSemaphore(name, 1, max_sleep=0.02, expiry=3600, connection=store)
    pool: Any = semaphore._pool
    inside, done = threading.Event(), threading.Event()

    def hold() -> None:
        with semaphore:
            inside.set()
            done.wait(120)

    holder = start(hold)
    assert inside.wait(20)

    def work() -> None:
        with suppress(MaxSleepExceededError), semaphore:
            raise AssertionError("two in a semaphore of one")

    try:
        for place in interruptions(work):
            eventually(lambda: pool.waiting == 0, f"nobody in line after {place}")
            line = pool.permits.lines.of_threads()
            assert not line.waiters, place
            assert not line.newcomers, place
    finally:
        done.set()
        holder.result()
    eventually(lambda: pool.held == 0, "the permit free")


def test_leases_are_renewed_though_starting_the_keeper_was_interrupted(
    store: Any, name: str, monkeypatch: pytest.MonkeyPatch, eventually: Callable[..., None]
) -> None:
    semaphore = SyncSemaphore(name, 1, max_sleep=1, expiry=0.5, connection=store)
    begins = threading.Thread.start

    def interrupted(thread: threading.Thread) -> None:
        if thread.name == "headway-leases":
            raise Interruption
        begins(thread)

    with monkeypatch.context() as patched:
        patched.setattr(threading.Thread, "start", interrupted)
        with pytest.raises(Interruption):
            semaphore.__enter__()
    with semaphore:
        leases: Any = semaphore._pool.permits.leases  # type: ignore[attr-defined]
        first = next(iter(leases.values())).until
        eventually(
            lambda: all(lease.until > first for lease in leases.values()), "the lease was renewed"
        )


def test_of_two_keepers_that_were_started_one_goes_on() -> None:
    keeper = Keeper()
    keeper._thread = threading.Thread()
    other = threading.Thread(target=keeper._run)
    other.start()
    other.join(20)
    assert not other.is_alive()


def test_a_block_without_a_permit_ends_no_lease_of_the_block_around_it(
    tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """on_error="allow" lets the inner block in while the server does not answer."""
    semaphore = SyncSemaphore(name, 3, max_sleep=1, connection=SQLiteStore(tmp_path / "x.db"))
    pool: Any = semaphore._pool
    with semaphore:
        with monkeypatch.context() as away:
            away.setattr(pool.permits, "policy", lambda error: "allow")
            away.setattr(pool.permits, "ask", _no_answer)
            semaphore.__enter__()
        semaphore.__exit__(None, None, None)
        assert pool.held == 1
        assert len(pool.permits.leases) == 1
    assert pool.held == 0


@pytest.mark.parametrize("where", ["_wake", "_grant"])
def test_an_interruption_while_a_task_is_woken_comes_out_and_hangs_none(
    store: Any, name: str, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    semaphore = AsyncSemaphore(name, 1, max_sleep=3600, expiry=3600, connection=store)
    original = getattr(LoopLine, where)
    interrupted: list[str] = []

    def interrupt_once(self: LoopLine, *args: Any) -> None:
        if not interrupted:
            interrupted.append(where)
            raise Interruption
        original(self, *args)

    async def enter() -> str:
        try:
            async with semaphore:
                return "in"
        except Interruption:
            return "interrupted"

    async def main() -> list[str]:
        async with semaphore:
            tasks = [asyncio.ensure_future(enter()) for _ in range(3)]
            while semaphore._pool.waiting < 3:
                await asyncio.sleep(0.001)
            monkeypatch.setattr(LoopLine, where, interrupt_once)
        return list(await asyncio.wait_for(asyncio.gather(*tasks), 60))

    ended = asyncio.run(main())
    assert interrupted
    assert "interrupted" in ended
    assert set(ended) <= {"in", "interrupted"}


def test_a_block_is_left_though_memory_is_short_again_and_again(
    store: Any, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was raised first comes out, and what a handler raised meanwhile is its context."""
    semaphore = SyncSemaphore(name, 1, max_sleep=1, expiry=3600, connection=store)
    pool: Any = semaphore._pool
    original = type(pool)._end
    errors: list[BaseException] = [
        *[MemoryError() for _ in range(20)],
        Interruption("later"),
        *[MemoryError() for _ in range(20)],
        Interruption("first"),
    ]

    def fails(self: Any, *args: Any) -> None:
        if errors:
            raise errors.pop()
        original(self, *args)

    semaphore.__enter__()
    monkeypatch.setattr(type(pool), "_end", fails)
    with pytest.raises(Interruption, match="first") as caught:
        semaphore.__exit__(None, None, None)
    contexts = []
    error: BaseException | None = caught.value
    while error is not None:
        contexts.append(str(error))
        error = error.__context__
    assert "later" in contexts
    assert not errors
    assert not pool.permits.leases
    assert not pool._entries


def _no_answer(*words: object) -> None:
    raise StoreUnavailableError("away")

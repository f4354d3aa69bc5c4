"""Which permit ends when a block is left, wherever the permits are: each object of a semaphore
knows who has entered through it.
"""

from __future__ import annotations

import asyncio
import os
import threading
import time
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from headway import MemoryStore
from headway.limiters import AsyncSemaphore, MaxSleepExceededError, SyncSemaphore
from headway.limiters._permits import BEAT, Lease, Permits
from headway.store import SharedMemoryStore, SQLiteStore


@pytest.fixture(params=["memory", "shm", "sqlite"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Any]:
    """A store of each kind that keeps permits on this machine."""
    if request.param == "memory":
        yield MemoryStore()
    elif request.param == "sqlite":
        yield SQLiteStore(tmp_path / "permits.db")
    else:
        made = SharedMemoryStore(f"test-entries-{os.getpid()}-{time.monotonic_ns()}", "1M")
        yield made
        made.remove()


@pytest.fixture
def expiry(place: Any) -> float:
    """Seconds. What renews leases in files is a thread, which must come by in time."""
    return 0.2 if isinstance(place, MemoryStore) else 1.5


def in_thread(work: Any, *args: Any) -> None:
    thread = threading.Thread(target=work, args=args)
    thread.start()
    thread.join()


def test_a_permit_left_by_another_thread_is_free_though_a_dead_one_s_has_lapsed(
    place: Any, expiry: float, name: str
) -> None:
    semaphore = SyncSemaphore(name, 1, max_sleep=20, expiry=expiry, connection=place)
    in_thread(semaphore.__enter__)  # has a permit and is gone
    with semaphore:  # once that has lapsed
        pass
    semaphore.__enter__()
    in_thread(semaphore.__exit__, None, None, None)
    assert semaphore._pool.held == 0
    with semaphore:
        assert semaphore._pool.held == 1
    assert semaphore._pool.held == 0


def test_a_permit_awaited_under_wait_for_is_kept_while_its_block_runs(
    place: Any, expiry: float, name: str
) -> None:
    """asyncio.wait_for() of Python 3.11 and earlier awaits in a task that ends at once."""
    semaphore = AsyncSemaphore(name, 1, max_sleep=20, expiry=expiry, connection=place)
    inside: list[int] = []
    most = 0

    async def visit(number: int) -> None:
        nonlocal most
        await asyncio.wait_for(semaphore.__aenter__(), 30)
        inside.append(number)
        most = max(most, len(inside))
        await asyncio.sleep(1.5 * expiry)
        inside.remove(number)
        await semaphore.__aexit__(None, None, None)

    async def main() -> None:
        await asyncio.gather(visit(1), visit(2))

    asyncio.run(main())
    assert most == 1
    assert semaphore._pool.held == 0


def test_an_object_gives_back_only_what_was_taken_through_it(place: Any, name: str) -> None:
    first, second = (
        SyncSemaphore(name, 1, max_sleep=0.01, expiry=60, connection=place) for _ in range(2)
    )
    first.__enter__()
    second.__exit__(None, None, None)
    assert first._pool.held == 1
    with pytest.raises(MaxSleepExceededError):
        second.__enter__()
    first.__exit__(None, None, None)
    first.__exit__(None, None, None)  # one too many: nothing is there to give back
    with second:
        assert second._pool.held == 1


def test_holders_that_never_leave_do_not_pile_up(name: str, store: MemoryStore) -> None:
    semaphore = SyncSemaphore(name, 1, max_sleep=1, expiry=1e-6, connection=MemoryStore())
    for _ in range(500):
        in_thread(semaphore.__enter__)
    semaphore.__enter__()
    assert semaphore._pool.held == 1
    in_thread(semaphore.__exit__, None, None, None)
    assert semaphore._pool.held == 0


def test_a_lease_that_was_handed_over_and_not_claimed_is_as_long_as_its_listener_lives() -> None:
    """So a leave by another thread is not taken for that of a holder whose permit has lapsed."""
    holder: weakref.ref[object] = weakref.ref(threading.current_thread())
    assert Lease("id", holder, 60.0, since=1.0, claimed=False).until == 1.0 + BEAT
    assert Lease("id", holder, 2.0, since=1.0, claimed=False).until == 3.0
    assert Lease("id", holder, 60.0, since=1.0, claimed=True).until == 61.0


def test_a_permit_that_is_freed_is_not_kept_for_one_who_was_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A refused waiter has left the line by then; it does not wait for the keeper to do that."""
    look_after = Permits.look_after

    def late(self: Permits, now: float) -> Any:
        time.sleep(0.2)
        return look_after(self, time.monotonic())

    monkeypatch.setattr(Permits, "look_after", late)
    store = SQLiteStore(str(tmp_path / "permits.db"))
    one, other = (
        SyncSemaphore("name", 1, max_sleep=0.01, expiry=60, connection=store) for _ in range(2)
    )
    one.__enter__()
    with pytest.raises(MaxSleepExceededError):
        other.__enter__()
    one.__exit__(None, None, None)
    other.__enter__()
    other.__exit__(None, None, None)

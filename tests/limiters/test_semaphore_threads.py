"""`SyncSemaphore`: never more threads in the block than its capacity, first come first served, and
a wait that ends after max_sleep.
"""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from effort import examples
from headway import MemoryStore, VirtualClock
from headway.limiters import MaxSleepExceededError, SyncSemaphore

Start = Callable[[Callable[[], Any]], Any]
Asleep = Callable[[Any], None]
Eventually = Callable[..., None]


def queue_up(
    semaphore: SyncSemaphore, start: Start, eventually: Eventually, work: Callable[[], object]
) -> Any:
    """Starts a thread that does `work` with a permit, and returns once it stands in line."""

    def enter() -> None:
        with semaphore:
            work()

    before = semaphore._pool.waiting
    worker = start(enter)
    eventually(lambda: semaphore._pool.waiting > before, "another thread in line")
    return worker


@settings(max_examples=examples(20))
@given(capacity=st.integers(1, 5), threads=st.integers(1, 12))
def test_never_more_threads_than_permits_are_in_the_block(capacity: int, threads: int) -> None:
    semaphore = SyncSemaphore("room", capacity, max_sleep=60, connection=MemoryStore())
    inside, most = [], []

    def work() -> None:
        for _ in range(20):
            with semaphore:
                inside.append(None)
                most.append(len(inside))
                time.sleep(0)
                inside.pop()

    workers = [threading.Thread(target=work) for _ in range(threads)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert len(most) == 20 * threads
    assert max(most) <= capacity
    assert (semaphore._pool.held, semaphore._pool.waiting) == (0, 0)


def test_threads_enter_in_the_order_in_which_they_came(
    name: str, store: MemoryStore, start: Start, eventually: Eventually
) -> None:
    semaphore = SyncSemaphore(name, 1, connection=store)
    entered: list[int] = []
    with semaphore:
        workers = [
            queue_up(semaphore, start, eventually, lambda number=number: entered.append(number))  # type: ignore[misc]
            for number in range(8)
        ]
    for worker in workers:
        worker.result()
    assert entered == list(range(8))


def test_the_permit_goes_to_who_waits_and_not_to_who_comes(
    name: str, store: MemoryStore, start: Start, eventually: Eventually
) -> None:
    """The holder leaves and asks again at once: who waits was first."""
    semaphore = SyncSemaphore(name, 1, connection=store)
    entered: list[str] = []
    with semaphore:
        worker = queue_up(semaphore, start, eventually, lambda: entered.append("waiter"))
    with semaphore:
        entered.append("again")
    worker.result()
    assert entered == ["waiter", "again"]


def test_a_wait_ends_after_max_sleep_and_not_before(
    name: str, clock: VirtualClock, store: MemoryStore, start: Start, eventually: Eventually
) -> None:
    semaphore = SyncSemaphore(name, 1, max_sleep=5, connection=store)
    with semaphore:
        worker = queue_up(semaphore, start, eventually, lambda: None)
        clock.advance(ns=5 * 10**9 - 1)
        worker.join(0.05)
        assert worker.is_alive()
        clock.advance(ns=1)
        with pytest.raises(MaxSleepExceededError) as caught:
            worker.result()
        assert name in str(caught.value)
        assert "max_sleep=5" in str(caught.value)
        assert semaphore._pool.waiting == 0
    with semaphore:
        pass


def test_a_wait_ends_after_max_sleep_in_real_time(name: str, start: Start) -> None:
    semaphore = SyncSemaphore(name, 1, max_sleep=0.1, connection=MemoryStore())

    def enter() -> float:
        began = time.monotonic()
        with pytest.raises(MaxSleepExceededError), semaphore:
            raise AssertionError("entered")
        return time.monotonic() - began

    with semaphore:
        assert start(enter).result() >= 0.1


def test_who_gave_up_leaves_the_line_to_the_others(
    name: str, clock: VirtualClock, store: MemoryStore, start: Start, eventually: Eventually
) -> None:
    patient = SyncSemaphore(name, 1, max_sleep=0, connection=store)
    hasty = SyncSemaphore(name, 1, max_sleep=1, connection=store)
    entered: list[str] = []
    with patient:
        giving_up = queue_up(hasty, start, eventually, lambda: entered.append("hasty"))
        waiting = queue_up(patient, start, eventually, lambda: entered.append("patient"))
        clock.advance(1)
        with pytest.raises(MaxSleepExceededError):
            giving_up.result()
        assert patient._pool.waiting == 1
    waiting.result()
    assert entered == ["patient"]


def test_a_max_sleep_of_nothing_waits_without_end(
    name: str, clock: VirtualClock, store: MemoryStore, start: Start, eventually: Eventually
) -> None:
    semaphore = SyncSemaphore(name, 1, max_sleep=0, connection=store)
    with semaphore:
        worker = queue_up(semaphore, start, eventually, lambda: None)
        clock.advance(86_400 * 365)
        worker.join(0.05)
        assert worker.is_alive()
    worker.result()


def test_a_signal_handler_that_raises_ends_the_wait_and_loses_no_permit(name: str) -> None:
    semaphore = SyncSemaphore(name, 1, max_sleep=0, connection=MemoryStore())

    class Alarm(Exception):
        pass

    def ring(number: int, frame: object) -> None:
        raise Alarm

    before = signal.signal(signal.SIGALRM, ring)
    try:
        with semaphore:
            signal.setitimer(signal.ITIMER_REAL, 0.05)
            with pytest.raises(Alarm), semaphore:
                raise AssertionError("entered")
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    assert (semaphore._pool.held, semaphore._pool.waiting) == (0, 0)


def test_an_exception_in_the_block_passes_and_gives_the_permit_back(
    name: str, store: MemoryStore
) -> None:
    semaphore = SyncSemaphore(name, 1, connection=store)
    with pytest.raises(LookupError), semaphore:
        raise LookupError
    assert semaphore._pool.held == 0


def test_one_thread_may_hold_several_permits(name: str, store: MemoryStore) -> None:
    semaphore = SyncSemaphore(name, 3, connection=store)
    with semaphore, semaphore:
        assert semaphore._pool.held == 2
        with semaphore:
            assert semaphore._pool.held == 3
        assert semaphore._pool.held == 2
    assert semaphore._pool.held == 0


def test_a_permit_may_be_given_back_by_another_thread(
    name: str, store: MemoryStore, start: Start
) -> None:
    semaphore = SyncSemaphore(name, 1, connection=store)
    semaphore.__enter__()
    start(lambda: semaphore.__exit__(None, None, None)).result()
    assert semaphore._pool.held == 0
    with semaphore:
        assert semaphore._pool.held == 1


def test_leaving_without_having_entered_makes_no_permit(name: str, store: MemoryStore) -> None:
    semaphore = SyncSemaphore(name, 1, connection=store)
    other = SyncSemaphore(name, 1, connection=store)
    with semaphore:
        other.__exit__(None, None, None)
        assert semaphore._pool.held == 1
    semaphore.__exit__(None, None, None)
    assert semaphore._pool.held == 0


def test_entering_gives_nothing(name: str, store: MemoryStore) -> None:
    with SyncSemaphore(name, 1, connection=store) as entered:  # type: ignore[func-returns-value]
        assert entered is None


def test_it_is_not_for_async_with(name: str, store: MemoryStore) -> None:
    semaphore: Any = SyncSemaphore(name, 1, connection=store)
    with pytest.raises(AttributeError):
        semaphore.__aenter__  # noqa: B018

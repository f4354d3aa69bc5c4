"""A queue whose `get` ends in time, also where its thread was held up meanwhile."""

from __future__ import annotations

import threading
import time
from queue import Empty

import pytest

from headway._timed_queue import TimedQueue

DEADLINE_S = 30.0


def test_what_is_put_comes_out_in_order() -> None:
    queue: TimedQueue[int] = TimedQueue()
    for number in range(5):
        queue.put(number)
    assert [queue.get(timeout=0) for _ in range(5)] == [0, 1, 2, 3, 4]
    assert queue.empty()
    with pytest.raises(Empty):
        queue.get(timeout=0)


@pytest.mark.parametrize("timeout", [-1.0, 0.0, 1e-6, 1.0])
def test_a_thread_that_was_held_up_for_longer_does_not_wait(
    timeout: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    instants = iter(range(0, 1000, 5))
    monkeypatch.setattr("headway._timed_queue.time.monotonic", lambda: float(next(instants)))
    with pytest.raises(Empty):
        TimedQueue[int]().get(timeout=timeout)


def test_a_wait_is_not_shorter_than_its_timeout() -> None:
    queue: TimedQueue[int] = TimedQueue()
    queue.put(1)
    queue.get(timeout=0)
    began = time.monotonic()
    with pytest.raises(Empty):
        queue.get(timeout=0.02)
    assert time.monotonic() - began >= 0.02


def test_every_item_wakes_one_of_the_threads_that_wait() -> None:
    queue: TimedQueue[int] = TimedQueue()
    got: list[int] = []
    threads = [
        threading.Thread(target=lambda: got.append(queue.get(timeout=DEADLINE_S))) for _ in range(8)
    ]
    for thread in threads:
        thread.start()
    for number in range(8):
        queue.put(number)
    for thread in threads:
        thread.join(DEADLINE_S / 3)
    assert sorted(got) == list(range(8))

"""What threads do at once on an interpreter without a GIL. With a GIL these tests are left out.

Each test is also a program for ThreadSanitizer: `make free-threaded` runs them on an interpreter
that reports data races. There HEADWAY_CROWD_SHARE makes the rounds fewer: each takes longer.
"""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

THREADS = 8
DEADLINE_S = 120.0
HERE = Path(__file__).parent


def has_gil() -> bool:
    return bool(getattr(sys, "_is_gil_enabled", lambda: True)())


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if has_gil():
        leave_out = pytest.mark.skip(
            reason="needs an interpreter without a GIL: make free-threaded"
        )
        for item in items:
            if HERE in item.path.parents:
                item.add_marker(leave_out)


def share_of(count: int) -> int:
    """A number of rounds, or the share of it that this run asks for."""
    return max(1, int(count * float(os.environ.get("HEADWAY_CROWD_SHARE", "1"))))


class Crowd:
    """Threads that begin at one instant; what they returned or raised comes back."""

    def __call__(self, work: Callable[[int], Any], threads: int = THREADS) -> list[Any]:
        barrier = threading.Barrier(threads)
        results: list[Any] = [None] * threads
        errors: list[BaseException] = []

        def run(number: int) -> None:
            try:
                barrier.wait(DEADLINE_S)
                results[number] = work(number)
            except BaseException as error:
                errors.append(error)

        crowd = [threading.Thread(target=run, args=(n,), daemon=True) for n in range(threads)]
        for thread in crowd:
            thread.start()
        for thread in crowd:
            thread.join(DEADLINE_S)
            if thread.is_alive():
                pytest.fail(f"a thread was still busy after {DEADLINE_S} s")
        if errors:
            raise errors[0]
        return results


@pytest.fixture
def crowd() -> Crowd:
    """Runs `work(number)` in eight threads at once and returns what each returned."""
    return Crowd()


@pytest.fixture
def rounds() -> Callable[[int], int]:
    """`rounds(n)`: n, or the share of it that this run asks for."""
    return share_of

"""A signal's handler that raises in the middle of an operation on a file: nothing stays locked, and
what was committed counts once.
"""

from __future__ import annotations

import contextlib
import sqlite3
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from headway import SQLiteStore, Throttled
from interrupting import Interruption, interruptions


def add_one(old: bytes | None) -> tuple[bytes, int]:
    new = int(old or b"0") + 1
    return str(new).encode(), new


def is_free(path: Path) -> bool:
    """Whether another connection can write the file at once."""
    other = sqlite3.connect(path, timeout=0, isolation_level=None)
    try:
        other.execute("BEGIN IMMEDIATE")
        other.execute("ROLLBACK")
    except sqlite3.OperationalError:
        return False
    finally:
        other.close()
    return True


def operations(store: SQLiteStore) -> dict[str, Callable[[], object]]:
    throttle = Throttled(using="fixed_window", quota="1000000/d", store=store)
    return {
        "update": lambda: store.update(b"k", add_one),
        "limit": lambda: throttle.limit("k"),
        "try": lambda: store._try_update(_step(throttle)),
        "get": lambda: store.get(b"k"),
        "clear": lambda: store.clear(b"other"),
        "open": lambda: (store.close(), store.update(b"k", add_one)),
    }


def _step(throttle: Throttled) -> Any:
    """The step that a limiter makes, as the store gets it."""
    seen: list[Any] = []
    store = throttle.store
    original = SQLiteStore._update
    try:
        SQLiteStore._update = lambda self, step: (seen.append(step), original(self, step))  # type: ignore
        throttle.limit("seen")
    finally:
        SQLiteStore._update = original  # type: ignore[method-assign]
    assert store is throttle.store
    return seen[0]


@pytest.mark.parametrize("name", ["update", "limit", "try", "get", "clear", "open"])
def test_wherever_an_operation_is_interrupted_the_file_is_free_and_the_store_goes_on(
    name: str, tmp_path: Path
) -> None:
    path = tmp_path / "x.db"
    store = SQLiteStore(path, busy_timeout=0.5)
    places = 0
    for place in interruptions(operations(store)[name]):
        places += 1
        assert is_free(path), place
        answers: list[int] = []
        other = threading.Thread(target=lambda: answers.append(store.update(b"o", add_one)))  # noqa: B023
        other.daemon = True
        other.start()
        other.join(20)
        assert answers == [places], place
    assert places > 2


def test_the_steps_of_other_threads_run_once_where_the_commit_is_interrupted(
    tmp_path: Path, eventually: Callable[..., None], start: Callable[..., Any]
) -> None:
    """The connection raises after its COMMIT, as Python does when a signal came meanwhile."""
    store = SQLiteStore(tmp_path / "x.db")
    connection = store._open
    inside, goes_on = threading.Event(), threading.Event()
    raising = True

    class Connection:
        def execute(self, sql: str, *words: Any) -> Any:
            nonlocal raising
            answer = connection.execute(sql, *words)  # type: ignore[union-attr]
            if sql == "COMMIT" and raising:
                raising = False
                raise Interruption
            return answer

        def __getattr__(self, name: str) -> Any:
            return getattr(connection, name)

    def slow(old: bytes | None) -> tuple[bytes, int]:
        inside.set()
        goes_on.wait(20)
        return add_one(old)

    holder = start(lambda: _without(Interruption, lambda: store.update(b"first", slow)))
    assert inside.wait(20)
    others = [start(lambda: store.update(b"k", add_one)) for _ in range(5)]
    eventually(lambda: len(store._jobs) == 6, "five more in the queue")
    # The first transaction ends well and the second, of the five, is the one that is interrupted.
    raising = False
    store._open = Connection()  # type: ignore[assignment]
    raising = True
    goes_on.set()
    holder.result()
    assert sorted(other.result() for other in others) == [1, 2, 3, 4, 5]
    assert store.get(b"k") == b"5"


def _without(kind: type[BaseException], work: Callable[[], object]) -> None:
    with contextlib.suppress(kind):
        work()


def test_a_step_that_uses_its_store_gets_an_error_and_no_deadlock(tmp_path: Path) -> None:
    store = SQLiteStore(tmp_path / "x.db")

    def step(old: bytes | None) -> tuple[bytes | None, object]:
        return old, store.update(b"k", add_one)

    with pytest.raises(Exception, match="in the middle of a transaction"):
        store.update(b"k", step)
    assert store.update(b"k", add_one) == 1

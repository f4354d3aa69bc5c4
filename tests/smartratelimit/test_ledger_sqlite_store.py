"""SQLiteStore on its own: the pure step over bytes makes a limiter of it."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from headway import per_hour
from headway._core import now_ns
from headway._sqlite_store import SQLiteStore, path_of
from headway.algorithms import ALGORITHMS, step
from headway.exceptions import SetUpError


@pytest.mark.parametrize("using", ALGORITHMS)
def test_threads_admit_exactly_the_quota(using: str, tmp_path: Path) -> None:
    store = SQLiteStore(tmp_path / "x.db")
    quota, now = per_hour(60), now_ns()
    admitted: list[bool] = []

    def one(state: bytes | None) -> tuple[bytes | None, bool]:
        new, result = step(state, quota, 1, now, using=using)
        return new, bool(result)

    def ask() -> None:
        admitted.extend(store.update(b"k", one) for _ in range(20))

    threads = [threading.Thread(target=ask) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert sum(admitted) == 60


def test_what_has_run_out_is_gone(tmp_path: Path) -> None:
    store = SQLiteStore(tmp_path / "x.db")
    store.update(b"k", lambda _: (b"kept", None))
    store.update(b"brief", lambda _: (b"old", None), ttl_ns=-1)
    assert store.get(b"brief") is None
    assert store.update(b"brief", lambda old: (None, old)) is None
    assert store.keys() == [b"k"]


def test_none_deletes(tmp_path: Path) -> None:
    store = SQLiteStore(tmp_path / "x.db")
    store.update(b"k", lambda _: (b"kept", None))
    assert store.update(b"k", lambda old: (None, old)) == b"kept"
    assert store.keys() == []


def test_the_file_outlives_the_store(tmp_path: Path) -> None:
    store = SQLiteStore(tmp_path / "x.db")
    store.update(b"k", lambda _: (b"kept", None))
    store.close()
    assert store.get(b"k") == b"kept"
    assert SQLiteStore(f"sqlite:///{tmp_path}/x.db").get(b"k") == b"kept"


def test_urls_are_read_as_they_are_written_elsewhere() -> None:
    assert path_of("sqlite:///relative/x.db") == "relative/x.db"
    assert path_of("sqlite:////absolute/x.db") == "/absolute/x.db"
    assert path_of("sqlite:///:memory:") == path_of("sqlite://") == ":memory:"
    for wrong in ("sqlite:x", "sqlite://host/x", "sqlite:///x?mode=ro", "redis:///x"):
        with pytest.raises(SetUpError, match="Invalid store"):
            path_of(wrong)


@pytest.mark.parametrize("wrong", ["", None, 3, b""])
def test_what_is_no_path_is_refused(wrong: object) -> None:
    with pytest.raises(SetUpError, match="Invalid path"):
        SQLiteStore(wrong)  # type: ignore[arg-type]
    with pytest.raises(SetUpError, match="Invalid busy_timeout"):
        SQLiteStore(":memory:", busy_timeout=0)

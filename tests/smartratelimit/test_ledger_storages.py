"""Storages: what is changed is changed by one at a time, in threads, tasks and processes."""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from headway._core import Ledger, now_ns
from headway.exceptions import BaseThrottledError
from headway.smartratelimit.exceptions import StorageUnavailable
from headway.smartratelimit.storage import MemoryStorage, SQLiteStorage, Storage, open_storage

HOUR = 3600 * 10**9
DEADLINE_S = 60


@pytest.fixture(scope="module")
def redis_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    if shutil.which("redis-server") is None:
        pytest.skip("redis-server is not installed")
    place = tmp_path_factory.mktemp("redis") / "socket"
    server = subprocess.Popen(
        ["redis-server", "--port", "0", "--unixsocket", str(place), "--save", ""],
        stdout=subprocess.DEVNULL,
        cwd=place.parent,
    )
    end = time.monotonic() + DEADLINE_S
    while not place.exists() and time.monotonic() < end:
        time.sleep(0.01)
    yield f"unix://{place}"
    server.terminate()
    server.wait()


@pytest.fixture(params=["memory", "sqlite", "redis"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "memory":
        return "memory"
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/limits.db"
    found: str = request.getfixturevalue("redis_url")
    open_storage(found).clear()
    return found


@pytest.fixture
def storage(url: str) -> Iterator[Storage]:
    storage = open_storage(url)
    yield storage
    storage.close()


def grants(storage: Storage, key: str, most: int = 1000) -> int:
    taken = 0
    while taken < most and isinstance(storage.change(key, "reserve", None, now_ns(), HOUR), bytes):
        taken += 1
    return taken


def test_a_ledger_is_kept(storage: Storage) -> None:
    storage.change("https://a", "configure", "requests", 5, HOUR)
    assert grants(storage, "https://a") == 5
    ledger = storage.look("https://a")
    assert ledger is not None
    assert ledger.status(now_ns())[0][0][3] == 0
    assert storage.look("https://b") is None


def test_clearing_a_host_clears_its_paths_and_no_other_host(storage: Storage) -> None:
    for key in ("https://a", "https://a/search", "https://a.evil", "https://a:8443"):
        storage.change(key, "configure", "requests", 5, HOUR)
    assert len(storage.keys()) == 4
    storage.clear("https://a")
    assert sorted(storage.keys()) == ["https://a.evil", "https://a:8443"]
    storage.clear()
    assert storage.keys() == []


def test_a_step_that_fails_changes_nothing_and_harms_nobody(storage: Storage) -> None:
    storage.change("k", "configure", "requests", 5, HOUR)
    with pytest.raises(ValueError, match="Invalid limit"):
        storage.change("k", "configure", "requests", 0, HOUR)
    assert grants(storage, "k") == 5


def test_threads_never_take_more_than_there_is(storage: Storage) -> None:
    storage.change("k", "configure", "requests", 100, 1000 * HOUR)
    taken: list[int] = []
    threads = [
        threading.Thread(target=lambda: taken.append(grants(storage, "k"))) for _ in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(DEADLINE_S)
    assert sum(taken) == 100


def test_tasks_never_take_more_than_there_is(storage: Storage) -> None:
    storage.change("k", "configure", "requests", 100, 1000 * HOUR)

    async def one() -> bool:
        answer = await storage.change_async("k", "reserve", None, now_ns(), HOUR)
        return isinstance(answer, bytes)

    async def main() -> int:
        return sum(await asyncio.gather(*[one() for _ in range(130)]))

    assert asyncio.run(main()) == 100


def test_a_task_that_is_cancelled_holds_nobody_up(storage: Storage) -> None:
    storage.change("k", "configure", "requests", 100, 1000 * HOUR)

    async def one() -> Any:
        return await storage.change_async("k", "reserve", None, now_ns(), HOUR)

    async def main() -> int:
        tasks = [asyncio.create_task(one()) for _ in range(30)]
        await asyncio.sleep(0)
        for task in tasks[::3]:
            task.cancel()
        done = await asyncio.wait_for(
            asyncio.gather(*tasks, return_exceptions=True), timeout=DEADLINE_S
        )
        return sum(isinstance(answer, bytes) for answer in done)

    assert asyncio.run(main()) >= 20


def _take(url: str, out: Any) -> None:
    out.put(grants(open_storage(url), "k"))


@pytest.mark.slow
@pytest.mark.parametrize("url", ["sqlite", "redis"], indirect=True)
def test_four_processes_never_take_more_than_there_is(url: str) -> None:
    open_storage(url).change("k", "configure", "requests", 600, 1000 * HOUR)
    context = multiprocessing.get_context("spawn")
    out = context.Queue()
    processes = [context.Process(target=_take, args=(url, out)) for _ in range(4)]
    for process in processes:
        process.start()
    taken = [out.get(timeout=DEADLINE_S) for _ in processes]
    for process in processes:
        process.join(DEADLINE_S)
    assert sum(taken) == 600


_KILLED = """
import sys
from headway._core import now_ns
from headway.smartratelimit.storage import open_storage
storage = open_storage(sys.argv[1])
for n in range(10**9):
    storage.change("k", "reserve", None, now_ns(), 0)
    print(n + 1, flush=True)
"""


@pytest.mark.slow
@pytest.mark.parametrize("url", ["sqlite", "redis"], indirect=True)
def test_a_process_that_is_killed_loses_and_adds_nothing(url: str) -> None:
    storage = open_storage(url)
    storage.change("k", "configure", "requests", 10**6, 80_000 * HOUR)
    for _ in range(3):
        before = _remaining(storage)
        child = subprocess.Popen(
            [sys.executable, "-c", _KILLED, url], stdout=subprocess.PIPE, text=True
        )
        assert child.stdout is not None
        said = [child.stdout.readline() for _ in range(50)]
        os.kill(child.pid, signal.SIGKILL)
        said += child.stdout.readlines()
        child.wait()
        whole = [line for line in said if line.endswith("\n")]
        counted = before - _remaining(storage)
        # It may have been killed between taking and saying so.
        assert int(whole[-1]) <= counted <= int(whole[-1]) + 1


def _remaining(storage: Storage) -> int:
    ledger = storage.look("k")
    assert ledger is not None
    remaining = ledger.status(now_ns())[0][0][3]
    assert remaining is not None
    return remaining


def test_a_fork_leaves_the_parents_file_alone(tmp_path: Path) -> None:
    storage = SQLiteStorage(str(tmp_path / "x.db"))
    storage.change("k", "configure", "requests", 10, 1000 * HOUR)
    child = os.fork()
    if child == 0:
        os._exit(grants(storage, "k", 4))
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 4
    assert grants(storage, "k") == 6


def test_what_cannot_be_opened_says_why_at_once(tmp_path: Path) -> None:
    (tmp_path / "text").write_text("this is no database, though it is long enough to be read" * 99)
    with sqlite3.connect(tmp_path / "other.db") as other:
        other.execute("CREATE TABLE mine (x)")
    with sqlite3.connect(tmp_path / "newer.db") as newer:
        newer.execute(f"PRAGMA application_id = {0x68647779}")
        newer.execute("PRAGMA user_version = 9")
        newer.execute("CREATE TABLE headway_states (x)")
    for name, why in (
        ("text", "not a database"),
        ("other.db", "another program's"),
        ("newer.db", "version 9"),
        ("missing/x.db", "there is no directory"),
        ("", "cannot be opened"),
    ):
        with pytest.raises(StorageUnavailable, match=why):
            SQLiteStorage(str(tmp_path / name))
    with pytest.raises(StorageUnavailable, match=r"127\.0\.0\.1"):
        open_storage("redis://127.0.0.1:1/0")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anything")
def test_a_file_that_cannot_be_written_says_so(tmp_path: Path) -> None:
    SQLiteStorage(str(tmp_path / "x.db")).close()
    (tmp_path / "x.db").chmod(0o400)
    with pytest.raises(StorageUnavailable, match="cannot be written"):
        SQLiteStorage(str(tmp_path / "x.db"))


@pytest.mark.parametrize("wrong", ["mysql://x", "", "sqlite:x.db", "sqlite://x/y", object(), None])
def test_what_is_no_storage_is_refused(wrong: object) -> None:
    with pytest.raises((ValueError, BaseThrottledError), match=r"storage|store"):
        open_storage(wrong)


def test_an_object_of_ones_own_is_a_storage_when_it_can_update() -> None:
    class Own:
        def __init__(self) -> None:
            self.kept: dict[str, bytes] = {}

        def update(self, key: str, step: Any) -> Any:
            self.kept[key], answer = step(self.kept.get(key))
            return answer

        def get(self, key: str) -> bytes | None:
            return self.kept.get(key)

        def keys(self) -> list[str]:
            return list(self.kept)

        def clear(self, key: str | None = None) -> None:
            self.kept.clear()

    storage = open_storage(Own())
    storage.change("k", "configure", "requests", 3, HOUR)
    assert grants(storage, "k") == 3

    class Old:
        def get_rate_limit(self, endpoint: str) -> None: ...

    with pytest.raises(ValueError, match=r"no update, get, keys, clear\."):
        open_storage(Old())


def test_relative_and_absolute_urls_name_different_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "there").mkdir()
    open_storage("sqlite:///here.db").close()
    open_storage(f"sqlite:///{tmp_path}/there/x.db").close()
    assert (tmp_path / "here.db").exists()
    assert (tmp_path / "there" / "x.db").exists()
    open_storage("sqlite:///:memory:").change("k", "configure", "requests", 3, HOUR)
    assert not (tmp_path / ":memory:").exists()


def test_memory_works_on_the_ledger_itself() -> None:
    storage = MemoryStorage()
    assert storage.ledger("k") is storage.ledger("k")
    assert isinstance(storage.ledger("k"), Ledger)


@pytest.mark.parametrize("bad", [b"", b"L", b"L\x01", b"L\x02\x00\x00\x01\x00", b"\xff" * 40, "x"])
def test_bytes_that_are_no_ledger_are_refused(bad: Any) -> None:
    with pytest.raises(BaseThrottledError, match="Invalid state"):
        Ledger(bad)

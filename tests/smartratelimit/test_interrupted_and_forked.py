"""Handlers of signals that raise, forks, many threads, clocks that are set: the limiters of clients
go on, and nothing of it is taken for a failing storage.
"""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from servers import RedisServer

from headway.smartratelimit import RateLimiter, RateLimitExceeded
from headway.smartratelimit._scopes import Routes
from headway.smartratelimit.metrics import MetricsCollector
from headway.smartratelimit.storage import MemoryStorage, RedisStorage, StorageUnavailable
from interrupting import interruptions

URL = "https://a.example/x"
needs_fork = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
quiet = pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")


def used_up(limiter: RateLimiter, seconds: float) -> None:
    entry = limiter._enter("GET", URL, {}, None)
    after = str(seconds).encode()
    limiter._learn(
        entry,
        None,
        [
            (b"X-RateLimit-Limit", b"1"),
            (b"X-RateLimit-Remaining", b"0"),
            (b"X-RateLimit-Reset-After", after),
            (b"Retry-After", after),
        ],
        429,
        "GET",
        URL,
    )


def lines_of(limiter: RateLimiter) -> list[Any]:
    return [line for scope in limiter._scopes.known() for line in scope.lines.values()]


@pytest.fixture(params=["memory", "sqlite"])
def storage(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return "memory" if request.param == "memory" else f"sqlite:///{tmp_path / 'x.db'}"


def test_wherever_a_wait_is_interrupted_the_line_is_empty_and_no_request_goes_unlimited(
    storage: str,
) -> None:
    limiter = RateLimiter(storage, use_provider_profiles=False, max_wait=1000)
    used_up(limiter, 900)
    limiter._max_wait_ns = 10**9  # so that the wait ends with a refusal

    def work() -> None:
        with pytest.raises(RateLimitExceeded):
            limiter._queue(*limiter._find("GET", URL, {}), _line(limiter), None)

    for place in interruptions(work):
        assert not any(line.waiters for line in lines_of(limiter)), place
        assert not limiter._is_failing, place


def _line(limiter: RateLimiter) -> Any:
    scope, resource = limiter._find("GET", URL, {})
    return scope.line(resource)


def in_child(work: Callable[[], object]) -> None:
    """Run the work in a fork's child; fail if it does not end within 30 s, or not well."""
    pid = os.fork()
    if pid == 0:
        try:
            work()
            os._exit(0)
        finally:
            os._exit(1)
    end = time.monotonic() + 30
    while True:
        done, status = os.waitpid(pid, os.WNOHANG)
        if done:
            assert status == 0, "the child failed"
            return
        if time.monotonic() > end:
            os.kill(pid, 9)
            os.waitpid(pid, 0)
            pytest.fail("the child hangs")
        time.sleep(0.005)


@needs_fork
@quiet
def test_nobody_of_the_parent_stands_in_the_childs_line(
    eventually: Callable[..., None], start: Callable[..., Any]
) -> None:
    limiter = RateLimiter(use_provider_profiles=False)
    used_up(limiter, 2)
    waiting = start(lambda: limiter._enter("GET", URL, {}, None))
    eventually(lambda: any(line.waiters for line in lines_of(limiter)), "one in line")
    in_child(lambda: limiter._enter("GET", URL, {}, None))
    waiting.result()


@pytest.fixture
def busy() -> Iterator[Callable[[Callable[[], object]], None]]:
    """Does something in two threads until the test ends."""
    ends = threading.Event()
    threads: list[threading.Thread] = []

    def run(work: Callable[[], object]) -> None:
        def repeat() -> None:
            while not ends.is_set():
                work()

        for _ in range(2):
            threads.append(threading.Thread(target=repeat, daemon=True))
            threads[-1].start()

    yield run
    ends.set()
    for thread in threads:
        thread.join(30)


@needs_fork
@quiet
def test_a_child_may_use_a_storage_on_redis_whatever_threads_of_the_parent_do(
    own_server: RedisServer, busy: Callable[..., None]
) -> None:
    limiter = RateLimiter(own_server.url, use_provider_profiles=False, max_wait=5)

    def request() -> None:
        limiter._lose(limiter._enter("GET", URL, {}, None), False)

    busy(request)
    for _ in range(5):
        in_child(request)


@needs_fork
@quiet
def test_a_child_may_use_the_metrics_whatever_threads_of_the_parent_do() -> None:
    metrics = MetricsCollector()
    holds, ends = threading.Event(), threading.Event()

    def hold() -> None:
        with metrics._lock:
            holds.set()
            ends.wait(60)

    holder = threading.Thread(target=hold)
    holder.start()
    try:
        assert holds.wait(20)
        in_child(metrics.export_prometheus)
    finally:
        ends.set()
        holder.join(20)


def test_many_resources_in_many_threads_lose_no_response() -> None:
    routes = Routes()
    errors: list[BaseException] = []

    def learn(first: int) -> None:
        try:
            for number in range(4000):
                routes.learn("GET", f"/r{number % 7}", f"b{(first + number) % 300}", 1)
                routes.resource("GET", f"/r{number % 7}")
        except BaseException as error:
            errors.append(error)

    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    try:
        threads = [threading.Thread(target=learn, args=(40 * n,)) for n in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
    finally:
        sys.setswitchinterval(interval)
    assert errors == []
    assert len(routes.counts) <= 64 + len(threads)


def test_a_wall_clock_that_is_set_back_holds_nobody_up(
    storage: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, back = time.time_ns, [0]
    monkeypatch.setattr(time, "time_ns", lambda: real() - back[0])
    limiter = RateLimiter(storage, use_provider_profiles=False, max_wait=10)
    used_up(limiter, 1)
    back[0] = 3600 * 10**9
    limiter._enter("GET", URL, {}, None)


def test_a_storage_on_redis_goes_by_the_servers_clock(own_server: RedisServer) -> None:
    storage = RedisStorage(own_server.url)
    seconds, micros = storage._command(b"x", "TIME")
    assert abs(storage.now() - (int(seconds) * 10**9 + int(micros) * 1000)) < 10**9
    assert storage.now != time.time_ns


def test_a_server_that_does_not_answer_is_the_answer_to_all_in_line(
    own_server: RedisServer,
    monkeypatch: pytest.MonkeyPatch,
    start: Callable[..., Any],
    eventually: Callable[..., None],
) -> None:
    storage = RedisStorage(own_server.url)
    asked, goes_on = threading.Event(), threading.Event()
    swaps: list[int] = []

    def fail(*words: object) -> None:
        swaps.append(1)
        asked.set()
        goes_on.wait(30)
        raise StorageUnavailable("no answer")

    monkeypatch.setattr(storage, "_swap", fail)
    step = lambda old: (old, None)  # noqa: E731
    workers = [start(lambda: storage.update("key", step)) for _ in range(5)]
    assert asked.wait(20)
    eventually(lambda: len(storage._lines["key"].jobs) == 4, "four behind the first")
    goes_on.set()
    for worker in workers:
        with pytest.raises(StorageUnavailable):
            worker.result()
    assert len(swaps) == 1


def test_what_a_storage_on_redis_remembers_of_keys_is_bounded(
    own_server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("headway.smartratelimit.storage.SCOPES_MAX", 50)
    storage = RedisStorage(own_server.url)
    for number in range(200):
        storage.update(f"https://a.example/#{number}", lambda old: (b"x", None))
    assert len(storage._lines) <= 50


def test_keys_below_a_host_are_found_without_looking_at_others() -> None:
    storage = MemoryStorage(max_scopes=8)
    for key in ("https://a.example", "https://a.example/x", "https://a.example/#1"):
        storage.ledger(key)
    storage.ledger("https://b.example/y")
    assert sorted(storage.keys_under("https://a.example")) == [
        "https://a.example/#1",
        "https://a.example/x",
    ]
    storage.clear("https://a.example/x")
    assert storage.keys_under("https://a.example") == ["https://a.example/#1"]
    for number in range(100):
        storage.ledger(f"https://c{number}.example/z")
    assert len(storage._nested) <= 8

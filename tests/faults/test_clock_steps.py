"""What a step of a wall clock does to each store, by the table in docs/processes.md.

A library that is loaded before libc's moves the wall clock of a process, or of a Redis server, back
and forth while the monotonic clock goes on: as when a clock is set, and as after a suspension, in
which the monotonic clock stood.
"""

from __future__ import annotations

import mmap
import os
import secrets
import shutil
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from headway import RedisStore, Throttled
from headway._shm_store import path_of
from headway.limiters import MaxSleepExceededError, SyncSemaphore

USINGS = ["token_bucket", "leaking_bucket", "gcra", "fixed_window", "sliding_window"]
DEADLINE_S = 60.0
HOUR_S = 3600
YEAR_S = 365 * 24 * HOUR_S

pytestmark = pytest.mark.skipif(
    sys.platform != "linux" or shutil.which("cc") is None, reason="needs LD_PRELOAD and a compiler"
)


class Clock:
    """The wall clock of the processes that `variables` are given to."""

    def __init__(self, folder: Path) -> None:
        library = folder / "clock_shim.so"
        source = Path(__file__).with_name("clock_shim.c")
        subprocess.run(["cc", "-shared", "-fPIC", "-O1", source, "-o", library, "-ldl"], check=True)
        file = folder / "clock"
        file.write_bytes(bytes(8))
        self.variables = {"LD_PRELOAD": str(library), "CLOCK_SHIM": str(file)}
        with file.open("r+b") as opened:
            self._page = mmap.mmap(opened.fileno(), 8)

    def step(self, seconds: int) -> None:
        """Put the clock off by so much, in all."""
        self._page[:8] = struct.pack("<q", seconds * 1_000_000)


@pytest.fixture
def clock(tmp_path: Path) -> Clock:
    return Clock(tmp_path)


@pytest.fixture(params=["memory", "shm", "sqlite"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    name = f"test-{os.getpid()}-{secrets.token_hex(4)}"
    yield {
        "memory": "memory://",
        "shm": f"shm:///{name}",
        "sqlite": f"sqlite:///{tmp_path}/limits.db",
    }[request.param]
    path_of(name).unlink(missing_ok=True)


CHILD = f"""
import os, struct, sys, time
from headway import Throttled
from headway.limiters import MaxSleepExceededError, SyncSemaphore
from headway.smartratelimit import RateLimiter
from headway.smartratelimit.exceptions import RateLimitExceeded
from headway.store import from_any

url, role = sys.argv[1:]
USINGS = {USINGS!r}
store = from_any(url)

def step(seconds):
    before = time.time()
    with open(os.environ["CLOCK_SHIM"], "r+b") as file:
        file.write(struct.pack("<q", seconds * 1_000_000))
    return time.time() - before

def long(using):
    return Throttled(using=using, quota="1/3650d", store=store, key_prefix="long")

def soon(using):
    return Throttled(using=using, quota="1/100ms", store=store, key_prefix="soon")

def admitted_soon(limiter):
    end = time.monotonic() + {DEADLINE_S}
    while not limiter.limit("k"):
        assert time.monotonic() < end, "locked out"
        time.sleep(0.01)

def held(semaphore):
    try:
        with semaphore:
            return False
    except MaxSleepExceededError:
        return True

def still_limited():
    for using in USINGS:
        result = long(using).limit("k")
        assert result.limited, using
        assert 0 < result.state.retry_after <= {2 * 3650 * 24 * HOUR_S}, (using, result.state)
        admitted_soon(soon(using))

if role == "first":
    for using in USINGS:
        assert long(using).limit("k")
        assert soon(using).limit("k")
    permit = SyncSemaphore("s", 1, 0.05, 60, store)
    storage = url if url.startswith("sqlite") else "memory"
    ledgers = [RateLimiter(storage=storage, max_wait=0)]
    for limiter in ledgers:
        limiter.set_limit("https://a.example", 1, "1h")
        limiter._enter("GET", "https://a.example/", {{}}, None)
    with permit:
        for seconds in ({HOUR_S}, -{HOUR_S}, {10 * YEAR_S}, -{10 * YEAR_S}):
            step(0)
            moved = step(seconds)
            assert abs(moved - seconds) < {DEADLINE_S}, "the shim moves no clock"
            still_limited()
            assert held(SyncSemaphore("s", 1, 0.05, 60, store)), seconds
            for limiter in ledgers:
                try:
                    limiter._enter("GET", "https://a.example/", {{}}, None)
                except RateLimitExceeded as error:
                    assert error.retry_after <= {HOUR_S}, error
                else:
                    raise AssertionError("let in again")
    assert not held(permit)
else:
    still_limited()
"""


def child(url: str, role: str, clock: Clock) -> None:
    done = subprocess.run(
        [sys.executable, "-c", CHILD, url, role],
        env=os.environ | clock.variables,
        capture_output=True,
        encoding="utf-8",
        timeout=4 * DEADLINE_S,
        check=False,
    )
    assert done.returncode == 0, done.stderr


def test_a_step_of_the_wall_clock_changes_nothing_in_stores_of_the_machine(
    url: str, clock: Clock
) -> None:
    child(url, "first", clock)
    if url != "memory://":
        for seconds in (-10 * YEAR_S, HOUR_S):
            clock.step(seconds)
            child(url, "one that starts after the step", clock)


@pytest.fixture
def store(clock: Clock, tmp_path: Path) -> Iterator[RedisStore]:
    """On a server whose clock is `clock`."""
    if shutil.which("redis-server") is None:
        pytest.skip("redis-server is not installed")
    place = tmp_path / "socket"
    server = subprocess.Popen(
        ["redis-server", "--port", "0", "--unixsocket", str(place), "--save", ""],
        env=os.environ | clock.variables,
        stdout=subprocess.DEVNULL,
        cwd=tmp_path,
    )
    end = time.monotonic() + DEADLINE_S
    with socket.socket(socket.AF_UNIX) as asking:
        while asking.connect_ex(str(place)) != 0 and time.monotonic() < end:
            time.sleep(0.01)
    yield RedisStore(f"unix://{place}")
    server.terminate()
    server.wait()


def taken(limiter: Throttled) -> int:
    """How many calls are let in at once, of more than there can be."""
    return sum(bool(limiter.limit("k")) for _ in range(12))


@pytest.mark.parametrize("using", USINGS)
def test_a_server_whose_clock_is_set_forward_gives_one_quota_more(
    store: RedisStore, clock: Clock, using: str
) -> None:
    limiter = Throttled(using=using, quota="5/h", store=store)
    assert taken(limiter) == 5
    for seconds in (3 * HOUR_S, 10 * YEAR_S):
        clock.step(seconds)
        assert taken(limiter) == 5


@pytest.mark.parametrize("using", ["fixed_window", "sliding_window"])
def test_a_server_whose_clock_is_set_back_begins_a_new_window(
    store: RedisStore, clock: Clock, using: str
) -> None:
    limiter = Throttled(using=using, quota="5/h", store=store)
    assert taken(limiter) == 5
    for seconds in (-3 * HOUR_S, -10 * YEAR_S):
        clock.step(seconds)
        assert taken(limiter) == 5
        assert limiter.limit("k").state.retry_after <= 2 * HOUR_S


@pytest.mark.parametrize("using", USINGS[:3])
def test_a_bucket_on_a_server_whose_clock_is_set_back_denies_for_the_step_longer(
    store: RedisStore, clock: Clock, using: str
) -> None:
    limiter = Throttled(using=using, quota="5/h", store=store)
    assert taken(limiter) == 5
    clock.step(-3 * HOUR_S)
    state = limiter.limit("k").state
    assert 3 * HOUR_S < state.retry_after <= 3 * HOUR_S + HOUR_S / 5
    limiter.reset("k")
    assert taken(limiter) == 5


def test_a_servers_clock_decides_when_a_lease_is_over(store: RedisStore, clock: Clock) -> None:
    def semaphore() -> SyncSemaphore:
        return SyncSemaphore("s", 1, 0.2, 30, store)

    with semaphore():
        with pytest.raises(MaxSleepExceededError), semaphore():
            pass
        clock.step(-HOUR_S)
        with pytest.raises(MaxSleepExceededError), semaphore():
            pass
        clock.step(HOUR_S)  # the lease is over, its holder is not
        with semaphore():
            pass
    with semaphore():
        pass

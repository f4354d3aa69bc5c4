"""Several processes, with leases and without, on one key: together never more than the quota, in
any interval, and not noticeably less where they are kept busy and have the machine to themselves.

Every admission is stamped before the call and after it. Were more than `b + t/T` admitted in an
interval, more than that would have been stamped between its first start and its last end.
"""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from ports import until
from servers import RedisServer

from headway import Throttled
from headway.store import RedisStore

SECONDS = 1.2
Stamp = tuple[float, float]
"""Before the call and after it."""

CHILD = Path(__file__).with_name("lease_child.py")


@contextmanager
def children(
    server: RedisServer, using: str, quota: str, kinds: list[tuple[str, str]], seconds: float
) -> Iterator[list[subprocess.Popen[str]]]:
    begin = time.monotonic() + 0.8
    made = [
        subprocess.Popen(
            [
                *(sys.executable, str(CHILD), server.url, using, quota, lease, manner),
                *(str(begin), str(begin + seconds)),
            ],
            stdout=subprocess.PIPE,
            text=True,
        )
        for lease, manner in kinds
    ]
    try:
        yield made
    finally:
        for process in made:
            process.kill()
            process.wait()


def stamps_of(processes: list[subprocess.Popen[str]]) -> list[Stamp]:
    seen: list[Stamp] = []
    for process in processes:
        said, _ = process.communicate(timeout=60)
        assert process.returncode == 0
        seen += [tuple(stamp) for stamp in json.loads(said)]
    return seen


def excess(stamps: list[Stamp], limit: float, burst: int) -> float:
    """By how many the quota was certainly exceeded, in the worst interval; at most 0 when it held.

    An interval that holds whole calls: from the start of one to the end of another.
    """
    ends = sorted(stamps, key=lambda stamp: stamp[1])
    worst = -float(burst)
    for start in {begin for begin, _ in stamps[:: max(1, len(stamps) // 300)]}:
        count = 0
        for begin, end in ends:
            if begin >= start:
                count += 1
                worst = max(worst, count - burst - (end - start) * limit)
    return worst


MIXES = {
    "busy": [("50ms", "busy"), ("50ms", "busy"), ("20", "busy"), ("", "busy")],
    "bursts": [("50ms", "bursts"), ("100", "bursts"), ("20ms", "tasks"), ("", "bursts")],
    "threads and tasks": [("50ms", "threads"), ("50ms", "tasks"), ("", "busy")],
}


@pytest.mark.slow
@pytest.mark.parametrize("mix", MIXES)
@pytest.mark.parametrize(("limit", "burst"), [(300, 40), (20_000, 2000)])
def test_processes_with_leases_and_without_together_keep_the_quota(
    limit: int, burst: int, mix: str, server: RedisServer
) -> None:
    with children(server, "gcra", f"{limit}/s burst {burst}", MIXES[mix], SECONDS) as processes:
        stamps = stamps_of(processes)
    assert excess(stamps, limit, burst) <= 0


@pytest.mark.slow
@pytest.mark.alone
@pytest.mark.parametrize("mix", ["busy", "threads and tasks"])
def test_a_key_that_processes_keep_busy_gets_nearly_all_of_its_quota(
    mix: str, server: RedisServer
) -> None:
    limit, burst = 300, 40
    with children(server, "gcra", f"{limit}/s burst {burst}", MIXES[mix], SECONDS) as processes:
        stamps = stamps_of(processes)
    blocks = sum(min(burst // 2, limit // 20) for _ in MIXES[mix])
    assert len(stamps) >= (SECONDS - 0.3) * limit - blocks


@pytest.mark.slow
@pytest.mark.parametrize("using", ["fixed_window", "sliding_window"])
def test_no_window_sees_more_than_its_limit(using: str, server: RedisServer) -> None:
    kinds = [("50ms", "busy"), ("100", "bursts"), ("20ms", "tasks"), ("", "busy")]
    with children(server, using, "200/500ms", kinds, 1.6) as processes:
        stamps = stamps_of(processes)
    # The windows are the server's, the wall clock's; the stamps are this machine's monotonic.
    readings = []
    for _ in range(100):
        before = time.monotonic()
        seconds, micros = server.command("TIME")
        readings.append((time.monotonic() - before, int(seconds) + int(micros) / 1e6 - before))
    took, offset = min(readings)
    doubt = 2 * took + 0.002
    counts: dict[int, int] = {}
    for begin, end in stamps:
        window = int((begin + offset - doubt) * 2)
        if window == int((end + offset + doubt) * 2):
            counts[window] = counts.get(window, 0) + 1
    assert stamps
    assert max(counts.values(), default=0) <= 200


# --- processes that end badly


def test_what_a_killed_process_had_is_lost_and_not_had_twice(server: RedisServer) -> None:
    start = time.monotonic()
    quota = "36000/h burst 1000"
    with children(server, "gcra", quota, [("10000", "hoard")], 30) as (process,):
        assert process.stdout is not None
        spent = int(process.stdout.readline())
        process.send_signal(signal.SIGKILL)
        process.wait()
        plain = Throttled("key", using="gcra", quota=quota, store=RedisStore(server.url))
        got = sum(bool(plain.limit()) for _ in range(1001))
    # Blocks are of 100 tokens, and are booked ahead by as much again.
    assert 800 <= spent + got <= 1000 + (time.monotonic() - start) * 10


def test_who_is_stopped_for_longer_than_its_lease_does_not_spend_it(server: RedisServer) -> None:
    """It may have a hundred tokens when it is stopped; meanwhile others use all there is."""
    limit, burst = 1000, 200
    quota = f"{limit}/s burst {burst}"
    with children(server, "gcra", quota, [("100", "busy")], 1.5) as (process,):
        until(lambda: server.command("DBSIZE"), "it has asked")
        time.sleep(0.1)
        process.send_signal(signal.SIGSTOP)
        plain = Throttled("key", using="gcra", quota=quota, store=RedisStore(server.url))
        own: list[Stamp] = []
        end = time.monotonic() + 0.4
        while time.monotonic() < end:
            begin = time.monotonic()
            if plain.limit():
                own.append((begin, time.monotonic()))
        process.send_signal(signal.SIGCONT)
        stamps = stamps_of([process])
    assert excess(own + stamps, limit, burst) <= 0
    assert own
    assert stamps


@pytest.mark.parametrize("using", ["gcra", "fixed_window"])
def test_a_restart_without_persistence_is_one_more_burst_and_a_block(
    using: str, start_server: Callable[..., RedisServer]
) -> None:
    start = time.monotonic()
    server = start_server()
    full = 1000 if using == "gcra" else 36_000
    store = RedisStore(server.url, lease={"tokens": 10**6}, on_error="deny")
    limiter = Throttled("key", using=using, quota="36000/h burst 1000", store=store)
    before = sum(bool(limiter.limit()) for _ in range(400))
    server.kill()
    server.start(fresh=True)
    after, end = 0, time.monotonic() + 20
    while after < full and time.monotonic() < end:
        after += bool(limiter.limit())
    after += sum(bool(limiter.limit()) for _ in range(300))
    assert before == 400
    assert full <= after <= full + 100 + (time.monotonic() - start) * 10

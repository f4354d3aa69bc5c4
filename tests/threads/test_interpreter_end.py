"""The interpreter ends while daemon threads wait in line: what is asked by then neither crashes nor
waits for the threads that are gone.

The object that asks is freed after the interpreter has ended its daemon threads: it lies in a
module of its own, which nothing else refers to.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest

PROGRAM = """
import os, sys, threading, time, types
from headway import MemoryStore, Throttled, TokenBucket, VirtualClock
from headway.limiters import MaxSleepExceededError, SyncSemaphore

what, stack = sys.argv[1], int(sys.argv[2])
if stack:
    threading.stack_size(stack)
clock = VirtualClock(10**18) if what == "clock" else None
bucket = TokenBucket(1, 20, clock=clock)
store = MemoryStore(clock=clock)
throttle = Throttled(quota="20/s burst 1", store=store)
semaphore = SyncSemaphore(name="x", capacity=1, max_sleep=0.2, expiry=0.05)

def hold():
    with semaphore:
        time.sleep(0.01)

def ask_semaphore(error=MaxSleepExceededError, semaphore=semaphore):
    try:
        semaphore.__enter__()
    except error:
        pass

wait = {
    "bucket": bucket.wait,
    "clock": bucket.wait,
    "limit": lambda: throttle.limit("k", timeout=5),
    "semaphore": hold,
}[what]
ask = {
    "bucket": lambda bucket=bucket: (bucket.allow(), bucket.wait(), bucket.wait()),
    "clock": lambda clock=clock: clock.advance(3),
    "limit": lambda throttle=throttle: [throttle.limit("k", timeout=3) for _ in range(3)],
    "semaphore": ask_semaphore,
}[what]

def work():
    while True:
        wait()

class Last:
    def __del__(self, ask=ask, sleep=time.sleep, write=os.write):
        sleep(0.2)  # until the threads have woken and been ended
        ask()
        write(1, b"asked")

for _ in range(8):
    threading.Thread(target=work, daemon=True).start()
time.sleep(0.1)  # they wait by now; were one late, it would only not be in line
module = types.ModuleType("last")
module.last = Last()
sys.modules["last"] = module
del module
"""


@pytest.mark.parametrize("stack", [0, 64 * 1024 * 1024])
@pytest.mark.parametrize("what", ["bucket", "limit", "semaphore", "clock"])
def test_what_is_asked_after_daemon_threads_were_ended_is_answered(
    what: str, stack: int, run_python: Callable[..., str]
) -> None:
    assert run_python(PROGRAM, what, str(stack)) == "asked"

"""A fork by a signal's handler, or in an event loop, in the midst of a wait in memory: the child
waits on as the parent does, in a line of its own.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable

import pytest

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")

PREAMBLE = """
import os, signal, sys, threading, time, traceback, warnings
warnings.simplefilter("ignore", DeprecationWarning)
import headway
from headway import MemoryStore, VirtualClock
from headway.limiters import SyncSemaphore, SyncTokenBucket

clock = VirtualClock(10**18)
store = MemoryStore(clock=clock)
children = []

def until(condition):
    end = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < end, "not seen within 30 s"
        time.sleep(0.001)

def start(work):
    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    return thread

def forked_in(wait, waits, release):
    '''Whether `wait` returned True in the parent, and in a child that was forked in its midst.'''
    is_child = False

    def forks(number, frame):
        nonlocal is_child
        pid = os.fork()
        is_child = pid == 0
        if is_child:
            start(lambda: (until(waits), release()))
        else:
            children.append(pid)

    def in_parent():
        until(waits)
        os.kill(os.getpid(), signal.SIGUSR1)
        until(lambda: children)
        release()

    signal.signal(signal.SIGUSR1, forks)
    start(in_parent)
    try:
        status = 0 if wait() else 1
    except BaseException:
        traceback.print_exc()
        status = 2
    if is_child:
        os._exit(status)
    end = time.monotonic() + 30
    while True:
        done, code = os.waitpid(children[0], os.WNOHANG)
        if done:
            return status == 0, os.waitstatus_to_exitcode(code)
        if time.monotonic() > end:
            os.kill(children[0], 9)
            raise SystemExit("the child hangs")
        time.sleep(0.001)
"""


@pytest.fixture
def program(run_python: Callable[..., str]) -> Callable[[str], str]:
    """Runs a program that starts with the preamble."""
    return lambda text: run_python(PREAMBLE + text)


@pytest.mark.parametrize("using", ["gcra", "fixed_window", "sliding_window"])
def test_limit_waits_on_in_the_child(program: Callable[[str], str], using: str) -> None:
    out = program(f"""
limiter = headway.Throttled("key", using={using!r}, quota="1/s", store=store, timeout=100)
limiter.limit()
before = limiter.limit(timeout=-1).state.retry_after
waits = lambda: limiter.limit(timeout=-1).state.retry_after > before
print(forked_in(limiter.limit, waits, lambda: clock.advance(before)))
""")
    assert out.split() == ["(True,", "0)"]


def test_a_token_bucket_waits_on_in_the_child(program: Callable[[str], str]) -> None:
    out = program("""
bucket = SyncTokenBucket("key", 1, 1, 1, max_sleep=100, connection=store)
same = headway.Throttled("key", quota="1/s", key_prefix="limiters", store=store)
waits = lambda: same.limit().state.retry_after > 1

def wait():
    with bucket:
        return True

wait()
print(forked_in(wait, waits, lambda: clock.advance(1)))
""")
    assert out.split() == ["(True,", "0)"]


def test_a_semaphore_waits_on_in_the_child(program: Callable[[str], str]) -> None:
    """The thread that holds the permit is not in the child, so there it comes at once."""
    out = program("""
semaphore = SyncSemaphore("key", 1, max_sleep=100, expiry=1000, connection=store)
held, over = threading.Event(), threading.Event()

def hold():
    with semaphore:
        held.set()
        over.wait()

def wait():
    with semaphore:
        return True

start(hold)
held.wait()
print(forked_in(wait, lambda: semaphore._pool.waiting == 1, over.set))
print(semaphore._pool.held, semaphore._pool.waiting)
""")
    assert out.split() == ["(True,", "0)", "0", "0"]


def loops() -> list[str]:
    try:
        import uvloop  # noqa: F401
    except ImportError:
        return ["asyncio"]
    return ["asyncio", "uvloop"]


@pytest.mark.skipif(
    sys.version_info >= (3, 14), reason="asyncio resumes no task of its parent in a child there"
)
@pytest.mark.parametrize("loop", loops())
def test_tasks_wait_on_in_a_child_that_goes_on_with_its_event_loop(
    program: Callable[[str], str], loop: str
) -> None:
    out = program(f"""
import asyncio
import {loop} as library
from headway.asyncio import Throttled
from headway.limiters import AsyncSemaphore

async def enter(semaphore):
    async with semaphore:
        return True

async def main():
    limiter = Throttled("key", quota="20/s burst 1", store=MemoryStore(), timeout=60)
    semaphore = AsyncSemaphore("key", 1, max_sleep=60, expiry=1000, connection=limiter.store)
    await limiter.limit()
    loop = asyncio.get_running_loop()
    async with semaphore:
        tasks = [loop.create_task(limiter.limit()) for _ in range(3)]
        tasks += [loop.create_task(enter(semaphore)) for _ in range(2)]
        await asyncio.sleep(0)
        pid = os.fork()
    good = True
    for task in tasks:
        good = bool(await task) and good
    if pid == 0:
        os._exit(0 if good else 1)
    return good, pid

loop = library.new_event_loop()
good, pid = loop.run_until_complete(main())
end = time.monotonic() + 30
while not (done := os.waitpid(pid, os.WNOHANG))[0]:
    if time.monotonic() > end:
        os.kill(pid, 9)
        raise SystemExit("the child hangs")
    time.sleep(0.001)
print(good, os.waitstatus_to_exitcode(done[1]))
""")
    assert out.split() == ["True", "0"]

"""Fork while permits are held: the child has what the forking thread held, finds what others held
as soon as it needs it, and nobody of the parent stands in its line.
"""

from __future__ import annotations

import os
from collections.abc import Callable

import pytest

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")

PREAMBLE = """
import os, sys, threading, time, traceback, warnings
warnings.simplefilter("ignore", DeprecationWarning)
from headway import MemoryStore, VirtualClock
from headway.limiters import MaxSleepExceededError, SyncSemaphore

store = MemoryStore(clock=VirtualClock(10**18))
semaphore = SyncSemaphore("name", 2, max_sleep=0, expiry=1000, connection=store)
pool = semaphore._pool

def until(condition):
    end = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < end, "not seen within 30 s"
        time.sleep(0.001)

def start(work):
    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    return thread

def enter_and_leave():
    with semaphore:
        pass

def in_child(work):
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            work()
            code = 0
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stdout.flush()
            os._exit(code)
    end = time.monotonic() + 30
    while True:
        done, status = os.waitpid(pid, os.WNOHANG)
        if done:
            assert status == 0, "the child failed"
            return
        if time.monotonic() > end:
            os.kill(pid, 9)
            raise SystemExit("the child hangs")
        time.sleep(0.001)
"""


@pytest.fixture
def program(run_python: Callable[..., str]) -> Callable[[str], str]:
    """Runs a program that starts with the preamble."""
    return lambda text: run_python(PREAMBLE + text)


def test_the_child_leaves_the_block_that_it_was_forked_in(program: Callable[[str], str]) -> None:
    program("""
def child():
    assert pool.held == 1
    semaphore.__exit__(None, None, None)
    assert pool.held == 0
    with semaphore, semaphore:
        assert pool.held == 2

with semaphore:
    in_child(child)
    assert pool.held == 1
assert pool.held == 0
""")


def test_the_permits_of_the_parent_s_other_threads_are_free_in_the_child_at_once(
    program: Callable[[str], str],
) -> None:
    program("""
end = threading.Event()

def hold():
    with semaphore:
        end.wait()

holders = [start(hold) for _ in range(2)]
until(lambda: pool.held == 2)

def child():
    with semaphore, semaphore:
        assert pool.held == 2

in_child(child)
assert pool.held == 2
end.set()
until(lambda: pool.held == 0)
""")


def test_what_the_forking_thread_holds_stays_held_in_the_child(
    program: Callable[[str], str],
) -> None:
    program("""
def child():
    short = SyncSemaphore("name", 2, max_sleep=0.05, expiry=1000, connection=store)
    waiting = start(enter_and_leave)
    until(lambda: pool.waiting == 1)
    store.clock.advance(10_000)
    waiting.join(0.05)
    assert waiting.is_alive() and pool.held == 2
    semaphore.__exit__(None, None, None)
    waiting.join(30)
    assert not waiting.is_alive()

with semaphore, semaphore:
    in_child(child)
""")


def test_nobody_of_the_parent_stands_in_the_child_s_line(program: Callable[[str], str]) -> None:
    program("""
semaphore.__enter__()
semaphore.__enter__()
waiter = start(enter_and_leave)
until(lambda: pool.waiting == 1)

def child():
    assert pool.waiting == 0
    semaphore.__exit__(None, None, None)
    with semaphore:
        assert pool.held == 2
    assert pool.held == 1

in_child(child)
assert pool.waiting == 1
semaphore.__exit__(None, None, None)
waiter.join(30)
assert not waiter.is_alive()
semaphore.__exit__(None, None, None)
assert pool.held == 0
""")


def test_a_token_bucket_goes_on_in_the_child_with_what_it_had(
    program: Callable[[str], str],
) -> None:
    program("""
from headway.limiters import SyncTokenBucket
bucket = SyncTokenBucket("bucket", 2, 10, 1, max_sleep=0.5, connection=store)
with bucket:
    pass

def child():
    with bucket:
        pass
    try:
        bucket.__enter__()
    except MaxSleepExceededError:
        return
    raise AssertionError("entered")

in_child(child)
with bucket:
    pass
""")

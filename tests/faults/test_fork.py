"""Fork: the child may use every limiter at once, whatever the parent's threads were doing; nobody
waits in it for ghosts.

State in memory is copied by a fork like all memory: the child goes on with what the parent had
admitted so far, on its own.
"""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Callable

import pytest

from headway import MemoryStore, Quota, RateLimitResult, Throttled, per_min

pytestmark = [
    pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork"),
    pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning"),
]

PREAMBLE = """
import os, sys, threading, time, traceback, warnings
warnings.simplefilter("ignore", DeprecationWarning)
from headway import MemoryStore, Throttled, TokenBucket, VirtualClock, per_sec

def until(condition):
    end = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < end, "not seen within 30 s"
        time.sleep(0.001)

def start(work):
    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    return thread

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


def test_a_child_uses_the_limiter_at_once_while_the_parent_s_thread_waits(
    program: Callable[[str], str],
) -> None:
    out = program("""
clock = VirtualClock(10**18)
store = MemoryStore(clock=clock)
throttle = Throttled(key="key", using="gcra", quota=per_sec(1), store=store)
throttle.limit()
served = []
waiter = start(lambda: served.append(bool(throttle.limit(timeout=100))))
until(lambda: throttle.limit().state.retry_after == 2)

def work():
    assert throttle.limit().state.retry_after == 1, "a waiter of the parent stands in line here"
    clock.advance(1)
    assert throttle.limit()
    worker = start(lambda: throttle.limit(timeout=100))
    until(lambda: throttle.limit().state.retry_after == 2)
    clock.advance(1)
    worker.join(30)
    assert not worker.is_alive()
    throttle.reset()
    assert throttle.limit()

in_child(work)
assert clock.now_ns == 10**18 and waiter.is_alive(), "the child moved the parent's clock"
clock.advance(1)
waiter.join(30)
print(served)
""")
    assert out.split() == ["[True]"]


def test_a_child_uses_a_token_bucket_at_once_while_the_parent_s_thread_waits(
    program: Callable[[str], str],
) -> None:
    out = program("""
clock = VirtualClock(10**18)
bucket = TokenBucket(2, 1, clock=clock)
served = []
waiter = start(lambda: (bucket.wait(3), served.append(True)))
until(lambda: bucket.tokens == 0)

def work():
    clock.advance(10)
    assert bucket.allow(2)
    assert not bucket.allow(2)
    worker = start(bucket.wait)
    clock.advance(1)
    worker.join(30)
    assert not worker.is_alive()

in_child(work)
clock.advance(1)
waiter.join(30)
print(served)
""")
    assert out.split() == ["[True]"]


@pytest.mark.slow
def test_forks_in_the_middle_of_everything_leave_no_lock_behind(
    program: Callable[[str], str],
) -> None:
    out = program("""
store = MemoryStore(options={"MAX_SIZE": 5000})
throttle = Throttled(quota="3/s", store=store)
bucket = TokenBucket(10, 1000)
stop = False

def hammer(number):
    count = 0
    while not stop:
        count += 1
        throttle.limit(f"{number} {count % 3000}")
        throttle.limit("waited for", timeout=0.001)
        bucket.allow()
        MemoryStore(clock=VirtualClock())

threads = [start(lambda number=number: hammer(number)) for number in range(4)]

def work():
    for number in range(3000):
        throttle.limit(f"child {number}")
        bucket.allow()
    throttle.limit("fresh", timeout=1)
    store.stats()
    store.clear()
    MemoryStore(clock=VirtualClock())

for _ in range(60):
    in_child(work)
stop = True
for thread in threads:
    thread.join(30)
print("done")
""")
    assert out.split() == ["done"]


def test_a_grandchild_works_too(program: Callable[[str], str]) -> None:
    out = program("""
throttle = Throttled(quota="3/d", store=MemoryStore())
throttle.limit("key")

def grandchild():
    assert throttle.limit("key").state.remaining == 0
    assert not throttle.limit("key")

def child():
    assert throttle.limit("key").state.remaining == 1
    in_child(grandchild)
    assert throttle.peek("key").remaining == 1

in_child(child)
print(throttle.peek("key").remaining)
""")
    assert out.split() == ["2"]


STORE = MemoryStore()
THROTTLE = Throttled(key="key", quota=per_min(5), store=STORE)


def ask(quota: Quota, times: int) -> list[RateLimitResult]:
    """Work for another process: arguments and results cross the border as pickles."""
    throttle = Throttled(key="key", quota=quota, store=MemoryStore())
    return [throttle.limit() for _ in range(times)]


@THROTTLE
def decorated(word: str) -> str:
    return word.upper()


@pytest.mark.parametrize("method", multiprocessing.get_all_start_methods())
def test_quotas_results_and_decorated_functions_cross_processes(method: str) -> None:
    with multiprocessing.get_context(method).Pool(2) as pool:
        for results in pool.starmap(ask, [(per_min(2), 3)] * 4):
            assert [bool(result) for result in results] == [True, True, False]
            assert results[2].state.limit == 2
        assert pool.apply(decorated, ("word",)) == "WORD"

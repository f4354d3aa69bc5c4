"""Fork and TokenBucket: nobody of the parent stands in the child's line, whether it was empty at
the fork or not, and a wait in which a signal handler forks goes on in both.
"""

from __future__ import annotations

import os
from collections.abc import Callable

import pytest

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")

PREAMBLE = """
import os, signal, threading, time, warnings
warnings.simplefilter("ignore", DeprecationWarning)
from headway import TokenBucket

def waiters_end(bucket, count):
    threads = [threading.Thread(target=bucket.wait, daemon=True) for _ in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    return not any(thread.is_alive() for thread in threads)

def ends_well(pid):
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
"""


def test_a_line_that_was_empty_at_the_fork_serves_the_child_s_waiters(
    run_python: Callable[..., str],
) -> None:
    program = """
bucket = TokenBucket(1, 100)
bucket.wait()
bucket.wait()  # has to wait, so the bucket has a line from here on
pid = os.fork()
if pid == 0:
    os._exit(0 if waiters_end(bucket, 4) else 1)
print(ends_well(pid))
"""
    assert run_python(PREAMBLE + program) == "True\n"


def test_a_line_with_waiters_at_the_fork_serves_the_child_s_waiters(
    run_python: Callable[..., str],
) -> None:
    program = """
bucket = TokenBucket(1, 0.001)
bucket.wait()
threading.Thread(target=bucket.wait, daemon=True).start()
end = time.monotonic() + 20
while not (bucket.tokens < 0.0001 and threading.active_count() == 2) and time.monotonic() < end:
    time.sleep(0.001)
time.sleep(0.05)  # in line by now; were it not, the line would be empty
pid = os.fork()
if pid == 0:
    fast = TokenBucket(1, 100)
    fast.wait()
    ok = waiters_end(fast, 3) and not bucket.allow()
    os._exit(0 if ok else 1)
print(ends_well(pid))
"""
    assert run_python(PREAMBLE + program) == "True\n"


def test_a_wait_in_which_a_signal_handler_forks_ends_in_both(
    run_python: Callable[..., str],
) -> None:
    program = """
bucket = TokenBucket(1, 2)
bucket.wait()
children = []

def fork(*_):
    children.append(os.fork())

signal.signal(signal.SIGALRM, fork)
signal.setitimer(signal.ITIMER_REAL, 0.1)
if os.environ.get("IN_LINE"):
    threading.Thread(target=bucket.wait, daemon=True).start()
bucket.wait(2)
if children == [0]:
    os._exit(0)
print(len(children), ends_well(children[0]))
"""
    for in_line in ("", "1"):
        assert (
            run_python(f"import os\nos.environ['IN_LINE'] = {in_line!r}\n" + PREAMBLE + program)
            == "1 True\n"
        )

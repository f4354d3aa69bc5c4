"""What a signal's handler raises is for the main thread's caller, wherever it comes up: in a step
that is taken for another thread, in a hook, in a storage that is allowed to fail.
"""

from __future__ import annotations

import os
from collections.abc import Callable

import pytest

pytestmark = pytest.mark.skipif(os.name != "posix", reason="signals of POSIX")

PREAMBLE = """
import logging, signal, sys, tempfile, threading, time

class SoftTimeLimit(Exception):
    pass

def handler(number, frame):
    raise SoftTimeLimit

signal.signal(signal.SIGUSR1, handler)

def interrupted(work):
    try:
        work()
    except SoftTimeLimit:
        return "interrupted"
    return "swallowed"
"""


@pytest.fixture
def program(run_python: Callable[..., str]) -> Callable[[str], str]:
    """Runs a program that starts with the preamble."""
    return lambda text: run_python(PREAMBLE + text)


def test_in_another_threads_step_it_is_for_the_main_thread(program: Callable[[str], str]) -> None:
    out = program("""
from headway import SQLiteStore

store = SQLiteStore(tempfile.mkdtemp() + "/x.db")
calls, answers = [], []

def of_other(old):
    calls.append(threading.current_thread() is threading.main_thread())
    if len(calls) == 1:
        signal.raise_signal(signal.SIGUSR1)
    return b"done", "done"

other = threading.Thread(target=lambda: answers.append(store.update(b"other", of_other)))

def of_main(old):
    other.start()
    end = time.monotonic() + 30
    while len(store._jobs) < 2:
        assert time.monotonic() < end
        time.sleep(0.001)
    return b"1", None

print(interrupted(lambda: store.update(b"main", of_main)))
other.join(30)
print(*calls, *answers)
""")
    assert out.split() == ["interrupted", "True", "False", "done"]


def test_in_a_hook_it_is_no_failure_of_the_hook(program: Callable[[str], str]) -> None:
    out = program("""
from headway import Hook, MemoryStore, Throttled

class Slow(Hook):
    def on_limit(self, call_next, context):
        result = call_next()
        signal.raise_signal(signal.SIGUSR1)
        return result

throttle = Throttled(using="gcra", quota="5/s", store=MemoryStore(), hooks=[Slow()])
print(interrupted(lambda: throttle.limit("key")))
""")
    assert out.split() == ["interrupted"]


def test_in_a_storage_of_ones_own_it_is_no_failure_of_the_storage(
    program: Callable[[str], str],
) -> None:
    out = program("""
from headway.smartratelimit import RateLimiter

class Storage:
    def update(self, key, step):
        signal.raise_signal(signal.SIGUSR1)
        return step(None)[1]
    def get(self, key):
        return None
    def keys(self):
        return []
    def clear(self, key=None):
        pass

limiter = RateLimiter(Storage(), use_provider_profiles=False)
print(interrupted(lambda: limiter._enter("GET", "https://a.example/x", {}, None)))
""")
    assert out.split() == ["interrupted"]

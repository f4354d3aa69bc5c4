"""Signals during a wait: Ctrl-C ends it at once, a handler that returns lets it go on, and no slot
is lost.

Each test is a program of its own, because signals belong to a whole process. The clock is virtual
and stands still, so a wait that a signal does not end never ends, and the deadline of the program
says so.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest

PREAMBLE = """
import os, signal, sys, threading, time
from headway import MemoryStore, Throttled, TokenBucket, VirtualClock, per_sec

clock = VirtualClock(10**18)
throttle = Throttled(key="key", using="gcra", quota=per_sec(1), store=MemoryStore(clock=clock))
throttle.limit()

def in_line():
    return round(throttle.limit().state.retry_after) - 1

def until(condition):
    end = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < end, "not seen within 30 s"
        time.sleep(0.001)

def start(work):
    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    return thread

def once(condition, act):
    return start(lambda: (until(condition), act()))

def interrupt():
    os.kill(os.getpid(), signal.SIGINT)

patient = Throttled(
    key="key", using="gcra", quota=per_sec(1), store=throttle.store, timeout=float("inf")
)
"""

WAITS = {
    "limit": "patient.limit()",
    "context": "patient.__enter__()",
    "decorator": "patient(lambda: None)()",
}


@pytest.fixture
def program(run_python: Callable[..., str]) -> Callable[[str], str]:
    """Runs a program that starts with the preamble."""
    return lambda text: run_python(PREAMBLE + text)


@pytest.mark.parametrize("wait", WAITS.values(), ids=WAITS.keys())
def test_ctrl_c_ends_a_wait_at_once_and_the_line_is_empty_again(
    wait: str, program: Callable[[str], str]
) -> None:
    out = program(f"""
once(lambda: in_line() == 1, interrupt)
try:
    {wait}
except KeyboardInterrupt:
    print("interrupted", in_line())
clock.advance(1)
print(bool(throttle.limit()))
""")
    assert out.split() == ["interrupted", "0", "True"]


def test_no_interrupt_is_lost_however_close_to_the_falling_asleep_it_comes(
    program: Callable[[str], str],
) -> None:
    """The waiter joins the line, and only then falls asleep: a signal in between must end the wait
    too.
    """
    out = program("""
def at_once():
    while in_line() != 1:
        pass
    interrupt()

for turn in range(300):
    start(at_once)
    try:
        patient.limit()
    except KeyboardInterrupt:
        pass
print("done")
""")
    assert out.split() == ["done"]


def test_an_interrupted_waiter_loses_no_slot_for_those_behind_it(
    program: Callable[[str], str],
) -> None:
    out = program("""
served = []
def behind():
    until(lambda: in_line() == 1)
    served.append(bool(patient.limit()))
worker = start(behind)
once(lambda: in_line() == 2, interrupt)
try:
    patient.limit()
except KeyboardInterrupt:
    print("interrupted", in_line())
clock.advance(1)
worker.join(30)
print(served, in_line())
""")
    assert out.split() == ["interrupted", "1", "[True]", "0"]


def test_a_waiter_in_the_middle_of_the_line_can_leave_it(program: Callable[[str], str]) -> None:
    out = program("""
order = []
def waiter(place):
    until(lambda: in_line() == place)
    patient.limit()
    order.append(place)
threads = [start(lambda place=place: waiter(place)) for place in (0, 2, 3)]
until(lambda: in_line() == 1)
once(lambda: in_line() == 4, interrupt)
try:
    patient.limit()
except KeyboardInterrupt:
    print(in_line())
for thread in threads:
    clock.advance(1)
    thread.join(30)
print(order, in_line())
""")
    assert out.split("\n")[:2] == ["3", "[0, 2, 3] 0"]


def test_a_handler_that_returns_lets_the_wait_go_on(program: Callable[[str], str]) -> None:
    out = program("""
seen = []
def handler(number, frame):
    seen.append(in_line())
    if len(seen) == 3:
        signal.setitimer(signal.ITIMER_REAL, 0)
        once(lambda: True, lambda: clock.advance(1))
signal.signal(signal.SIGALRM, handler)
signal.setitimer(signal.ITIMER_REAL, 0.02, 0.02)
print(bool(patient.limit()), seen)
""")
    assert out.strip() == "True [1, 1, 1]", "the handlers ran while the waiter kept its place"


def test_a_handler_that_raises_ends_the_wait_with_its_exception(
    program: Callable[[str], str],
) -> None:
    out = program("""
class Stop(Exception):
    pass
def handler(number, frame):
    raise Stop
signal.signal(signal.SIGUSR1, handler)
once(lambda: in_line() == 1, lambda: os.kill(os.getpid(), signal.SIGUSR1))
try:
    patient.limit()
except Stop:
    print("stopped", in_line())
""")
    assert out.split() == ["stopped", "0"]


def test_a_signal_does_not_end_the_wait_of_another_thread(program: Callable[[str], str]) -> None:
    out = program("""
result = []
worker = start(lambda: result.append(bool(patient.limit())))
until(lambda: in_line() == 1)
try:
    interrupt()
    time.sleep(5)
except KeyboardInterrupt:
    print("main", in_line())
clock.advance(1)
worker.join(30)
print(result)
""")
    assert out.split() == ["main", "1", "[True]"]


def test_a_real_wait_that_is_interrupted_often_still_ends_at_its_instant(
    program: Callable[[str], str],
) -> None:
    out = program("""
from headway.clock import now_ns
signal.signal(signal.SIGALRM, lambda number, frame: None)
real = Throttled(key="key", using="gcra", quota="5/s burst 1", store=MemoryStore(), timeout=5)
began = now_ns()
real.limit()
signal.setitimer(signal.ITIMER_REAL, 0.003, 0.003)
allowed = bool(real.limit())
took = now_ns() - began
signal.setitimer(signal.ITIMER_REAL, 0)
print(allowed, took >= 200_000_000, took < 30_000_000_000)
""")
    assert out.split() == ["True", "True", "True"]


def test_ctrl_c_ends_the_wait_of_a_token_bucket_and_gives_back_what_it_had(
    program: Callable[[str], str],
) -> None:
    out = program("""
bucket = TokenBucket(5, 1, clock=clock)
def waiting():
    return bucket.tokens == 0
once(waiting, interrupt)
try:
    bucket.wait(8)
except KeyboardInterrupt:
    print("interrupted", bucket.tokens)
print(bucket.allow(5))
""")
    assert out.split() == ["interrupted", "5.0", "True"]


def test_an_interrupt_that_meets_the_slot_leaves_a_line_that_works(
    program: Callable[[str], str],
) -> None:
    """The signal and the slot come at once, many times over: nobody stays behind, no slot is
    doubled.
    """
    out = program("""
for turn in range(100):
    both = [interrupt, lambda: clock.advance(1)]
    both = both[:: 1 if turn % 2 else -1]
    helper = once(lambda: in_line() == 1, lambda: [act() for act in both])
    try:
        patient.limit()
        until(lambda: False)
    except KeyboardInterrupt:
        pass
    helper.join(30)
    assert throttle.peek().remaining <= 1, turn
    throttle.limit()
    assert in_line() == 0, turn
    clock.advance(1)
    assert throttle.limit() and not throttle.limit(), turn
print("done")
""")
    assert out.split() == ["done"]


def test_a_program_that_ends_while_threads_wait_ends_cleanly(program: Callable[[str], str]) -> None:
    out = program("""
for _ in range(8):
    start(patient.limit)
bucket = TokenBucket(1, 0.001)
bucket.allow()
start(bucket.wait)
until(lambda: in_line() == 8)
print("bye")
""")
    assert out.split() == ["bye"]

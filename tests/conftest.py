"""What every test may ask for: a virtual clock, workers with deadlines, other processes, and the
hypothesis profiles.

Tests share no state: each makes its own store. Nothing here sleeps for a fixed time to let
something happen; whoever waits says what for, and fails with that sentence when the deadline
passes.

Hypothesis profiles: `quick` is the default, `thorough` has five times as many examples and goes
with HEADWAY_TEST_THOROUGH=1 (effort.py); both are the same in every run. HYPOTHESIS_PROFILE=deep is
long and random.
"""

from __future__ import annotations

import contextlib
import gc
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable
from typing import Any, Generic, TypeVar

import pytest
from hypothesis import HealthCheck, settings

import effort
import headway
import process_guard

DEADLINE_S = 30.0
"""How long a test waits for something that must happen. Generous: only a failure ever takes that
long.
"""

T = TypeVar("T")

_COMMON: dict[str, Any] = {
    "deadline": None,
    "suppress_health_check": [HealthCheck.too_slow, HealthCheck.data_too_large],
}
_SAME: dict[str, Any] = {"derandomize": True, "database": None, **_COMMON}
settings.register_profile("quick", max_examples=effort.QUICK_EXAMPLES, **_SAME)
settings.register_profile("thorough", max_examples=effort.THOROUGH_EXAMPLES, **_SAME)
settings.register_profile("deep", max_examples=20_000, print_blob=True, **_COMMON)
settings.load_profile(
    os.environ.get("HYPOTHESIS_PROFILE", "thorough" if effort.THOROUGH else "quick")
)


@pytest.hookimpl(tryfirst=True)
def pytest_cmdline_main(config: pytest.Config) -> None:
    """With `-n`, tests of one file mostly stay in one worker, which starts their servers once."""
    if getattr(config.option, "numprocesses", None) and config.option.dist == "no":
        config.option.dist = "worksteal"


def pytest_configure() -> None:
    """Nothing that a test starts outlives this process, be it killed; and Ctrl-C works, though a
    shell that starts a run in the background lets it ignore the signal, and all that it starts.
    """
    process_guard.Guard.current()
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_finish() -> None:
    """What was collected stays to the end: a `gc.collect()` of a test need not look through it."""
    gc.collect()
    gc.freeze()


class Worker(threading.Thread, Generic[T]):
    """A thread whose return value, or exception, its starter receives."""

    def __init__(self, work: Callable[[], T]) -> None:
        super().__init__(daemon=True)
        self._work = work
        self._value: T | None = None
        self._error: BaseException | None = None
        self.start()

    def run(self) -> None:
        try:
            self._value = self._work()
        except BaseException as error:
            self._error = error

    def result(self, deadline: float = DEADLINE_S) -> T:
        """The return value of the work, once it is done. Raises what the work raised."""
        self.join(deadline)
        if self.is_alive():
            pytest.fail(f"a worker was still busy after {deadline} s")
        if self._error is not None:
            raise self._error
        return self._value  # type: ignore[return-value]


@pytest.fixture
def start() -> Callable[[Callable[[], Any]], Worker[Any]]:
    """Starts a function in a thread of its own."""
    return Worker


@pytest.fixture
def eventually() -> Callable[..., None]:
    """Waits until a condition holds: `eventually(lambda: n == 3, "three workers in line")`."""

    def wait(condition: Callable[[], object], what: str, deadline: float = DEADLINE_S) -> None:
        end = time.monotonic() + deadline
        while not condition():
            if time.monotonic() > end:
                pytest.fail(f"not seen within {deadline} s: {what}")
            time.sleep(0.0005)

    return wait


@pytest.fixture
def asleep() -> Callable[[threading.Thread], None]:
    """Waits until a thread has fallen asleep in a call that gives up the GIL.

    Nothing of Python tells, so the kernel is asked: sleeping, and not switched in for a while
    during which this thread leaves it the GIL. Where there is no /proc it is given a twentieth of a
    second.
    """

    def switches(thread: threading.Thread) -> str | None:
        with open(f"/proc/self/task/{thread.native_id}/status") as status:
            lines = [line for line in status if line.startswith(("State", "volun", "nonvol"))]
        return "".join(lines) if "S (sleeping)" in lines[0] else None

    def wait(thread: threading.Thread, deadline: float = DEADLINE_S) -> None:
        end, quiet, seen = time.monotonic() + deadline, 0, None
        while quiet < 5:
            if time.monotonic() > end:
                pytest.fail(f"a thread was still awake after {deadline} s")
            time.sleep(0.001)
            try:
                now = switches(thread)
            except OSError:
                time.sleep(0.05)
                return
            quiet = quiet + 1 if now is not None and now == seen else 0
            seen = now

    return wait


@pytest.fixture
def clock() -> headway.VirtualClock:
    """A virtual clock, at an instant that is no boundary of a window longer than a second."""
    return headway.VirtualClock(now_ns=1_700_000_003 * 10**9)


@pytest.fixture
def store(clock: headway.VirtualClock) -> headway.MemoryStore:
    """A memory store in virtual time."""
    return headway.MemoryStore(clock=clock)


@pytest.fixture
def run_python() -> Callable[..., str]:
    """Runs a program in a new interpreter and returns what it printed, or shows its errors."""

    def run(program: str, *args: str, deadline: float = 45.0) -> str:
        command = [sys.executable, "-c", textwrap.dedent(program), *args]
        done = None
        with contextlib.suppress(subprocess.TimeoutExpired):
            done = subprocess.run(
                command, capture_output=True, text=True, timeout=deadline, check=False
            )
        if done is None:
            pytest.fail(f"the program was still busy after {deadline} s")
        if done.returncode != 0:
            pytest.fail(f"the program ended with {done.returncode}:\n{done.stdout}{done.stderr}")
        return done.stdout

    return run

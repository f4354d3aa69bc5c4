"""Sub-interpreters, reloads and the end of everything: the module keeps its state per interpreter
and leaves none behind.

Each test is a program of its own: an interpreter that ends badly takes its process with it.
"""

from __future__ import annotations

import sys
from collections.abc import Callable

import pytest

PREAMBLE = """
import sys, textwrap

def make():
    '''A new interpreter, with a GIL of its own where Python can: (run, close).'''
    try:
        import _interpreters as api
    except ImportError:
        try:
            import _xxsubinterpreters as api
        except ImportError:
            print("no interpreters")
            raise SystemExit
    which = api.create()
    def run(text):
        failure = api.run_string(which, textwrap.dedent(text))
        if failure is not None:
            raise RuntimeError(failure)
    return run, lambda: api.destroy(which)

USE = '''
import headway._core
from headway import (MemoryStore, Quota, Rate, Throttled, TokenBucket, VirtualClock, per_min)
from headway.exceptions import DataError, LimitedError
throttle = Throttled(key="key", quota="2/m; 10/h", store=MemoryStore(clock=VirtualClock()))
assert throttle.limit() and throttle.limit() and not throttle.limit()
assert type(throttle.limit().state) is headway.RateLimitState
calls = []
@Throttled(key="key", quota=per_min(1), store=MemoryStore())
def work():
    calls.append(1)
work()
try:
    work()
except LimitedError as error:
    assert error.rate_limit_result.state.limit == 1
else:
    raise AssertionError("not limited")
try:
    throttle.limit("")
except DataError:
    pass
assert TokenBucket(1, 1).allow()
assert repr(throttle.peek()).startswith("RateLimitState(limit=2, remaining=0")
'''
"""


@pytest.fixture
def program(run_python: Callable[..., str]) -> Callable[[str], str]:
    """Runs a program that starts with the preamble; skips where Python has no interpreters."""

    def run(text: str) -> str:
        out = run_python(PREAMBLE + text)
        if out.strip() == "no interpreters":
            pytest.skip("this Python has no sub-interpreters")
        return out

    return run


def test_the_core_works_in_a_sub_interpreter_and_ends_with_it(
    program: Callable[[str], str],
) -> None:
    out = program("""
run, close = make()
run(USE)
close()
print("closed")
""")
    assert out.split() == ["closed"]


def test_interpreters_come_and_go_beside_the_main_one(program: Callable[[str], str]) -> None:
    out = program("""
exec(USE)
for _ in range(5):
    run, close = make()
    run(USE)
    exec(USE)
    close()
exec(USE)
print("done")
""")
    assert out.split() == ["done"]


def test_several_interpreters_live_at_once_with_types_of_their_own(
    program: Callable[[str], str],
) -> None:
    out = program("""
import headway
made = [make() for _ in range(4)]
for run, _ in made:
    run(USE)
for run, _ in made:
    run("assert not throttle.limit(); throttle.reset(); assert throttle.limit()")
for run, _ in made:
    run(f"assert id(headway.RateLimitState) != {id(headway.RateLimitState)}")
for _, close in reversed(made):
    close()
exec(USE)
print("done")
""")
    assert out.split() == ["done"]


def test_interpreters_in_threads_work_side_by_side(program: Callable[[str], str]) -> None:
    out = program("""
import threading
errors = []
def work():
    try:
        run, close = make()
        for _ in range(3):
            run(USE)
        run('''
for number in range(20_000):
    throttle.limit(f"key {number % 100}")
''')
        close()
    except BaseException as error:
        errors.append(error)
import headway
threads = [threading.Thread(target=work) for _ in range(4)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join(60)
print(errors)
""")
    assert out.split() == ["[]"]


def test_a_wait_in_one_interpreter_does_not_stop_another(program: Callable[[str], str]) -> None:
    out = program("""
import threading, time
run, close = make()
run('''
from headway import MemoryStore, Throttled
slow = Throttled(key="key", using="gcra", quota="2/s burst 1", store=MemoryStore(), timeout=5)
slow.limit()
''')
ended = []
thread = threading.Thread(target=lambda: (run("assert slow.limit()"), ended.append(1)))
thread.start()
turns, end = 0, time.monotonic() + 0.2
while time.monotonic() < end:
    turns += 1
thread.join(30)
close()
print(turns > 1000, ended)
""")
    assert out.split() == ["True", "[1]"]


def test_a_store_that_is_alive_at_the_end_of_its_interpreter_is_freed(
    program: Callable[[str], str],
) -> None:
    out = program("""
import resource
def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
def once():
    run, close = make()
    run('''
from headway import MemoryStore, Throttled
store = MemoryStore()
throttle = Throttled(quota="5/m", store=store)
for number in range(60_000):
    throttle.limit(str(number))
''')
    close()
for _ in range(4):
    once()
before = peak()
for _ in range(8):
    once()
kib = 1 if sys.platform == "linux" else 1024
print((peak() - before) // kib < 12_000)
""")
    assert out.split() == ["True"], "each interpreter left about 5 MiB behind"


def test_reloading_the_package_keeps_old_objects_working(run_python: Callable[..., str]) -> None:
    out = run_python("""
        import importlib, sys
        import headway
        old = headway.Throttled(key="key", quota="2/m", store=headway.MemoryStore())
        assert old.limit()
        importlib.reload(headway)
        assert old.limit() and not old.limit()
        for name in [name for name in sys.modules if name.split(".")[0] == "headway"]:
            del sys.modules[name]
        import headway as again
        new = again.Throttled(key="key", quota="2/m", store=again.MemoryStore())
        assert new.limit() and new.limit() and not new.limit()
        assert not old.limit()
        try:
            new.limit("")
        except again.DataError:
            print("done")
        """)
    assert out.split() == ["done"]


def test_a_module_that_is_imported_many_times_is_collected(run_python: Callable[..., str]) -> None:
    out = run_python("""
        import gc, sys, weakref
        gone = []
        for _ in range(10):
            import headway
            headway.Throttled(key="key", store=headway.MemoryStore()).limit()
            gone.append(weakref.ref(headway.Throttled))
            for name in [name for name in sys.modules if name.split(".")[0] == "headway"]:
                del sys.modules[name]
            del headway
            gc.collect()
        print(sum(ref() is not None for ref in gone) <= 1)
        """)
    assert out.split() == ["True"]


@pytest.mark.skipif(sys.version_info < (3, 12), reason="one GIL per interpreter came with 3.12")
def test_the_core_loads_where_each_interpreter_has_a_gil_of_its_own(
    run_python: Callable[..., str],
) -> None:
    """An isolated interpreter refuses a module that does not declare its support."""
    out = run_python("""
        try:
            import _interpreters as api
            which = api.create("isolated")
        except ImportError:
            import _xxsubinterpreters as api
            which = api.create(isolated=True)
        failure = api.run_string(which, "import headway._core; assert headway._core.per_sec(1)")
        assert failure is None, failure
        api.destroy(which)
        print("own GIL")
        """)
    assert out.split() == ["own", "GIL"]


def test_objects_that_outlive_the_interpreter_s_end_do_no_harm(
    run_python: Callable[..., str],
) -> None:
    out = run_python("""
        import headway, builtins, sys
        class Late:
            def __init__(self):
                self.throttle = headway.Throttled(key="key", store=headway.MemoryStore())
                self.bucket = headway.TokenBucket(1, 1)
            def __del__(self):
                assert self.throttle.limit()
                self.bucket.allow()
        builtins.late = Late()
        sys.late = Late()
        print("bye")
        """)
    assert out.split() == ["bye"]

"""Hard surroundings: a collector that runs at each allocation, threads that switch at each byte
code, an interpreter that ends in the midst, a second interpreter, instances without __init__,
arguments that do harm.

What must come of it: the right count with many threads, an end in time with status 0, and for
nonsense an exception, never a crash.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import inspect
import itertools
import os
import subprocess
import sys
import threading
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

from operations import APART, Operation
from session import Session, used

HERE = Path(__file__).resolve().parent
PROGRAM_S = 60.0


class Collector:
    """gc.set_threshold(1)."""

    harms_in_c = False
    name = "collector"

    def applies(self, operation: Operation) -> bool:
        return operation.store not in APART

    def begin(self, session: Session) -> int:
        return 10

    def moment(self, session: Session, n: int) -> str:
        before = used(session)
        session.case.prepare()
        old = gc.get_threshold()
        gc.set_threshold(1)
        try:
            value = session.call()()
        finally:
            gc.set_threshold(*old)
        if not session.case.passes(value):
            return f"it returned {value!r}"
        return session.state(before, None)


class Threads:
    """Eight threads with a switch interval of 1 µs; those of an awaited operation have loops."""

    harms_in_c = False
    name = "threads"
    THREADS, CALLS = 8, 12

    def applies(self, operation: Operation) -> bool:
        if operation.store == "client" and operation.loop:
            return False  # such a client belongs to one event loop
        # What needs preparing is prepared for one call.
        return operation.store not in APART and not operation.waits and operation.loop != "uvloop"

    def begin(self, session: Session) -> int:
        return 8

    def moment(self, session: Session, n: int) -> str:
        case = session.case
        before = used(session)
        problems: list[str] = []

        def work() -> None:
            try:
                for _ in range(self.CALLS):
                    value = case.act()
                    if session.loop is not None:
                        value = asyncio.run(one(value))
                    if value is False:
                        problems.append(f"it returned {value!r}")
            except BaseException as error:
                problems.append(f"a thread raised {error!r:.300}")

        async def one(awaitable: Any) -> Any:
            return await awaitable

        case.prepare()
        old = sys.getswitchinterval()
        sys.setswitchinterval(1e-6)
        try:
            threads = [threading.Thread(target=work, daemon=True) for _ in range(self.THREADS)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join(60)
        finally:
            sys.setswitchinterval(old)
        if any(thread.is_alive() for thread in threads):
            return "a thread never ends"
        if problems:
            return problems[0]
        if case.used:
            took, right = case.used() - before, case.takes * self.THREADS * self.CALLS
            if took != right:
                return f"{self.THREADS} threads took {took} instead of {right}"
        return case.trouble()


PREAMBLE = """
import sys; sys.path.insert(0, {here!r})
import asyncio, atexit, threading, time, os
import operations
case = operations.OPERATIONS[{name!r}].make()
awaited = {awaited!r}
waits = {waits!r}
def act():
    value = case.act()
    if awaited:
        async def main(): return await value
        value = asyncio.run(main())
    return value
def forever():
    while True:
        try: act()
        except Exception: pass
def busy(count):
    for _ in range(count):
        threading.Thread(target=forever, daemon=True).start()
    time.sleep({pause})
case.prepare()
act()
"""
PROGRAMS = {
    "ends while daemon threads ask": "busy(4)\n",
    "ends while daemon threads ask, and an atexit function asks": (
        # prepare() of waits looks until nobody waits, and the daemon threads never stop to.
        "atexit.register(lambda: (waits or case.prepare(), act()))\nbusy(4)\n"
    ),
    "ends while daemon threads ask, and a __del__ asks": (
        "class Late:\n"
        "    def __del__(self, act=case.act, awaited=awaited):\n"
        "        try:\n"
        "            value = act()\n"
        "            if awaited: value.close()\n"
        "        except BaseException: pass\n"
        "late = Late(); sys.late = late; busy(3)\n"
    ),
    "a __del__ asks at the end": (
        "class Late:\n"
        "    def __del__(self, act=case.act, awaited=awaited):\n"
        "        try:\n"
        "            value = act()\n"
        "            if awaited: value.close()\n"
        "        except BaseException: pass\n"
        "late = Late(); late.itself = late; sys.late = Late(); del late\n"
    ),
    "sys.exit in a thread's finally, with the case in a cycle": (
        "cycle = [case]; cycle.append(cycle); del case, cycle\nsys.exit(0)\n"
    ),
    "forks, and both end": (
        "pid = os.fork()\ncase.prepare(); act()\nif pid: assert os.waitpid(pid, 0)[1] == 0\n"
    ),
    "forks while threads ask, and the child asks": (
        "busy(2)\n"
        "pid = os.fork()\n"
        "if pid == 0:\n"
        "    case.prepare(); act(); os._exit(0)\n"
        "assert os.waitpid(pid, 0)[1] == 0, 'the child'\n"
    ),
}
INTERPRETER = """
import sys; sys.path.insert(0, {here!r})
try:
    import _interpreters as interpreters
except ImportError:
    import _xxsubinterpreters as interpreters
program = '''
import sys; sys.path.insert(0, {here!r})
import operations
case = operations.OPERATIONS[{name!r}].make()
for _ in range(3):
    case.prepare()
    assert case.passes(case.act())
case.clean()
'''
for _ in range(2):
    interpreter = interpreters.create()
    failed = interpreters.run_string(interpreter, program)
    assert not failed, failed
    interpreters.destroy(interpreter)
import operations
"""


class Ends:
    """Programs of their own: the interpreter ends, forks, or has a second one."""

    harms_in_c = False
    name = "ends"

    def applies(self, operation: Operation) -> bool:
        return operation.store not in APART and operation.loop != "uvloop"

    def begin(self, session: Session) -> int:
        return 2 * len(PROGRAMS) + 1

    def moment(self, session: Session, n: int) -> str:
        name, awaited = session.operation.name, bool(session.operation.loop)
        if n > 2 * len(PROGRAMS):
            if awaited or session.operation.store in ("client", "smartratelimit", "sqlite"):
                return ""  # asyncio and others have a state that interpreters share
            title, program = "a second interpreter", INTERPRETER.format(here=str(HERE), name=name)
        else:
            title = [*PROGRAMS][(n - 1) // 2]
            if session.operation.name == "values.all" and sys.version_info[:2] == (3, 13):
                return ""  # CPython 3.13.0 crashes in datetime.timedelta when the interpreter ends
            if session.operation.waits and "fork" in title:
                return ""  # prepare() of waits starts threads
            pause = 0.02 * (n % 2)
            filled = PREAMBLE.format(
                here=str(HERE),
                name=name,
                awaited=awaited,
                waits=session.operation.waits,
                pause=pause,
            )
            program = filled + PROGRAMS[title]
        try:
            done = subprocess.run(
                [sys.executable, "-X", "faulthandler", "-c", program],
                capture_output=True,
                timeout=PROGRAM_S,
                check=False,
                env=os.environ | {"PYTHONPATH": os.pathsep.join(p for p in sys.path if p)},
            )
        except subprocess.TimeoutExpired:
            return f"{title}: it does not end within {PROGRAM_S:.0f} s"
        if done.returncode:
            said = done.stderr.decode(errors="replace")[-2500:]
            if "thread is not supported for isolated subinterpreters" in said:
                return ""  # CPython's rule for a second interpreter, whatever wants a thread there
            return f"{title}: it ends with {done.returncode}: {said}"
        return ""


# --- instances without __init__


def _types() -> list[type]:
    import headway
    import headway.asyncio
    from headway import _core, limiters

    found = [v for v in vars(_core).values() if isinstance(v, type)]
    found += [headway.RedisStore, headway.SharedMemoryStore, headway.SQLiteStore]
    found += [limiters.AsyncSemaphore, limiters.SyncSemaphore]
    found += [limiters.AsyncTokenBucket, limiters.SyncTokenBucket]
    found += [headway.asyncio.Throttled]
    return [t for t in dict.fromkeys(found) if not issubclass(t, (BaseException, tuple))]


ARGUMENTS: tuple[tuple[Any, ...], ...] = (
    (),
    (None,),
    ("k",),
    (1,),
    (b"k",),
    (ValueError("x"),),
    ((),),
    ((), {}),
    ({},),
    ([],),
    (lambda *a, **k: True,),
    (None, None, None),
    ("k", 1, 1.0),
    ("k", 0, 1),
    (0, 1, "h", 1),
    (b"k", b"v", 0),
    (0, 0.01),
    ("GET", (), ()),
    ({"a": 1}, 1, 1, "r"),
    (b"k", None, 1, 1),
)
UNSAFE = {"__class__", "__init_subclass__", "__subclasshook__", "__new__", "__del__", "__dict__"}


def _poke(thing: Any) -> None:
    """Use an object in all ways that there are; only crashes and hangs count."""
    for name in dir(type(thing)):
        if name in UNSAFE:
            continue
        for arguments in ARGUMENTS:
            try:
                member = getattr(thing, name)
                if not callable(member):
                    break
                value = member(*arguments)
                if hasattr(value, "close") and hasattr(value, "send"):
                    with warnings.catch_warnings():
                        warnings.simplefilter("ignore")
                        with contextlib.suppress(Exception, asyncio.CancelledError):
                            value.send(None)
                        value.close()
            except (Exception, asyncio.CancelledError):
                pass
    for function in (repr, str, bool, hash, len, iter, lambda x: x == x, lambda x: x + 1, list):
        with contextlib.suppress(Exception):
            function(thing)


class Uninitialised:
    """`T.__new__(T)` of each type of the compiled module, and what has no public constructor."""

    harms_in_c = False
    name = "uninitialised"

    def applies(self, operation: Operation) -> bool:
        return operation.store == "types"

    def begin(self, session: Session) -> int:
        self.types = _types()
        return len(self.types)

    def moment(self, session: Session, n: int) -> str:
        kind = self.types[n - 1]
        try:
            thing = kind.__new__(kind)
        except TypeError:
            return ""
        _poke(thing)
        class_of_it: Any = type("Sub", (kind,), {}) if _subclassable(kind) else kind
        try:
            other = class_of_it.__new__(class_of_it)
        except TypeError:
            return ""
        _poke(other)
        del thing, other
        gc.collect()
        return ""


def _subclassable(kind: type) -> bool:
    try:
        type("Sub", (kind,), {})
    except TypeError:
        return False
    return True


# --- arguments that do harm


class Harm(Exception):
    """What a harmful argument raises."""


def _harmful(do: Callable[[], Any], base: type) -> Any:
    """An object of `base` all of whose special methods do something and then answer."""

    def method(answer: Callable[[Any], Any]) -> Any:
        def special(self: Any, *arguments: Any) -> Any:
            do()
            return answer(self)

        return special

    methods: dict[str, Any] = {
        "__index__": method(lambda s: 1),
        "__int__": method(lambda s: 1),
        "__float__": method(lambda s: 0.001),
        "__bool__": method(lambda s: True),
        "__str__": method(lambda s: "text"),
        "__repr__": method(lambda s: "repr"),
        "__hash__": method(lambda s: 7),
        "__eq__": method(lambda s: False),
        "__len__": method(lambda s: 1),
        "__iter__": method(lambda s: iter((("a", 1),))),
        "__getitem__": method(lambda s: 1),
        "__fspath__": method(lambda s: "path"),
        "__call__": method(lambda s: 1),
        "keys": method(lambda s: ["a"]),
        "items": method(lambda s: [("a", "1")]),
        "total_seconds": method(lambda s: 1.0),
        "__del__": method(lambda s: None),
        "__lt__": method(lambda s: True),
        "__format__": method(lambda s: "f"),
    }
    kind = type("Harmful", (base,), methods)
    values: dict[type, tuple[Any, ...]] = {int: (1,), float: (0.001,), str: ("k",), bytes: (b"k",)}
    values |= {dict: ({"requests": 1},), list: ([1],), tuple: ((1,),)}
    return kind(*values.get(base, ()))


BASES = (object, int, float, str, bytes, dict, list, tuple)


class Arguments:
    """Each argument of each entry point is an object that clears, closes, asks or raises in its
    special methods.
    """

    harms_in_c = False
    name = "arguments"

    def applies(self, operation: Operation) -> bool:
        return operation.store == "arguments"

    def begin(self, session: Session) -> int:
        self.calls = _entry_points()
        deeds = ("nothing", "raise", "clear", "ask", "collect", "reset")
        self.moments = list(itertools.product(range(len(self.calls)), BASES, deeds))
        return len(self.moments)

    def moment(self, session: Session, n: int) -> str:
        import headway

        index, base, deed = self.moments[n - 1]
        where, count, call, world = self.calls[index]
        limiter, store = world

        def do() -> None:
            match deed:
                case "raise":
                    raise Harm
                case "clear":
                    store.clear()
                case "ask":
                    limiter.limit("k")
                case "reset":
                    limiter.reset("k")
                case "collect":
                    gc.collect()

        for position in range(count):
            arguments: list[Any] = [*DEFAULTS[where]][:count]
            arguments[position] = _harmful(do, base)
            try:
                value = call(*arguments)
                if inspect.isawaitable(value) and hasattr(value, "close"):
                    value.close()
                del value
            except SystemError as error:
                return f"{where}, argument {position}, {base.__name__} that does {deed}: {error!r}"
            except (Exception, asyncio.CancelledError):
                pass
            arguments.clear()
        try:
            working = headway.Throttled("w", quota="5/s", store=store).limit()
        except Exception as error:
            return (
                f"{where}, {base.__name__} that does {deed}: afterwards the store raises {error!r}"
            )
        return "" if working is not None else "nothing"


DEFAULTS: dict[str, tuple[Any, ...]] = {
    "limit": ("k", 1, 0.001),
    "async limit": ("k", 1, 0.001),
    "peek": ("k",),
    "reset": ("k",),
    "Throttled": ("k", 0.001, "gcra", "5/s", None, 1, None, "prefix"),
    "MemoryStore": (None, {"MAX_SIZE": 10}),
    "Quota": (None, 5),
    "per_sec": (5, 5),
    "per_duration": (None, 5, 5),
    "parse_quota": ("5/s",),
    "RateLimitState": (1, 1, 1.0, 1.0),
    "RateLimitResult": (True, None),
    "TokenBucket": (5.0, 5.0),
    "allow": (1,),
    "parse_headers": ({"a": "b"}, 200, 1.0, {}),
    "Ledger.reserve": ({"requests": 1}, 10**18, 10**9, ""),
    "Ledger.configure": ("requests", 5, 10**9, "configured", ""),
    "Ledger.observe": (b"", None, 1, 1),
    "Ledger.use": (10**18,),
    "Ledger.status": (10**18,),
    "step": (None, "5/s", 1, 10**18),
    "settle": ("k", 0, 1),
    "VirtualClock.advance": (1.0,),
    "SyncSemaphore": ("name", 5, 1.0, 30.0, None),
    "decorated": ("k", 1),
}


def _entry_points() -> list[tuple[str, int, Callable[..., Any], tuple[Any, Any]]]:
    import headway
    import headway.asyncio
    from headway import _core, limiters

    store = headway.MemoryStore(options={"MAX_SIZE": 100})
    limiter = headway.Throttled(quota="1000000/s", store=store)
    tasks = headway.asyncio.Throttled(quota="1000000/s", store=store)
    decorated = headway.Throttled(
        key=lambda a, b: a, cost=lambda a, b: b, quota="1000000/s", store=store
    )(lambda a, b: 1)
    ledger = _core.Ledger()
    calls: dict[str, Callable[..., Any]] = {
        "limit": limiter.limit,
        "async limit": tasks.limit,
        "peek": limiter.peek,
        "reset": limiter.reset,
        "Throttled": lambda *a: headway.Throttled(*a[:4], store, *a[5:]),
        "MemoryStore": headway.MemoryStore,
        "Quota": headway.Quota,
        "per_sec": headway.per_sec,
        "per_duration": headway.per_duration,
        "parse_quota": headway.parse_quota,
        "RateLimitState": headway.RateLimitState,
        "RateLimitResult": headway.RateLimitResult,
        "TokenBucket": headway.TokenBucket,
        "allow": headway.TokenBucket(5, 5).allow,
        "parse_headers": _core.parse_headers,
        "Ledger.reserve": ledger.reserve,
        "Ledger.configure": ledger.configure,
        "Ledger.observe": ledger.observe,
        "Ledger.use": ledger.use,
        "Ledger.status": ledger.status,
        "step": _core.step,
        "settle": limiter._settle,
        "VirtualClock.advance": headway.VirtualClock().advance,
        "SyncSemaphore": lambda *a: limiters.SyncSemaphore(*a[:4], connection=store),
        "decorated": decorated,
    }
    return [(name, len(DEFAULTS[name]), call, (limiter, store)) for name, call in calls.items()]


TORMENTS = [Collector(), Threads(), Ends(), Uninitialised(), Arguments()]

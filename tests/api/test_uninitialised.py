"""An instance whose __init__ was never called: each method says so, and none crashes.

Every method is tried with arguments of every shape, in a process of its own for each type.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest

PROGRAM = """
import sys, warnings
import headway, headway.asyncio, headway._core as core
from headway.limiters import AsyncSemaphore, AsyncTokenBucket, SyncSemaphore, SyncTokenBucket

warnings.simplefilter("ignore")
kind = eval(sys.argv[1])
SHAPES = (
    (), (None,), ("k",), (1,), (b"k",), ((),), (ValueError("x"),), ((), {}), ("k", 1, 1),
    (b"k", b"v", 0), (0, 0.01), (None, None, None), (0, 1, "h", 1), ("k", 0, 1),
)
SKIPPED = {"__class__", "__init__", "__init_subclass__", "__subclasshook__", "__new__",
           "__getattribute__", "__setattr__", "__delattr__", "__dir__", "__doc__", "__module__",
           "__dict__", "__weakref__"}
for name in sorted(set(dir(kind)) - SKIPPED):
    for shape in SHAPES:
        try:
            made = getattr(kind.__new__(kind), name)
            answer = made(*shape) if callable(made) else made
            if hasattr(answer, "close") and hasattr(answer, "send"):
                answer.close()
        except Exception:
            pass
print("survived")
"""


@pytest.mark.parametrize(
    "kind",
    [
        "core.Limiter",
        "headway.Throttled",
        "headway.asyncio.Throttled",
        "headway.MemoryStore",
        "core.RedisStore",
        "core.SharedStore",
        "headway.TokenBucket",
        "core.Semaphore",
        "core.SyncSemaphore",
        "core.AsyncSemaphore",
        "SyncSemaphore",
        "AsyncSemaphore",
        "SyncTokenBucket",
        "AsyncTokenBucket",
        "core.Ledger",
        "headway.VirtualClock",
    ],
)
def test_no_method_of_an_instance_without_init_crashes(
    kind: str, run_python: Callable[..., str]
) -> None:
    assert run_python(PROGRAM, kind) == "survived\n"

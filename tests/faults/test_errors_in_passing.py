"""Exceptions of code that headway runs in passing: within a log call, or while it reads a value.

What a signal handler raises there comes out exactly once. What the caller's own class raises comes
out, or is the context of the error that says what is wrong with the value.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from headway import DataError, MemoryStore, SetUpError, Throttled, TokenBucket

LOGGED = """
import logging, signal
from headway import MemoryStore, Throttled

class Stop(Exception):
    pass

calls = 0
def handler(number, frame):
    global calls
    calls += 1
    raise {kind}("raised")
signal.signal(signal.{signal}, handler)

class Interrupting(logging.Handler):
    def emit(self, record):
        signal.raise_signal(signal.{signal})
logging.getLogger("headway.store").addHandler(Interrupting())

t = Throttled(quota="5/m", store=MemoryStore(options={{"MAX_SIZE": 1}}))
seen = []
for key in "abc":
    try:
        t.limit(key)  # the second one says that the store is full
        for _ in range(100):
            pass
    except {kind} as error:
        seen.append((key, str(error)))
print(calls, seen)
"""


@pytest.mark.parametrize(
    ("number", "kind"),
    [
        ("SIGALRM", "Stop"),
        ("SIGALRM", "KeyboardInterrupt"),
        ("SIGINT", "KeyboardInterrupt"),
        ("SIGINT", "Stop"),
    ],
)
def test_what_a_signal_handler_raises_within_a_log_call_comes_out_once(
    run_python: Callable[..., str], number: str, kind: str
) -> None:
    said = run_python(LOGGED.format(signal=number, kind=kind))
    assert said.strip() == "1 [('b', 'raised')]"


class Mine(Exception):
    pass


def test_what_a_number_of_the_caller_raises_comes_out() -> None:
    t = Throttled("key", quota="5/m", store=MemoryStore())

    class Shown(int):
        def __str__(self) -> str:
            raise Mine

    class Algorithm:
        @property
        def value(self) -> str:
            raise Mine

    with pytest.raises(Mine):
        t.limit(cost=Shown(2**70))
    with pytest.raises(Mine):
        Throttled("key", quota="5/m", using=Algorithm())  # type: ignore[arg-type]
    with pytest.raises(SetUpError):
        Throttled("key", quota="5/m", using=object())  # type: ignore[arg-type]

    class Number:
        def __init__(self, error: BaseException) -> None:
            self.error = error

        def __float__(self) -> float:
            raise self.error

    value: Any = Number(MemoryError())
    with pytest.raises(MemoryError):
        TokenBucket(value, 1)
    with pytest.raises(MemoryError):
        t.limit(timeout=value)
    value = Number(ValueError("mine"))
    with pytest.raises(TypeError, match="must be a number") as caught:
        TokenBucket(value, 1)
    assert repr(caught.value.__context__) == "ValueError('mine')"
    with pytest.raises(DataError, match="Invalid timeout") as refused:
        t.limit(timeout=value)
    assert repr(refused.value.__context__) == "ValueError('mine')"


def test_a_key_of_bytes_has_one_count_when_memory_runs_out() -> None:
    no_memory = pytest.importorskip("_testcapi")
    store = MemoryStore()
    t = Throttled(quota="1000/m", store=store)
    key = "ключ".encode() * 20
    failed = 0
    for number in range(40):
        no_memory.set_nomemory(number, number + 1)
        try:
            t.limit(key)
        except MemoryError:
            failed += 1
        finally:
            no_memory.remove_mem_hooks()
    assert failed > 0
    assert len(store) == 1

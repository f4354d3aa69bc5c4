"""What a signal's handler that raises must not break.

Handlers run in the main thread, after any call and when a Python function begins, and some raise:
Celery's SoftTimeLimitExceeded, a time limit by SIGALRM, Ctrl-C. So the rule of the package: what is
taken (a transaction, a lease, a place in line, a lock) is taken inside the `try` whose `except`
gives it back, under a name that is known before; and after the last call that takes or hands over
something, nothing is called on the way out. `with lock:` keeps the rule by itself.
tests/interrupting.py raises at each of these places.
"""

import signal
import threading
from collections.abc import Callable
from types import CodeType
from typing import Any, TypeVar

__all__ = ["comes_from_a_handler", "if_free"]

_A = TypeVar("_A")


def comes_from_a_handler(error: BaseException) -> bool:
    """Whether a signal's handler has raised it: then it is for the caller of the main thread.

    It may have come up in the middle of anything: a step that is taken for another thread, a hook,
    a storage. Where these are allowed to fail, it is not they who have failed.
    """
    if threading.current_thread() is not threading.main_thread():
        return False
    handlers = {_code_of(signal.getsignal(number)) for number in signal.valid_signals()}
    handlers.discard(None)
    traceback = error.__traceback__ if handlers else None
    while traceback is not None:
        if traceback.tb_frame.f_code in handlers:
            return True
        traceback = traceback.tb_next
    return False


def _code_of(handler: Any) -> CodeType | None:
    if not callable(handler):
        return None
    for function in (handler, getattr(handler, "__func__", None), type(handler).__call__):
        code = getattr(function, "__code__", None)
        if isinstance(code, CodeType):
            return code
    return None


def if_free(lock: Any, work: Callable[..., _A], *args: Any) -> _A | None:
    """Call `work` under a `threading.RLock` that is free, and return its answer; else None."""
    if lock._is_owned():
        return None
    try:
        if not lock.acquire(blocking=False):
            return None
        answer = work(*args)
        lock.release()
    except BaseException:
        if lock._is_owned():
            lock.release()
        raise
    return answer

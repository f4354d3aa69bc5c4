"""What a signal's handler that raises must not break.

Handlers run in the main thread, after any call and when a Python function begins, and some raise:
Celery's SoftTimeLimitExceeded, a time limit by SIGALRM, Ctrl-C. So the rule of the package: what is
taken (a transaction, a lease, a place in line, a lock) is taken inside the `try` whose `except`
gives it back, under a name that is known before; and after the last call that takes or hands over
something, nothing is called on the way out. `with lock:` keeps the rule by itself.
tests/interrupting.py raises at each of these places.
"""

from collections.abc import Callable
from typing import Any, TypeVar

__all__ = ["if_free"]

_A = TypeVar("_A")


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

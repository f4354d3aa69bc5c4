"""Locks that a fork's child finds open.

A thread of the parent may hold a lock at the moment of a fork. The child has the lock and not the
thread, so nobody would ever open it. What such a lock guards must be whole at every step: a
dictionary that one entry is written to.
"""

import os
from typing import Any, TypeVar
from weakref import WeakSet

__all__ = ["open_after_fork"]

_L = TypeVar("_L")
_locks: "WeakSet[Any]" = WeakSet()


def open_after_fork(lock: _L) -> _L:
    """The same lock, of threading's, which will be open in every child."""
    _locks.add(lock)
    return lock


def _open_all() -> None:
    for lock in list(_locks):
        lock._at_fork_reinit()  # as logging and concurrent.futures of Python do it


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_open_all)

"""Who was first: limiters of one name share their parameters, and the first definition holds.

A name is taken as long as anything that was defined with it lives. What lives is the caller's: an
object with `params` (what was defined) and `where` (by whom), kept weakly here.
"""

import logging
import sys
import threading
from collections.abc import Callable, Mapping
from typing import Any, Protocol, TypeVar
from weakref import WeakKeyDictionary, WeakValueDictionary

from headway._forks import open_after_fork
from headway.types import AnyStore

__all__ = ["Defined", "caller", "define"]


class Defined(Protocol):
    """What a definition makes."""

    params: Mapping[str, Any]
    where: str


_D = TypeVar("_D", bound=Defined)
_lock = open_after_fork(threading.Lock())
_stores: "WeakKeyDictionary[AnyStore, WeakValueDictionary[tuple[str, str], Any]]" = (
    WeakKeyDictionary()
)


def define(
    store: AnyStore,
    family: str,
    name: str,
    params: Mapping[str, Any],
    where: str,
    make: Callable[[], _D],
) -> _D:
    """Return what `name` stands for in `store`: what was made first, or `make()`.

    Where the first has other `params`, a warning to the log names both.
    """
    with _lock:
        names = _stores.setdefault(store, WeakValueDictionary())
        first = names.get((family, name))
        if first is None:
            made = make()
            made.params, made.where = dict(params), where
            names[family, name] = made
            return made
    if dict(first.params) != dict(params):
        logging.getLogger(f"headway.{family.partition('.')[0]}").warning(
            "%r is defined twice: by %s with %s, and by %s with %s. The first definition holds.",
            name,
            first.where,
            _shown(first.params),
            where,
            _shown(params),
        )
    return first  # type: ignore[no-any-return]


def _shown(params: Mapping[str, Any]) -> str:
    return ", ".join(f"{name}={value!r}" for name, value in params.items())


def caller(depth: int) -> str:
    """Return the file and line `depth` calls further out, as "app.py:12"."""
    frame = sys._getframe(depth + 1)
    return f"{frame.f_code.co_filename.rpartition('/')[2]}:{frame.f_lineno}"

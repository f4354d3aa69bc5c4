"""Whatever a module of the package keeps for the whole process says what it is in a fork's child.

All modules are imported and walked: module globals and class attributes that are a lock, a thread,
an executor, a connection, a ContextVar, a weak or a plain container, or an object of the package;
and names that functions assign with `global`. Each stands below, with what it is in a child. Names
in capitals are constants. (Caches of `functools` hold what any process would compute; a lock in an
object that is made later is found by test_fork_locks.py.)
"""

from __future__ import annotations

import ast
import collections
import concurrent.futures
import contextvars
import importlib
import pkgutil
import queue
import socket
import sqlite3
import threading
import types
import weakref
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import headway

KINDS: tuple[type, ...] = (
    type(threading.Lock()),
    type(threading.RLock()),
    threading.Condition,
    threading.Semaphore,
    threading.Event,
    threading.Barrier,
    threading.Thread,
    threading.local,
    concurrent.futures.Executor,
    queue.Queue,
    queue.SimpleQueue,
    socket.socket,
    sqlite3.Connection,
    contextvars.ContextVar,
    weakref.WeakSet,
    weakref.WeakKeyDictionary,
    weakref.WeakValueDictionary,
    collections.deque,
    dict,
    list,
    set,
    bytearray,
)
NO_STATE = (type, types.ModuleType, types.FunctionType, types.BuiltinFunctionType)
GENERATED = {  # by Enum and NamedTuple
    "_member_names_",
    "_member_map_",
    "_value2member_map_",
    "_unhashable_values_",
    "_hashable_values_",
    "_unhashable_values_map_",
    "_field_defaults",
}

KNOWN: dict[str, str] = {
    # What a handler of os.register_at_fork in the same module makes anew, empties or goes through.
    "_activity_redis:_all": "each is started anew by activity.start_anew",
    "_atomic:_freed": "emptied: what was given up is the parent's to give away",
    "_atomic:_freed_lock": "made anew",
    "_atomic:_later": "emptied: the parent's thread does that work",
    "_atomic:_later_lock": "made anew",
    "_atomic:_later_runs": "False: the thread is the parent's",
    "_forks:_locks": "the locks that the handler opens",
    "_sqlite_store:_abandoned": "moved to _kept_for_parent: closing would end the parent's locks",
    "_sqlite_store:_fork_lock": "held during the fork, and released in parent and child",
    "_sqlite_store:_kept_for_parent": "connections that the child must never close or use",
    "_sqlite_store:_quiet": "emptied: the stores that were locked for the fork",
    "_sqlite_store:_stores": "each is opened anew when the child first uses it",
    "_workers:_all": "each is started anew: its threads are the parent's",
    "_workers:_by_store": "Workers, which are in _all",
    "_workers:_lock": "made anew",
    "activity:_all": "each is started anew: what was counted is the parent's",
    "choked.service:_all": "each is started anew: its connections are the parent's",
    "choked.service:_known": "Services, which are in _all",
    "limiters._keeper:_keepers": "emptied: their threads are the parent's",
    "limiters._keeper:_lock": "made anew",
    "limiters._permits:_all": "each is started anew by the keeper's handler",
    "limiters._watcher:_all": "each is started anew: its thread is the parent's",
    "limiters._watcher:_by_store": "Watchers, which are in _all",
    "limiters._watcher:_lock": "made anew",
    "smartratelimit._base:_limiters": "their lines are emptied: those in line are the parent's",
    "smartratelimit.storage:_storages": "their lines are emptied",
    # Locks that open_after_fork knows.
    "_definitions:_lock": "open",
    "choked.remote:_pool_lock": "open",
    "choked.service:_known_lock": "open",
    "contrib.prometheus:_making": "open",
    "store:_by_url_lock": "open",
    # What compares the process when it is used.
    "choked.remote:_pool": "holds the process that made it, and is not used in another",
    # What is as right in a child as in its parent.
    "_definitions:_stores": "limiters, whose state is the store's",
    "_workers:_limiters": "limiters, whose state is the store's",
    "asyncio.rate_limiter:RateLimiterRegistry._classes": "algorithms by name",
    "rate_limiter.registry:RateLimiterRegistry._classes": "algorithms by name",
    "choked.remote:_trio_limiters": "a name, under which each run of trio has a limiter of its own",
    "serve.early:hung_up": "whether a signal came, for a service that forks nothing",
    "contrib._django_settings:_read": "what the settings say",
    "contrib.django:_exempt_views": "how many views the program has exempted",
    "contrib.mcp._call:_connections": "names of the parent's connections, which the child has not",
    "contrib.prometheus:_made": "metrics by registry, which prometheus_client keeps alike",
    "dropin:_finder": "finds modules, and keeps nothing",
    "store:_by_client": "stores, whose connections the core makes anew",
    "store:_by_file": "SQLite stores, which are in _sqlite_store:_stores",
    "store:_by_name": "shared memory, which parent and child share",
    "store:_by_url": "stores, whose connections the core makes anew",
    "store:_leasing": "stores, whose leases the core begins anew",
    "store:_said": "what was logged once for these processes",
    # The context of the thread that forks goes on in the child.
    "choked.dual:_admitted": "the tickets of the call that forks",
    "contrib.mcp._turn:_innermost": "the turn that forks",
    "smartratelimit._libraries:_cost": "the cost of the request that forks",
}
"""module:name -> what it is in a child, and why that is right."""


def modules() -> Iterator[types.ModuleType]:
    for found in pkgutil.walk_packages(headway.__path__, "headway."):
        if not found.name.endswith("__main__"):
            try:
                yield importlib.import_module(found.name)
            except ImportError:  # of an optional library that is not installed
                continue


def is_constant(name: str) -> bool:
    return name.startswith("__") or name in GENERATED or (name.isupper() and name.strip("_") != "")


def is_kept(value: object) -> bool:
    """Whether a global like this is state: by its type alone, since proxies answer for others."""
    kind = type(value)
    if issubclass(kind, KINDS):
        return True
    return kind.__module__.startswith("headway") and not issubclass(kind, NO_STATE)


def kept_in(space: Mapping[str, Any]) -> set[str]:
    return {name for name, value in space.items() if not is_constant(name) and is_kept(value)}


def assigned(tree: ast.AST) -> set[str]:
    """The names that functions assign with `global`."""
    return {name for node in ast.walk(tree) if isinstance(node, ast.Global) for name in node.names}


def state_of(module: types.ModuleType) -> set[str]:
    found = kept_in(vars(module))
    file = getattr(module, "__file__", None) or ""
    if file.endswith(".py"):
        found |= assigned(ast.parse(Path(file).read_text("utf-8")))
    for value in list(vars(module).values()):
        if issubclass(type(value), type) and value.__module__ == module.__name__:
            found |= {f"{value.__qualname__}.{name}" for name in kept_in(vars(value))}
    return {f"{module.__name__.removeprefix('headway.')}:{name}" for name in found}


def all_state() -> set[str]:
    """By the module that is the first to have it: others import it from there."""
    return {name for module in modules() for name in state_of(module)}


def test_everything_that_a_module_keeps_says_what_it_is_in_a_child() -> None:
    assert sorted(all_state() - set(KNOWN)) == []


def test_what_is_said_of_a_module_is_of_something_that_it_has() -> None:
    there = all_state()
    imported = {module.__name__.removeprefix("headway.") for module in modules()}
    assert [n for n in KNOWN if n not in there and n.partition(":")[0] in imported] == []


def test_a_lock_or_a_cache_that_says_nothing_is_found() -> None:
    module = types.ModuleType("headway.made")
    source = """
import threading, contextvars, sqlite3
_lock = threading.Lock()
_cache = {}
_turn = contextvars.ContextVar("turn")
_thread = threading.Thread(target=print)
CONSTANTS = {"a": 1}
class A:
    by_name = {}
    _file = sqlite3.connect(":memory:")
"""
    exec(compile(source, "made", "exec"), vars(module))
    module.__dict__["A"].__module__ = "headway.made"
    names = ["A._file", "A.by_name", "_cache", "_lock", "_thread", "_turn"]
    assert sorted(state_of(module)) == [f"made:{name}" for name in names]
    assert assigned(ast.parse("def f():\n global _pool\n _pool = 1")) == {"_pool"}
    vars(module)["A"]._file.close()

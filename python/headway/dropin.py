"""Run programs written for the documents' own packages, unchanged.

    from headway import dropin
    dropin.install("throttled", "src.rate_limiter")     # before the program imports them

    python -m headway.dropin throttled -- script.py args
    python -m headway.dropin -- -m pytest args

A mirror is registered in `sys.modules` under the document's name, its submodules too. That is the
whole state: a name is installed when `sys.modules` has our module under it. Only what needs a
framework (below `contrib`) is left until it is imported, and found by a finder then.
"""

import os
import sys
from collections.abc import Iterator, Sequence
from importlib import import_module
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from importlib.util import find_spec
from types import ModuleType
from typing import Any, NoReturn

from headway.exceptions import SetUpError

__all__ = ["install", "main", "uninstall"]

_MIRRORS = {
    "throttled": "headway.throttled",
    "choked": "headway.choked",
    "limiters": "headway.limiters",
    "smartratelimit": "headway.smartratelimit",
    "src.rate_limiter": "headway.rate_limiter",
}

_USAGE = (
    "usage: python -m headway.dropin [NAME ...] -- script.py [args]\n"
    "       python -m headway.dropin [NAME ...] -- -m module [args]\n"
)


def install(*names: str) -> None:
    """Register the mirrors of `names`, or of every family.

    Installing again does nothing. Raises SetUpError, and registers nothing, where a name is
    unknown or the real package was already imported.
    """
    chosen = _chosen(names)
    modules = {name: _modules(name) for name in chosen}
    for name, found in modules.items():
        for alias, module in found.items():
            if sys.modules.get(alias, module) is not module:
                raise SetUpError(
                    f"Cannot install {name!r}: the module {alias!r} was already imported from "
                    f"{getattr(sys.modules[alias], '__file__', None)}; call "
                    "headway.dropin.install() before anything imports it."
                )
    if _finder not in sys.meta_path:
        sys.meta_path.insert(0, _finder)
    _reach_workers()
    for name, found in modules.items():
        sys.modules.update(found)
        parent, _, child = name.rpartition(".")
        if parent:
            setattr(_parent(parent), child, found[name])


def uninstall(*names: str) -> None:
    """Take the mirrors of `names` away, or all: the next import finds the real packages."""
    for name in _chosen(names):
        found = _modules(name)
        for alias, module in list(sys.modules.items()):
            if alias != name and not alias.startswith(f"{name}."):
                continue
            ours = found.get(alias) or sys.modules.get(_mirror(name) + alias[len(name) :])
            if module is not None and module is ours:
                del sys.modules[alias]
        parent_name, _, child = name.rpartition(".")
        parent = sys.modules.get(parent_name)
        if parent is not None and vars(parent).get(child) is import_module(_mirror(name)):
            delattr(parent, child)
            if isinstance(getattr(parent, "__path__", None), _EverywhereOnPath):
                del sys.modules[parent_name]


def main(argv: Sequence[str]) -> None:
    """Install the names before `--` and run the program after it as `__main__`.

    This is `python -m headway.dropin`: it takes `sys.path[0]` to be the current folder, which a
    script's own folder replaces. `-m` may stand for `-- -m`. A usage error exits with status 2
    and a sentence, as Python's own command line does.
    """
    arguments = list(argv)
    if arguments and arguments[0] in ("-h", "--help"):
        print(_USAGE, end="")
        return
    at = next((i for i, argument in enumerate(arguments) if argument in ("--", "-m")), None)
    if at is None:
        _usage_error("the program to run must follow '--'")
    names, program = arguments[:at], arguments[at:]
    if program[0] == "--":
        del program[0]
    if not program:
        _usage_error("there is no program after '--'")
    if program == ["-m"]:
        _usage_error("there is no module after '-m'")
    as_module = program[0] == "-m"
    if not as_module and not os.path.exists(program[0]):
        _usage_error(f"there is no file {program[0]!r}")
    if not as_module and not getattr(sys.flags, "safe_path", False):
        sys.path[0] = os.path.dirname(os.path.abspath(program[0]))
    try:
        install(*names)
    except SetUpError as error:
        _usage_error(str(error))
    _run(program, as_module)


def _run(program: list[str], as_module: bool) -> None:
    import runpy

    if as_module:
        sys.argv = program[1:]
        runpy.run_module(program[1], run_name="__main__", alter_sys=True)
    else:
        sys.argv = program
        runpy.run_path(program[0], run_name="__main__")


def _usage_error(sentence: str) -> NoReturn:
    print(f"{_USAGE}headway.dropin: {sentence}", file=sys.stderr)
    raise SystemExit(2)


def _chosen(names: Sequence[str]) -> list[str]:
    if not names:
        return list(_MIRRORS)
    for name in names:
        _mirror(name)
    return list(names)


def _mirror(name: str) -> str:
    if name not in _MIRRORS:
        raise SetUpError(f"Unknown name: {name!r}, must be one of: {', '.join(_MIRRORS)}.")
    return _MIRRORS[name]


def _modules(name: str) -> dict[str, ModuleType]:
    """Return the mirror of `name` and its submodules, by the names that the document uses."""
    return dict(_with_submodules(name, import_module(_mirror(name))))


def _with_submodules(name: str, module: ModuleType) -> Iterator[tuple[str, ModuleType]]:
    import pkgutil

    yield name, module
    for found in pkgutil.iter_modules(getattr(module, "__path__", ())):
        if found.name == "__main__":  # a program: `-m NAME` runs it, nobody imports it
            continue
        if found.name.startswith("_"):  # no document names it, and it may need what is not there
            continue
        child = import_module(f"{module.__name__}.{found.name}")
        if found.name == "contrib":  # what is below needs frameworks: `_finder` finds it
            yield f"{name}.{found.name}", child
            continue
        yield from _with_submodules(f"{name}.{found.name}", child)


def _parent(name: str) -> ModuleType:
    """Return the package above a mirror: the program's own where it has one, else an empty one."""
    try:
        return import_module(name)
    except ModuleNotFoundError as error:
        if error.name != name:
            raise
    parent = ModuleType(name, "Made by headway.dropin: holds the mirrors below it.")
    parent.__path__ = _EverywhereOnPath(name)  # type: ignore[assignment]
    sys.modules[name] = parent
    return parent


def _installed() -> list[str]:
    """The names that are installed now."""
    return [name for name, mirror in _MIRRORS.items() if _is_ours(name, mirror)]


def _is_ours(name: str, mirror: str) -> bool:
    return name in sys.modules and sys.modules[name] is sys.modules.get(mirror)


class _InWorker:
    """What installs the names in the process that unpickles it."""

    def __init__(self, names: list[str]) -> None:
        self.names = names

    def __reduce__(self) -> tuple[Any, ...]:
        return install, tuple(self.names)


def _reach_workers() -> None:
    """Let processes that multiprocessing spawns have the mirrors before they import the program.

    Such a process unpickles what `get_preparation_data` returns, and imports the program then. The
    server of forkserver, which would import it first, leaves that to its children.
    """
    from multiprocessing import spawn

    original = spawn.get_preparation_data
    if getattr(original, "_is_of_headway", False):
        return

    def get_preparation_data(name: str) -> dict[str, Any]:
        data: dict[str, Any] = original(name)
        names = _installed()
        if names and name == "ignore":  # for the server of forkserver
            for key in ("main_path", "init_main_from_path", "init_main_from_name"):
                data.pop(key, None)
        elif names:
            data["headway.dropin"] = _InWorker(names)
        return data

    get_preparation_data._is_of_headway = True  # type: ignore[attr-defined]
    spawn.get_preparation_data = get_preparation_data


class _Finder(MetaPathFinder, Loader):
    """Finds, below an installed mirror, the module of the mirror: the same, not a second copy."""

    def find_spec(self, fullname: str, path: object = None, target: object = None) -> Any:
        parent, _, child = fullname.rpartition(".")
        if child == "__main__":  # a program, which is found by the package's path
            return None
        for name, mirror in _MIRRORS.items():
            real_parent = mirror + parent[len(name) :]
            if parent != name and not parent.startswith(f"{name}."):
                continue
            above = sys.modules.get(parent)
            if above is None or above is not sys.modules.get(real_parent):
                return None
            real = f"{above.__name__}.{child}"
            return ModuleSpec(fullname, self, origin=real) if find_spec(real) else None
        return None

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        assert spec.origin is not None
        module = import_module(spec.origin)
        spec.loader_state = module.__spec__
        return module

    def exec_module(self, module: ModuleType) -> None:
        """It has run already. Importing gave it another spec, by which it could not be reloaded."""
        if module.__spec__ is not None:
            module.__spec__ = module.__spec__.loader_state


_finder = _Finder()


class _EverywhereOnPath:
    """A `__path__` over every folder of that name on `sys.path`, as it is when asked.

    A program may extend `sys.path` later: its other modules in such a folder are still found.
    """

    def __init__(self, name: str) -> None:
        self._name = name

    def __iter__(self) -> Iterator[str]:
        folders = (os.path.join(entry, self._name) for entry in sys.path)
        return (folder for folder in folders if os.path.isdir(folder))


if __name__ == "__main__":
    # This file runs as __main__ here; the program must meet the module headway.dropin.
    from headway.dropin import main as imported_main

    imported_main(sys.argv[1:])

"""Finds the Pythons of this machine that headway supports: one interpreter for each version and
flavour.

    python3 scripts/pythons.py          prints them, name and path

Looks for python3.10 to python3.15 (and 3.13t and later, the free-threaded ones) on PATH, among
pyenv's versions, those that uv has installed, and those of scripts/build-python. A name on
PATH may be a launcher for a version that is not there, so each is asked first.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

OLDEST, NEWEST = 10, 15
ASK = (
    "import sys, sysconfig; v = sys.version_info; "
    "assert sys.implementation.name == 'cpython' and v.releaselevel == 'final'; "
    "print(f'{v[0]}.{v[1]}' + 't' * bool(sysconfig.get_config_var('Py_GIL_DISABLED')))"
)


def candidates() -> Iterator[Path]:
    names = [f"python3.{m}{t}" for m in range(NEWEST, OLDEST - 1, -1) for t in ("", "t")]
    for folder in os.environ.get("PATH", "").split(os.pathsep):
        for name in names:
            path = Path(folder) / name
            if folder and path.exists():
                yield path
    home = Path.home()
    pyenv = Path(os.environ.get("PYENV_ROOT", home / ".pyenv")) / "versions"
    uv = Path(os.environ.get("UV_PYTHON_INSTALL_DIR", home / ".local" / "share" / "uv" / "python"))
    for place in (pyenv, uv):
        yield from sorted(place.glob("*/bin/python3"), reverse=True)
    built = Path(os.environ.get("HEADWAY_PYTHONS", home / ".cache" / "headway"))
    yield from sorted(built.glob("python3.1?t/bin/python3.1?t"), reverse=True)


def name_of(python: Path | str) -> str | None:
    """'3.12', '3.13t', or None for what is no released CPython, or does not run."""
    try:
        done = subprocess.run([python, "-c", ASK], capture_output=True, text=True, timeout=30)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() or None


def supported(name: str) -> bool:
    return OLDEST <= int(name.split(".")[1].rstrip("t")) <= NEWEST and name.startswith("3.")


def find_pythons() -> dict[str, Path]:
    """Every supported Python by name, oldest first; for a name, the first interpreter found."""
    found: dict[str, Path] = {}
    for path in candidates():
        name = name_of(path)
        if name and supported(name):
            found.setdefault(name, path)
    return dict(sorted(found.items(), key=lambda item: (len(item[0].rstrip("t")), item[0])))


if __name__ == "__main__":
    for version, interpreter in find_pythons().items():
        print(version, interpreter)
    sys.exit(0)

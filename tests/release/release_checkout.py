"""A checkout as it looks after some work in it, and an sdist that was made of one."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

CACHES = (
    "tests/__pycache__/test_a.cpython-311.pyc",
    "tests/.pytest_cache/v/cache/lastfailed",
    "tests/api/.hypothesis/examples/one",
    "python/headway/_core.cpython-311-x86_64-linux-gnu.so",
    "python/headway/__pycache__/clock.cpython-311.pyc",
    "build/generated/lua_scripts.h",
    "dist/headway-0.0.1.tar.gz",
    ".venv/lib/module.py",
)


def listing(folder: Path) -> set[str]:
    files = (p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file())
    return {name for name in files if not name.startswith("scripts/__pycache__/")}


@dataclass(frozen=True)
class Sdist:
    file: Path
    checkout_before: set[str]
    checkout_after: set[str]

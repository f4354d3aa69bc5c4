"""Compiles moments.c for this Python, once, and loads it."""

from __future__ import annotations

import hashlib
import importlib.machinery
import importlib.util
import os
import shlex
import subprocess
import sys
import sysconfig
from functools import cache
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
SOURCE = Path(__file__).with_name("moments.c")

COUNT, FAIL, SIGNAL = range(3)
"""The harm that `run` does."""
ALLOCATION, BYTE_CODE, CALL, PYTHON_CALL = 1, 2, 4, 8
"""Kinds of moments."""


class Unavailable(Exception):
    """There is no compiler, or this system has another format of programs."""


def _build() -> Path:
    name = hashlib.sha256(SOURCE.read_bytes() + sys.version.encode()).hexdigest()[:12]
    built = ROOT / "build" / "torture" / f"_moments-{name}.so"
    if built.exists():
        return built
    built.parent.mkdir(parents=True, exist_ok=True)
    scratch = built.with_suffix(f".{os.getpid()}")
    command = [
        *shlex.split(os.environ.get("CC", "cc")),
        *("-shared", "-fPIC", "-O1", "-g", "-std=gnu11", "-Wall", "-Wextra"),
        f"-I{sysconfig.get_path('include')}",
        *(str(SOURCE), "-o", str(scratch), "-ldl", "-pthread"),
    ]
    environment = {k: v for k, v in os.environ.items() if k != "LD_PRELOAD"}
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    except OSError as error:
        raise Unavailable(str(error)) from None
    if done.returncode != 0:
        raise Unavailable(done.stderr)
    scratch.rename(built)
    return built


@cache
def load() -> Any:
    """The module `_moments`, installed. Import headway._core before."""
    import headway._core  # noqa: F401

    loader = importlib.machinery.ExtensionFileLoader("_moments", str(_build()))
    spec = importlib.util.spec_from_file_location("_moments", loader.path, loader=loader)
    assert spec is not None
    module = importlib.util.module_from_spec(spec)
    loader.exec_module(module)
    if not module.install():
        raise Unavailable("the compiled module calls nothing by way of a table")
    return module


def where() -> str:
    """Which lines of the C code were on the stack at the last harm; empty without addr2line."""
    import headway._core

    offsets = load().where()[:4]
    if not offsets:
        return ""
    command = ["addr2line", "-e", str(headway._core.__file__), *map(hex, offsets)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=20)
    except (OSError, subprocess.SubprocessError):
        return ""
    lines = [line.partition(" ")[0].rpartition("/src/")[2] for line in done.stdout.split("\n")]
    return " <- ".join(line for line in lines if line)

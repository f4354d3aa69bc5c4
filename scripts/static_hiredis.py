"""Finds a libhiredis.a that can be linked into the extension module, for wheels.

HEADWAY_STATIC_HIREDIS=1 asks the compiler and pkg-config for it. A folder stands for itself: it
holds include/hiredis/hiredis.h and, in lib or below it, libhiredis.a. Unset, empty or 0: hiredis is
linked as a shared library.

The symbols of hiredis stay inside the module, so that another hiredis in the process (the one in
redis-py's extension) and this one cannot call each other.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from find_hiredis import Flags, find

ARCHIVE = "libhiredis.a"
# Exports of the module: its init function, and nothing of hiredis.
if sys.platform == "darwin":
    HIDDEN = ["-Wl,-exported_symbol,_PyInit__core"]
else:
    HIDDEN = ["-Wl,--exclude-libs,ALL"]


class StaticHiredisError(Exception):
    """There is no usable libhiredis.a; the message says what to do."""


def wanted() -> bool:
    return os.environ.get("HEADWAY_STATIC_HIREDIS", "") not in ("", "0")


def flags(compiler: Sequence[str]) -> Flags:
    """Compiler flags and linker flags that put hiredis into the module."""
    wish = os.environ["HEADWAY_STATIC_HIREDIS"]
    folder = None if wish == "1" else Path(wish)
    archive = _archive_in(folder) if folder else _archive_of(compiler)
    shared = find(compiler)
    headers = [f"-I{folder / 'include'}"] if folder else (shared.compile if shared else None)
    if archive is None or headers is None:
        raise StaticHiredisError(
            f"HEADWAY_STATIC_HIREDIS={wish}: there is no {ARCHIVE}"
            + (f" in {folder}. " if folder else ". ")
            + "Install it (Debian, Ubuntu: sudo apt-get install libhiredis-dev; elsewhere build "
            "hiredis with `make static` and name its folder: HEADWAY_STATIC_HIREDIS=/path), or "
            "leave the variable out to link the shared library."
        )
    require_position_independent(compiler, archive)
    return Flags(headers, [str(archive), *HIDDEN])


def _archive_in(folder: Path) -> Path | None:
    return next(iter(sorted(folder.glob(f"lib*/**/{ARCHIVE}"))), None)


def _archive_of(compiler: Sequence[str]) -> Path | None:
    """The compiler answers with a path where it finds the file, else with the bare name."""
    asked = _answer([*compiler, f"-print-file-name={ARCHIVE}"])
    folder = _answer([os.environ.get("PKG_CONFIG", "pkg-config"), "--variable=libdir", "hiredis"])
    candidates = [Path(asked)] if asked else []
    candidates += [Path(folder) / ARCHIVE] if folder else []
    return next((c.resolve() for c in candidates if c.is_absolute() and c.is_file()), None)


def _answer(command: Sequence[str]) -> str:
    if shutil.which(command[0]) is None:
        return ""
    return subprocess.run(command, capture_output=True, text=True).stdout.strip()


def require_position_independent(compiler: Sequence[str], archive: Path) -> None:
    """An archive that was not compiled with -fPIC cannot go into a shared object."""
    if sys.platform == "darwin":  # all code is position independent there
        return
    with tempfile.TemporaryDirectory() as folder:
        whole = ["-Wl,--whole-archive", str(archive), "-Wl,--no-whole-archive"]
        output = str(Path(folder) / "probe.so")
        linked = subprocess.run(
            [compiler[0], "-shared", *whole, "-o", output], capture_output=True, text=True
        )
    if linked.returncode != 0:
        why = linked.stderr.strip().splitlines() or ["the linker failed"]
        raise StaticHiredisError(
            f"{archive} cannot be linked into a shared object: {why[0]}. Build hiredis with "
            "CFLAGS=-fPIC, or leave HEADWAY_STATIC_HIREDIS out and let auditwheel bring the "
            "shared library into the wheel."
        )

"""Builds headway's extension under AddressSanitizer and UndefinedBehaviorSanitizer, in a folder
that has the Python files as links: build/torture-asan, for PYTHONPATH. Compiles what has changed.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / "build" / "torture-asan"
FLAGS = "-fsanitize=address,undefined -fno-omit-frame-pointer -g -O1"


def build() -> None:
    package = FOLDER / "headway"
    package.mkdir(parents=True, exist_ok=True)
    for old in package.iterdir():
        if old.is_symlink():
            old.unlink()
    for source in (ROOT / "python" / "headway").iterdir():
        if source.suffix != ".so" and source.name != "__pycache__":
            (package / source.name).symlink_to(source)
    command = [
        *(sys.executable, "setup.py", "-q", "build_ext"),
        *("--build-lib", str(FOLDER), "--build-temp", str(FOLDER / "objects")),
    ]
    subprocess.run(command, cwd=ROOT, check=True, env=os.environ | {"HEADWAY_CFLAGS": FLAGS})


def environment(folder: Path) -> dict[str, str]:
    """What a child needs to run with it."""
    compiler = os.environ.get("CC", "gcc").split()
    libraries = [
        subprocess.run(
            [*compiler, f"-print-file-name={name}"], capture_output=True, text=True, check=True
        ).stdout.strip()
        for name in ("libasan.so", "libubsan.so")
    ]
    return {
        "LD_PRELOAD": " ".join(libraries),
        "PYTHONPATH": str(folder),
        "PYTHONMALLOC": "malloc",
        "ASAN_OPTIONS": "detect_leaks=0:abort_on_error=1:allocator_may_return_null=1",
        "UBSAN_OPTIONS": "print_stacktrace=1:halt_on_error=1",
    }


if __name__ == "__main__":
    build()

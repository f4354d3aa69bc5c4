"""Compiles the C core in place, for a checkout whose environment is ready.

    .venv/bin/python scripts/build.py

A module that a full disk has cut short is removed, so that the next build does not take it for a
finished one.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from disk import complaint_about_space

ROOT = Path(__file__).resolve().parent.parent
COMPILE = [sys.executable, "setup.py", "-q", "build_ext", "--inplace"]
LOAD = [sys.executable, "-c", "import headway._core"]


def build() -> int:
    for command in (COMPILE, LOAD):
        status = subprocess.run(command, cwd=ROOT).returncode
        if status != 0:
            for module in (ROOT / "python" / "headway").glob("_core.*.so"):
                module.unlink()
            sentence = complaint_about_space(ROOT)
            print(
                f"headway was not built: {sentence or 'the reason is above'}.",
                file=sys.stderr,
            )
            return status
    return 0


if __name__ == "__main__":
    sys.exit(build())

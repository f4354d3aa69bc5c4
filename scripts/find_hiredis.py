"""Finds the hiredis of this machine: the one answer for setup.py, the C tests and bootstrap.py.

    python3 scripts/find_hiredis.py     prints the compiler's and linker's flags; exits 1 for none

pkg-config is asked where it is installed. Where it is not, the compiler is: it either finds
<hiredis/hiredis.h> or does not. HEADWAY_WITHOUT_REDIS=1 means none is wanted. Standard library
only: bootstrap.py runs this before anything is installed.
"""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

PREFIXES = ("/usr", "/usr/local", "/opt/homebrew")
HEADER = Path("include") / "hiredis" / "hiredis.h"
PROBE = "#include <stddef.h>\n#include <hiredis/hiredis.h>\n"


class Flags(NamedTuple):
    """What a compiler and a linker need to be given for hiredis."""

    compile: list[str]
    link: list[str]


def unwanted() -> bool:
    """Whether the builder asks for a headway without Redis."""
    return os.environ.get("HEADWAY_WITHOUT_REDIS", "") not in ("", "0")


def find(compiler: Sequence[str] = ()) -> Flags | None:
    """The flags, or None where there is no hiredis.

    `compiler` is a command and its options; without one, $CC or cc is asked.
    """
    command = list(compiler) or shlex.split(os.environ.get("CC", "cc"))
    for flags in (_of_pkg_config(), Flags([], ["-lhiredis"]), *_of_prefixes()):
        if flags is not None and _compiles(command, flags):
            return flags
    return None


def _of_pkg_config() -> Flags | None:
    tool = os.environ.get("PKG_CONFIG", "pkg-config")
    if shutil.which(tool) is None:
        return None
    answers = []
    for option in ("--cflags-only-I", "--libs"):
        asked = subprocess.run([tool, option, "hiredis"], capture_output=True, text=True)
        if asked.returncode != 0:
            return None
        answers.append(shlex.split(asked.stdout))
    includes, libraries = answers
    # The header is included as <hiredis/hiredis.h>, so the folder above the one named is wanted.
    includes = [
        f"-I{Path(flag[2:]).parent}" if flag[2:].endswith("hiredis") else flag for flag in includes
    ]
    return Flags(includes, libraries or ["-lhiredis"])


def _of_prefixes() -> list[Flags]:
    """Where package managers put libraries that the compiler does not look for by itself."""
    return [
        Flags([f"-I{prefix}/include"], [f"-L{prefix}/lib", "-lhiredis"])
        for prefix in PREFIXES
        if (Path(prefix) / HEADER).exists()
    ]


def _compiles(command: list[str], flags: Flags) -> bool:
    if shutil.which(command[0]) is None:  # the header alone must do as an answer
        return any((Path(prefix) / HEADER).exists() for prefix in PREFIXES)
    asked = subprocess.run(
        [*command, *flags.compile, "-E", "-x", "c", "-", "-o", os.devnull],
        input=PROBE,
        capture_output=True,
        text=True,
    )
    return asked.returncode == 0


if __name__ == "__main__":
    found = None if unwanted() else find()
    if found is None:
        sys.exit(1)
    print(shlex.join([*found.compile, *found.link]))

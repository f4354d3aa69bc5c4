"""The Python that a wheel is for, where it is not the one that runs setup.py.

An extension module needs only the headers of its Python to be compiled. So any Python can build the
wheels of all others, and of other processors, with two environment variables:

    HEADWAY_TARGET           the wheel's tag: cp314-cp314-linux_x86_64, cp313-cp313t-linux_aarch64
    HEADWAY_TARGET_INCLUDE   folders with that Python's headers, joined by ':'

The compiler for another processor is named in CC. scripts/wheels.py sets them.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass


class TargetError(Exception):
    """The environment variables make no sense; the message names them."""


@dataclass(frozen=True)
class Target:
    python: str  # cp314
    abi: str  # cp314, cp314t
    platform: str  # linux_x86_64
    includes: tuple[str, ...]

    @property
    def tag(self) -> tuple[str, str, str]:
        return self.python, self.abi, self.platform

    @property
    def suffix(self) -> str:
        """The ending by which this Python, and no other, finds the module."""
        machine = self.platform.removeprefix("linux_")
        return f".cpython-{self.abi.removeprefix('cp')}-{machine}-linux-gnu.so"


def of_environment() -> Target | None:
    """The target, or None: the Python that runs."""
    tag = os.environ.get("HEADWAY_TARGET", "")
    if not tag:
        return None
    match = re.fullmatch(r"(cp3\d+)-(\1t?)-(linux_(?:x86_64|aarch64))", tag)
    folders = [f for f in os.environ.get("HEADWAY_TARGET_INCLUDE", "").split(os.pathsep) if f]
    if not match or not folders:
        raise TargetError(
            f"HEADWAY_TARGET={tag}: expected a tag such as cp314-cp314-linux_x86_64, and in "
            "HEADWAY_TARGET_INCLUDE the folders of that Python's headers."
        )
    return Target(match[1], match[2], match[3], tuple(folders))

"""Whether a full disk is the likely reason for what went wrong."""

from __future__ import annotations

import shutil
from pathlib import Path

BUILD_NEEDS_MB = 150
TESTS_NEED_MB = 1500


def complaint_about_space(folder: Path) -> str:
    """What to say where little is free; empty where there is room for a build."""
    free = shutil.disk_usage(folder).free >> 20
    if free >= BUILD_NEEDS_MB:
        return ""
    return (
        f"only {free} MB are free in {folder}; free some space (a build needs {BUILD_NEEDS_MB} MB, "
        f"the tests {TESTS_NEED_MB} MB) and run the same command again"
    )

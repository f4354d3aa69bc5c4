"""How processes of one machine agree on the time, though the wall clock is set between starts.

Each process' clock is the monotonic clock plus an offset that it has taken when it started. The
monotonic clock is the same for all until the machine restarts; so they agree if they go by the
offset of one of them.
"""

import time
from pathlib import Path

from headway._core import now_ns

__all__ = ["boot_name", "offset_ns"]


def boot_name() -> str | None:
    """What tells one run of the machine, and one of its monotonic clocks, from another."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        space = Path("/proc/self/timens_offsets")
        return boot + ":".join(space.read_text().split()) if space.exists() else boot
    except OSError:
        return None


def offset_ns() -> int:
    """The process' clock less the monotonic one; read quickly, so that it is exact."""
    readings = []
    for _ in range(5):
        before = time.monotonic_ns()
        now = now_ns()
        after = time.monotonic_ns()
        readings.append((after - before, now - (before + after) // 2))
    return min(readings)[1]

"""The doctor's findings of headway itself, of Python, of the machine, and of the environment."""

from __future__ import annotations

import os
import platform
import re
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from headway._redis_url import masked
from headway.commands.doctor.finding import OK, WARNING, Finding
from headway.commands.output import duration

__all__ = ["environment", "findings"]

ENOUGH_FILES = 1024
COARSE_S = 1e-4
FAR_S = 1.0
LITTLE_MEMORY = 16 << 20
"""Bytes: what a table in shared memory takes, more or less."""


def findings() -> Iterator[Finding]:
    """Of what is the same for all stores."""
    yield from _program()
    yield from _clock()
    yield from _room()


def _program() -> Iterator[Finding]:
    from headway import _core

    room = "headway"
    yield Finding(room, "version", f"{_core.__version__} in {Path(__file__).parents[2]}")
    python = f"{platform.python_implementation()} {platform.python_version()} at {sys.executable}"
    yield Finding(room, "python", python)
    libc = " ".join(platform.libc_ver()).strip()
    system = platform.platform() + (f", {libc}" if libc and libc not in platform.platform() else "")
    yield Finding(room, "platform", f"{system}, {_cores()}")
    yield _gil()
    yield _hiredis()


def _cores() -> str:
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return f"{usable or 1} core{'s' * (usable != 1)}"


def _gil() -> Finding:
    from headway import _core

    name = Path(_core.__file__ or "?").name
    made = f"{name}, compiled by {_core.BUILD['compiler']} for Python {_core.BUILD['python']}"
    if not _core.BUILD["free_threaded"]:
        return Finding("headway", "compiled core", f"{made}, with the GIL")
    enabled = getattr(sys, "_is_gil_enabled", lambda: False)()
    if not enabled:
        return Finding("headway", "compiled core", f"{made}, free-threaded")
    return Finding(
        "headway",
        "compiled core",
        f"{made}, free-threaded, but the GIL is on",
        WARNING,
        "PYTHON_GIL=1, -X gil=1 or an imported extension module turned it on; headway does not "
        "need it.",
    )


def _hiredis() -> Finding:
    from headway import _core

    if _core.BUILD["hiredis"] is None:
        return Finding(
            "headway",
            "hiredis",
            "none: this headway was built without Redis (HEADWAY_WITHOUT_REDIS=1)",
            WARNING,
            "Install a wheel, or build headway with hiredis (libhiredis-dev), to reach Redis.",
        )
    if _core.BUILD["hiredis_link"] == "shared library":
        mapped = _hiredis_version()
        where = f"shared library {mapped}" if mapped else "shared library"
        return Finding("headway", "hiredis", f"{_core.BUILD['hiredis']}, by the {where}")
    return Finding("headway", "hiredis", f"{_core.BUILD['hiredis']}, inside the compiled core")


def _hiredis_version() -> str | None:
    """The version in the name of the library that is mapped, where /proc has it."""
    try:
        maps = Path("/proc/self/maps").read_text(errors="replace")
    except OSError:
        return None
    found = re.search(r"/libhiredis[^/\n]*?([0-9]+(?:\.[0-9]+)+)[^/\n]*$", maps, re.MULTILINE)
    return found and found[1]


def _clock() -> Iterator[Finding]:
    from headway._core import now_ns

    info = time.get_clock_info("monotonic")
    coarse = info.resolution > COARSE_S
    yield Finding(
        "clock",
        "monotonic",
        f"{info.implementation}, resolution {duration(info.resolution)}",
        WARNING if coarse else OK,
        "Waits are no more exact than that; choose another clock source." if coarse else "",
    )
    ahead = min(((time.time_ns() - now_ns()) / 1e9 for _ in range(5)), key=abs)
    yield Finding(
        "clock",
        "wall clock",
        f"{time.strftime('%Y-%m-%d %H:%M:%S %z')}, {duration(abs(ahead))} from headway's",
        WARNING if abs(ahead) > FAR_S else OK,
        "The wall clock was set since this process began; restart programs that wait for windows."
        if abs(ahead) > FAR_S
        else "",
    )


def _room() -> Iterator[Finding]:
    files = _file_limit()
    if files is not None:
        few = files < ENOUGH_FILES
        yield Finding(
            "machine",
            "open files",
            f"at most {files:,}" if files < 1 << 40 else "no limit",
            WARNING if few else OK,
            f"Raise it to {ENOUGH_FILES} or more (ulimit -n) where many connections are open."
            if few
            else "",
        )
    shared = Path("/dev/shm")
    if not shared.is_dir():
        return
    free = os.statvfs(shared)
    size = free.f_bavail * free.f_frsize
    short = size < LITTLE_MEMORY
    yield Finding(
        "machine",
        "/dev/shm",
        f"{size >> 20:,} MiB free",
        WARNING if short else OK,
        "Too little for shm:// stores; give it more (docker run --shm-size=64m)." if short else "",
    )


def _file_limit() -> int | None:
    try:
        import resource
    except ImportError:  # no such thing here
        return None
    soft = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    return 1 << 62 if soft == resource.RLIM_INFINITY else soft


_VARIABLES = {
    "REDIS_URL": "the store of limiters that name none",
    "CHOKED_API_URL": "choked's service",
    "CHOKED_API_TOKEN": "the token for it",
    "HEADWAY_TOKEN": "the token of peek, reset, top and doctor for a service",
    "NO_COLOR": "no colour on terminals",
}


def environment() -> Iterator[Finding]:
    """The environment variables that headway reads."""
    for name, use in _VARIABLES.items():
        value = os.environ.get(name)
        if not value:
            yield Finding("environment", name, f"not set ({use})")
        elif name.endswith("TOKEN"):
            yield Finding("environment", name, f"set, not shown ({use})")
        else:
            yield Finding("environment", name, f"{masked(value)} ({use})")

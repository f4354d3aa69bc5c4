"""Where the figures were taken: processor, Python, load, versions. Printed with every result."""

from __future__ import annotations

import os
import platform
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path

PACKAGES = (
    "headway",
    "throttled-py",
    "limits",
    "pyrate-limiter",
    "token-bucket",
    "aiolimiter",
    "steindamm",
    "smartratelimit",
    "slowapi",
    "starlette",
    "redis",
    "hiredis",
    "uvloop",
)


@dataclass(frozen=True)
class Machine:
    """The machine and the versions of one run; the load average of the minute before it."""

    cpus: int
    cpu: str
    system: str
    python: str
    load: float
    versions: dict[str, str] = field(default_factory=dict)

    def line(self) -> str:
        """The machine in one line."""
        packages = ", ".join(f"{name} {version}" for name, version in self.versions.items())
        return (
            f"{self.cpus} x {self.cpu}, {self.system}, {self.python}, load average "
            f"{self.load:.2f} at the start; {packages}"
        )


def describe() -> Machine:
    """The machine that this process runs on, as it is now."""
    return Machine(
        cpus=len(os.sched_getaffinity(0))
        if hasattr(os, "sched_getaffinity")
        else os.cpu_count() or 1,
        cpu=_cpu_model(),
        system=f"{platform.system()} {platform.machine()}",
        python=f"{platform.python_implementation()} {platform.python_version()}",
        load=os.getloadavg()[0],
        versions={name: found for name in PACKAGES if (found := version(name)) is not None},
    )


def version(package: str) -> str | None:
    """The installed version of a distribution, or None."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def resident_bytes() -> int:
    """The resident set of this process. Linux reads it live; elsewhere it is the highest so far."""
    statm = Path("/proc/self/statm")
    if statm.exists():
        return int(statm.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if platform.system() == "Darwin" else peak * 1024


def _cpu_model() -> str:
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()

"""For which Pythons and processors this machine can build a wheel, and with what.

Of a Python that is found here the headers are used. Of others they are fetched from Debian, as are
headers and hiredis for arm64, for which a cross compiler must be installed. The host's processor is
x86-64 or arm64.
"""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from pythons import find_pythons, name_of, supported
from wheels_debs import CACHE, FetchError, Release

# The Debian release that has this Python. Headers are all that is taken from it.
SUITES = {"3.11": "bookworm", "3.13": "trixie", "3.14": "sid", "3.15": "sid"}
HIREDIS_SUITE = "bookworm"
DEBIAN_NAMES = {"x86_64": "amd64", "aarch64": "arm64"}
CROSS_COMPILERS = {
    "x86_64": ("x86_64-linux-gnu-gcc", "gcc-x86-64-linux-gnu libc6-dev-amd64-cross"),
    "aarch64": ("aarch64-linux-gnu-gcc", "gcc-aarch64-linux-gnu libc6-dev-arm64-cross"),
}


@dataclass(frozen=True)
class Target:
    python: str  # 3.14, 3.13t
    machine: str  # x86_64
    compiler: str
    includes: tuple[str, ...]
    hiredis: str  # for HEADWAY_STATIC_HIREDIS

    @property
    def name(self) -> str:
        return f"{self.python}-{self.machine}"

    @property
    def tag(self) -> str:
        abi = "cp" + self.python.replace(".", "")
        return f"{abi.rstrip('t')}-{abi}-linux_{self.machine}"


def all_pythons() -> dict[str, Path]:
    """Those that are installed, and the free-threaded ones that were built in ~/.cache/headway."""
    found = find_pythons()
    for python in sorted(CACHE.glob("python3.*t/bin/python3.*t")):
        name = name_of(python)
        if name and supported(name):
            found.setdefault(name, python)
    return found


def find_targets(wishes: Sequence[str]) -> tuple[list[Target], list[str]]:
    """What can be built, and a sentence for each target that cannot.

    `wishes` are names (3.14, 3.11-aarch64); without any, all targets are meant.
    """

    def wished(version: str, machine: str) -> bool:
        return not wishes or version in wishes or f"{version}-{machine}" in wishes

    here = platform.machine()
    compiler = os.environ.get("CC", "cc")
    targets: list[Target] = []
    left_out: list[str] = []
    found = all_pythons()
    for version in sorted({*found, *SUITES}, key=lambda v: (int(v[2:].rstrip("t")), v)):
        if not wished(version, here):
            continue
        includes = _includes_of(found[version]) if version in found else ()
        if includes:
            targets.append(Target(version, here, compiler, includes, "1"))
            continue
        try:
            targets.append(Target(version, here, compiler, _debian_includes(version, here), "1"))
        except FetchError as error:
            left_out.append(f"{version}-{here}: {error}")
    for other in sorted(DEBIAN_NAMES.keys() - {here}):
        cross, packages = CROSS_COMPILERS[other]
        if shutil.which(cross) is None:
            left_out.append(f"{other}: no {cross} here; sudo apt-get install {packages}")
            continue
        for version in SUITES:
            if not wished(version, other):
                continue
            try:
                includes, hiredis = _debian_includes(version, other), _debian_hiredis(other)
                targets.append(Target(version, other, cross, includes, hiredis))
            except FetchError as error:
                left_out.append(f"{version}-{other}: {error}")
    return targets, left_out


def _includes_of(python: Path) -> tuple[str, ...]:
    """The folders with Python.h and pyconfig.h; empty where the headers are not installed."""
    ask = "import sysconfig as s; print(s.get_path('include')); print(s.get_path('platinclude'))"
    answer = subprocess.run([python, "-c", ask], capture_output=True, text=True).stdout
    folders = tuple(dict.fromkeys(answer.split("\n")[:2]))
    return folders if any((Path(f) / "Python.h").exists() for f in folders if f) else ()


def _debian_includes(version: str, machine: str) -> tuple[str, ...]:
    if version not in SUITES:
        raise FetchError("its headers are not installed, and no Debian release has them.")
    release = Release(SUITES[version], DEBIAN_NAMES[machine])
    usr = release.fetch([f"libpython{version}-dev"]) / "usr" / "include"
    # Its pyconfig.h includes <x86_64-linux-gnu/python3.14/pyconfig.h>.
    return str(usr / f"python{version}"), str(usr)


def _debian_hiredis(machine: str) -> str:
    release = Release(HIREDIS_SUITE, DEBIAN_NAMES[machine])
    return str(release.fetch(["libhiredis-dev"]) / "usr")


def names(targets: Sequence[Target]) -> str:
    return ", ".join(t.name for t in targets)

"""Bare systems in which wheels are tried: no compiler, no headers, no hiredis.

A system is a Debian release in a folder, with Python, and is made once (debootstrap, or a copy of
the one that scripts/try-bare has made) and kept in ~/.cache/headway/wheels. For arm64 on x86-64
packages are unpacked into a folder and run by qemu, through proot, which needs no support of the
kernel for foreign programs.
"""

from __future__ import annotations

import os
import platform
import shlex
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

from wheels_debs import CACHE, Release

BASES = Path(os.environ.get("HEADWAY_BARE", CACHE / "bare"))
PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
CERTIFICATES = Path("/etc/ssl/certs/ca-certificates.crt")
# What a Python that was not installed by apt is linked with.
LIBRARIES = ["libssl3", "libffi8", "libsqlite3-0", "libbz2-1.0", "liblzma5", "zlib1g"]
PACKAGES = {
    "bookworm": ["python3", "python3-venv", *LIBRARIES, "libreadline8", "libncursesw6"],
    "trixie": ["python3", "python3-venv"],
    "sid": ["python3", "python3-venv", "python3.15", "python3.15-venv"],
}
FORBIDDEN = "command -v cc gcc clang; find / -xdev -name 'libhiredis*' -o -xdev -name Python.h"
# Processes and mounts of its own, which end with the command.
ENTER = """
IFS=$'\\n'
mount --rbind /dev "$0/dev" && mount -t tmpfs none "$0/dev/shm" || exit
mount -t sysfs none "$0/sys" || exit
for bind in $BINDS; do
    mkdir -p "$0${bind#*:}" && mount --bind "${bind%%:*}" "$0${bind#*:}" || exit
done
exec env -i PATH="$INSIDE_PATH" HOME=/root TERM=dumb LANG=C.UTF-8 DEBIAN_FRONTEND=noninteractive \
    $VARIABLES chroot "$0" /bin/bash -c "$1"
"""


class SystemError_(Exception):
    """A system cannot be made or used here; the message says what to do."""


def variables(extra: Mapping[str, str] = {}) -> dict[str, str]:
    """How this machine reaches the package index, and what else the caller sets."""
    network = ("PIP_INDEX_URL", "http_proxy", "https_proxy", "no_proxy")
    passed = {name: os.environ[name] for name in network if name in os.environ}
    certificates = {"PIP_CERT": str(CERTIFICATES)} if CERTIFICATES.exists() else {}
    return {**passed, **certificates, **extra}


class Bare:
    """A Debian release of this machine's processor, entered by chroot; needs root."""

    def __init__(self, suite: str) -> None:
        self.suite = suite
        self.folder = CACHE / "wheels" / suite

    def prepare(self) -> None:
        """Makes the system, unless it is there. Half of one has another name, and is removed."""
        if os.geteuid() != 0:
            raise SystemError_("bare systems are entered by chroot: run this as root (sudo).")
        if not self.folder.is_dir():
            half = self.folder.with_suffix(".half")
            shutil.rmtree(half, ignore_errors=True)
            half.parent.mkdir(parents=True, exist_ok=True)
            base = BASES / self.suite
            if base.is_dir():
                self._step(["cp", "-a", "--reflink=auto", str(base), str(half)], "copy")
            elif shutil.which("debootstrap") is None:
                raise SystemError_("debootstrap is missing: sudo apt-get install debootstrap.")
            else:
                self._step(["debootstrap", "--variant=minbase", self.suite, str(half)], "make")
            packages = shlex.join(["ca-certificates", *PACKAGES[self.suite]])
            install = f"apt-get -qq install -y --no-install-recommends {packages}"
            # A mirror that is some weeks behind is no reason to try nothing.
            update = "apt-get -qq -o Acquire::Check-Valid-Until=false update"
            done = _enter(half, f"{update} && {install}", {}, {})
            if done.returncode != 0:
                why = (done.stdout.strip().splitlines() or ["no reason given"])[-1]
                raise SystemError_(
                    f"{packages} cannot be installed in {self.suite}, which needs the network and "
                    f"room on the disk: {why}"
                )
            half.rename(self.folder)
        found = _enter(self.folder, FORBIDDEN, {}, {}).stdout.split()
        if found:
            raise SystemError_(f"{self.suite} is not bare, it has {' '.join(found[:5])}.")

    def _step(self, command: Sequence[str], what: str) -> None:
        done = subprocess.run(
            command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace"
        )
        if done.returncode != 0:
            why = (done.stdout.strip().splitlines() or ["no reason given"])[-1]
            raise SystemError_(
                f"Cannot {what} {self.suite}, which needs the network and 1 GB on the disk: {why}"
            )

    def run(
        self, script: str, binds: Mapping[Path, str], extra: Mapping[str, str]
    ) -> subprocess.CompletedProcess[str]:
        return _enter(self.folder, script, binds, variables(extra))


def _enter(
    folder: Path, script: str, binds: Mapping[Path, str], inside: Mapping[str, str]
) -> subprocess.CompletedProcess[str]:
    for file in (Path("/etc/resolv.conf"), CERTIFICATES):
        if file.exists() and (folder / "etc").is_dir():
            (folder / str(file)[1:]).parent.mkdir(parents=True, exist_ok=True)
            (folder / str(file)[1:]).unlink(missing_ok=True)
            shutil.copyfile(file, folder / str(file)[1:])
    unshare = ["unshare", "--mount", "--pid", "--fork", "--kill-child"]
    return subprocess.run(
        [*unshare, f"--mount-proc={folder}/proc", "bash", "-c", ENTER, str(folder), script],
        env={
            "PATH": PATH,
            "INSIDE_PATH": PATH,
            "BINDS": "\n".join(f"{source}:{target}" for source, target in binds.items()),
            "VARIABLES": "\n".join(f"{name}={value}" for name, value in inside.items()),
        },
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
    )


class Emulated:
    """A Debian release for arm64 on another processor, by qemu and proot; needs no root."""

    def __init__(self, suite: str, python: str) -> None:
        self.suite = suite
        self.packages = [f"python{python}", f"python{python}-venv"]

    def prepare(self) -> None:
        for program, package in (("qemu-aarch64-static", "qemu-user-static"), ("proot", "proot")):
            if shutil.which(program) is None and platform.machine() != "aarch64":
                raise SystemError_(f"no {program} here: sudo apt-get install {package}.")
        packages = [*self.packages, "base-files", "bash", "coreutils"]
        self.folder = Release(self.suite, "arm64").fetch(packages, with_dependencies=True)

    def run(
        self, script: str, binds: Mapping[Path, str], extra: Mapping[str, str]
    ) -> subprocess.CompletedProcess[str]:
        bound = [f"{source}:{target}" for source, target in binds.items()]
        bound += ["/dev", "/proc", "/sys", "/etc/resolv.conf", "/etc/hosts"]
        bound += [str(CERTIFICATES)] if CERTIFICATES.exists() else []
        options = [part for bind in bound for part in ("-b", bind)]
        proot = ["proot", "-q", "qemu-aarch64-static", "-r", str(self.folder), "-w", "/"]
        return subprocess.run(
            [*proot, *options, "/bin/bash", "-c", script],
            env={"PATH": PATH, "HOME": "/tmp", "LANG": "C.UTF-8", **variables(extra)},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
        )

"""Makes a virtual environment in which headway can be built, on a machine that may lack the means.

    python3 scripts/bootstrap.py .venv

Runs under the Python that the environment is for. What is missing (a C compiler, Python.h, hiredis,
the venv module) is installed with apt-get, through sudo where not root. apt is not called when
nothing is missing, so a machine without network or without apt works as long as it has them all.
Standard library only.

Exit status: 0 when the environment is there, 3 when the machine lacks something that could not be
installed.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Iterable
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

import find_hiredis
from disk import complaint_about_space

CANNOT = 3
# Editable installs of a pyproject.toml need this pip; the license field of ours needs this
# setuptools.
TOOLS = ("pip>=22", "setuptools>=77")
VERSION = f"{sys.version_info.major}.{sys.version_info.minor}"
COMPILER, HEADERS, HIREDIS, VENV = "compiler", "headers", "hiredis", "venv"


class Lack(NamedTuple):
    """Something that a build needs and this machine does not have."""

    what: str
    package: str = ""
    """The Debian package that brings it; empty where none does."""
    advice: str = ""


def missing() -> dict[str, Lack]:
    """What a build would lack."""
    lacking: dict[str, Lack] = {}
    compiler = os.environ.get("CC", "cc").split()[0]
    if shutil.which(compiler) is None:
        lacking[COMPILER] = Lack(f"a C compiler ({compiler})", "build-essential")
    headers = {sysconfig.get_path("include"), sysconfig.get_path("platinclude")}
    if not any((Path(d) / "Python.h").exists() for d in headers):
        lacking[HEADERS] = of_python(f"the headers of Python {VERSION} (Python.h)", "dev")
    if not find_hiredis.unwanted() and find_hiredis.find() is None:
        lacking[HIREDIS] = Lack(
            "hiredis, the C library for Redis",
            "libhiredis-dev",
            "HEADWAY_WITHOUT_REDIS=1 builds without hiredis",
        )
    if find_spec("venv") is None or find_spec("ensurepip") is None:
        lacking[VENV] = of_python(f"the venv module of Python {VERSION}", "venv")
    return lacking


def of_python(what: str, part: str) -> Lack:
    if comes_from_apt():
        return Lack(what, f"python{VERSION}-{part}")
    return Lack(
        what,
        advice=f"apt did not install the Python at {sys.base_prefix}: install it with its "
        "development files, or name another (make PYTHON=/usr/bin/python3)",
    )


def comes_from_apt() -> bool:
    """Packages named python3.X-dev belong to the distribution's own Python, and to no other."""
    return Path(sys.base_prefix) == Path("/usr")


def complaint(lacking: Iterable[Lack]) -> str:
    """The sentence that says what is missing, and what to do."""
    lacks = list(lacking)
    packages = [lack.package for lack in lacks if lack.package]
    remedies = [lack.advice for lack in lacks if lack.advice]
    if packages:
        remedies.insert(0, f"on Debian and Ubuntu, sudo apt-get install {' '.join(packages)}")
    names = [lack.what for lack in lacks]
    listed = names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
    return f"headway cannot be built without {listed}: {'; '.join(remedies)}."


def apt_install(packages: list[str]) -> None:
    """Tries to install. Reports no success: the caller looks again at what is missing."""
    if shutil.which("apt-get") is None:
        return
    # The list of packages is the one thing that differs between a fresh machine and an old one:
    # where the first try fails, it is fetched and the install is tried once more.
    install = ["apt-get", "install", "-y", "-qq", "--no-install-recommends", *packages]
    update = ["apt-get", "update", "-qq"]
    if os.geteuid() != 0:
        if shutil.which("sudo") is None:
            return
        sudo = ["sudo", "DEBIAN_FRONTEND=noninteractive"]
        install, update = [*sudo, *install], [*sudo, *update]
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    print("installing with apt-get:", *packages, flush=True)
    errors: list[str] = []
    for command in (install, update, install):
        done = subprocess.run(
            command,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
        )
        errors = [line for line in done.stdout.splitlines() if line.startswith("E: ")]
        if command is install and done.returncode == 0:
            return
    said = f" ({errors[0][3:].strip()})" if errors else ""
    print(
        f"apt-get could not install them: this step needs the network and the distribution's "
        f"packages{said}.",
        file=sys.stderr,
    )


def prepare() -> None:
    """Installs what is missing; exits where something stays missing."""
    lacking = missing()
    packages = [lack.package for lack in lacking.values() if lack.package]
    if packages:
        apt_install(packages)
        lacking = missing()
    if lacking:
        print(complaint(lacking.values()), file=sys.stderr)
        sys.exit(CANNOT)


def require_writable(folder: Path) -> None:
    if not os.access(folder, os.W_OK):
        print(
            f"{folder} cannot be written (read-only, or another user's): copy the checkout to a "
            "folder of yours and run the same command there.",
            file=sys.stderr,
        )
        sys.exit(CANNOT)


def make_environment(where: Path) -> None:
    """A virtual environment with the tools of a build; one that is half made is made anew."""
    python = where / "bin" / "python"
    if not runs(python, "import pip"):
        command = [sys.executable, "-m", "venv", "--clear", str(where)]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode != 0:
            full = complaint_about_space(where.parent)
            shutil.rmtree(where, ignore_errors=True)
            said = (done.stderr or done.stdout).strip().splitlines()[-1:]
            print(f"cannot make {where}: {full or ' '.join(said)}", file=sys.stderr)
            sys.exit(CANNOT)
    if not runs(python, TOOLS_CHECK):
        installer = Path(__file__).with_name("install.py")
        if subprocess.run([python, installer, *TOOLS]).returncode != 0:
            sys.exit(CANNOT)


TOOLS_CHECK = """
from importlib.metadata import version
import sys
sys.exit(int(version("pip").split(".")[0]) < 22 or int(version("setuptools").split(".")[0]) < 77)
"""


def runs(python: Path, code: str) -> bool:
    if not python.exists():
        return False
    return subprocess.run([python, "-c", code], capture_output=True).returncode == 0


if __name__ == "__main__":
    environment = Path(sys.argv[1])
    require_writable(environment.resolve().parent)
    prepare()
    make_environment(environment)

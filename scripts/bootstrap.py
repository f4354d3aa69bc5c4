"""Makes a virtual environment in which headway can be built, on a machine that may lack the means.

    python3 scripts/bootstrap.py .venv

Runs under the Python that the environment is for. What is missing (a C compiler, Python.h, hiredis,
the venv module) is installed with apt-get, through sudo where not root. Nothing is asked of apt
when nothing is missing, so a machine without network or without apt works as long as it has them
all. Standard library only.

Exit status: 0 when the environment is there, 3 when the machine lacks something that could not be
installed.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
from importlib.util import find_spec
from pathlib import Path

CANNOT = 3
# Editable installs of a pyproject.toml need this pip; the licence field of ours needs this
# setuptools.
TOOLS = ("pip>=22", "setuptools>=77")
VERSION = f"{sys.version_info.major}.{sys.version_info.minor}"


def missing() -> dict[str, str]:
    """What a build would lack, each with the Debian package that brings it."""
    lacking: dict[str, str] = {}
    compiler = os.environ.get("CC", "cc").split()[0]
    if shutil.which(compiler) is None:
        lacking[f"a C compiler ({compiler})"] = "build-essential"
    headers = {sysconfig.get_path("include"), sysconfig.get_path("platinclude")}
    if not any((Path(d) / "Python.h").exists() for d in headers):
        lacking[f"the headers of Python {VERSION} (Python.h)"] = f"python{VERSION}-dev"
    if os.environ.get("HEADWAY_WITHOUT_REDIS", "") in ("", "0") and not has_hiredis():
        lacking["hiredis, which speaks to Redis"] = "libhiredis-dev"
    if find_spec("venv") is None or find_spec("ensurepip") is None:
        lacking[f"the venv module of Python {VERSION}"] = f"python{VERSION}-venv"
    return lacking


def has_hiredis() -> bool:
    places = ("/usr/include", "/usr/local/include", "/opt/homebrew/include")
    if any((Path(place) / "hiredis" / "hiredis.h").exists() for place in places):
        return True
    tool = shutil.which("pkg-config")
    return tool is not None and subprocess.run([tool, "--exists", "hiredis"]).returncode == 0


def apt_install(packages: list[str]) -> None:
    """Tries to install. Says nothing of success: the caller looks again at what is missing."""
    if shutil.which("apt-get") is None:
        return
    command = ["apt-get", "install", "-y", "--no-install-recommends", *packages]
    update = ["apt-get", "update", "-q"]
    if os.geteuid() != 0:
        if shutil.which("sudo") is None:
            return
        sudo = ["sudo", "DEBIAN_FRONTEND=noninteractive"]
        command, update = [*sudo, *command], [*sudo, *update]
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    print("installing with apt-get:", *packages, flush=True)
    if subprocess.run(command, env=environment, stdout=subprocess.DEVNULL).returncode != 0:
        subprocess.run(update, env=environment, stdout=subprocess.DEVNULL)
        subprocess.run(command, env=environment, stdout=subprocess.DEVNULL)


def comes_from_apt() -> bool:
    """Packages named python3.X-dev belong to the distribution's own Python, and to no other."""
    return Path(sys.base_prefix) == Path("/usr")


def prepare() -> None:
    lacking = missing()
    if lacking:
        wanted = [p for p in lacking.values() if comes_from_apt() or not p.startswith("python")]
        if wanted:
            apt_install(wanted)
        lacking = missing()
    if lacking:
        for what, package in lacking.items():
            print(
                f"missing: {what} (Debian, Ubuntu: sudo apt-get install {package})", file=sys.stderr
            )
        sys.exit(CANNOT)


def make_environment(where: Path) -> None:
    python = where / "bin" / "python"
    if not python.exists() or subprocess.run([python, "-c", "import pip"]).returncode != 0:
        subprocess.run([sys.executable, "-m", "venv", "--clear", where], check=True)
    subprocess.run([python, "-m", "pip", "install", "-qq", *TOOLS], check=True)


if __name__ == "__main__":
    prepare()
    make_environment(Path(sys.argv[1]))

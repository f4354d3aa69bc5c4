"""Installs the programs that tests start, where they are missing and apt can.

    python scripts/servers.py           what `make test` needs
    python scripts/servers.py all       and what only `make test-all` needs

Never fails: what is missing afterwards is named, and the tests that need it are skipped.
"""

from __future__ import annotations

import shutil
import sys

from bootstrap import apt_install

# program -> Debian package
PROGRAMS = {"redis-server": "redis-server", "openssl": "openssl"}
FURTHER_PROGRAMS = {
    "zsh": "zsh",
    "fish": "fish",
    "wrk": "wrk",
    "chromium": "chromium",
    "chromedriver": "chromium-driver",
}


def missing(programs: dict[str, str]) -> list[str]:
    return [package for program, package in programs.items() if shutil.which(program) is None]


def install(programs: dict[str, str]) -> None:
    packages = missing(programs)
    if packages:
        apt_install(packages)
        for package in missing(programs):
            print(f"missing: {package}; the tests that need it are skipped", file=sys.stderr)


if __name__ == "__main__":
    install(PROGRAMS if sys.argv[1:] != ["all"] else PROGRAMS | FURTHER_PROGRAMS)

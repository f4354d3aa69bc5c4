"""Installs the programs that the tests start as servers, where they are missing and apt can.

    python scripts/servers.py

Never fails: what is missing afterwards is named, and the tests that need it are skipped.
"""

from __future__ import annotations

import shutil
import sys

from bootstrap import apt_install

PROGRAMS = {
    "redis-server": "redis-server",
    "openssl": "openssl",
    "zsh": "zsh",
    "fish": "fish",
    "wrk": "wrk",
    "chromium": "chromium",
    "chromedriver": "chromium-driver",
}


def missing() -> list[str]:
    return [package for program, package in PROGRAMS.items() if shutil.which(program) is None]


if __name__ == "__main__":
    packages = missing()
    if packages:
        apt_install(packages)
        for package in missing():
            print(f"missing: {package}; the tests that need it are skipped", file=sys.stderr)

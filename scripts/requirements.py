"""Prints what the named extras of the installed headway need, one requirement a line.

    .venv/bin/python scripts/requirements.py test | .venv/bin/pip install -r /dev/stdin

pip can install an extra only together with its package, which would compile the C core again.
"""

from __future__ import annotations

import re
import sys
from importlib.metadata import requires


def of_extra(name: str) -> list[str]:
    """Requirements of one extra; an extra that names others of headway's is followed."""
    found: list[str] = []
    for line in requires("headway") or ():
        requirement, _, marker = line.partition(";")
        if not re.search(rf"""extra\s*==\s*["']{re.escape(name)}["']""", marker):
            continue
        own = re.fullmatch(r"headway\[(.+)\]", requirement.strip())
        if own:
            for other in own[1].split(","):
                found += of_extra(other.strip())
        else:
            found.append(requirement.strip())
    if not found:
        sys.exit(f"headway has no extra named {name!r}: see pyproject.toml")
    return found


if __name__ == "__main__":
    for extra in sys.argv[1:]:
        print(*of_extra(extra), sep="\n")

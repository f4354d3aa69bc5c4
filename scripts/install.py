"""Installs Python packages into the environment that runs it; says in one sentence what went wrong.

    .venv/bin/python scripts/install.py --extra test        what an extra of pyproject.toml needs
    .venv/bin/python scripts/install.py --self              headway itself, editable
    .venv/bin/python scripts/install.py "rich>=13" …        requirements as pip takes them
    .venv/bin/python scripts/install.py --each "rich>=13" … those that can be had as wheels

pip's own report of a missing network is several screens long and ends in a traceback of whatever
called it. Here its output is kept, and shown only where the reason is none of the known ones.
"""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from requirements import of_extra

ROOT = Path(__file__).resolve().parent.parent
# choked requires tokenizers of several hundred MB, which no test needs.
WITHOUT_DEPENDENCIES = {"test": ["choked==0.2.5"]}
NOT_INSTALLED = "no wheel of "
REASONS = (
    (
        r"No space left on device",
        "the disk is full: free some space and run the same command again",
    ),
    (
        r"Read-only file system|Permission denied",
        "this folder cannot be written: copy the checkout to a folder of yours",
    ),
    (
        r"NewConnectionError|NameResolutionError|ConnectTimeoutError|ReadTimeoutError|ProxyError|"
        r"Connection refused|Network is unreachable|Temporary failure in name resolution|"
        r"\(from versions: none\)",
        "pip cannot reach the package index: this step needs the network (or PIP_INDEX_URL, or "
        "PIP_FIND_LINKS with the packages in a folder)",
    ),
    (
        r"SSLCertVerificationError|CERTIFICATE_VERIFY_FAILED",
        "pip does not trust the package index's certificate: name yours in PIP_CERT",
    ),
)


def pip(*arguments: str | Path) -> None:
    """Runs pip; exits with one sentence where it fails."""
    done = _try(*arguments)
    if done.returncode != 0:
        wanted = " ".join(str(a) for a in arguments if not str(a).startswith("-"))
        sys.exit(complaint(wanted, done.stdout))


def _try(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "pip", "install", "-q", "--no-compile", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        cwd=ROOT,
    )


def complaint(wanted: str, output: str) -> str:
    """The sentence for what pip printed; pip's own words where the reason is not known."""
    for pattern, sentence in REASONS:
        if re.search(pattern, output):
            return f"Could not install {shortened(wanted)}: {sentence}."
    errors = re.findall(r"^\s*error: (headway .*|.*hiredis.*)$", output, re.MULTILINE)
    if errors:
        return str(errors[-1])
    return f"{output.rstrip()}\nCould not install {shortened(wanted)}; pip's words are above."


def each(requirements: Sequence[str]) -> None:
    """Installs what there are wheels of, and names the rest: a new Python has not all of them."""
    binary = "--only-binary=:all:"
    if _try(binary, *requirements).returncode == 0:
        return
    for requirement in requirements:
        if _try(binary, requirement).returncode != 0:
            print(f"{NOT_INSTALLED}{requirement}")


def shortened(wanted: str, width: int = 60) -> str:
    return wanted if len(wanted) <= width else f"{wanted[:width].rsplit(' ', 1)[0]} ..."


def main(arguments: Sequence[str]) -> None:
    match arguments:
        case ["--extra", *names] if names:
            for name in names:
                pip(*of_extra(name))
                for requirement in WITHOUT_DEPENDENCIES.get(name, ()):
                    pip("--no-deps", requirement)
        case ["--self"]:
            pip("--no-build-isolation", "--no-deps", "-e", ".")
        case ["--each", *requirements]:
            each(requirements)
        case [] | ["--extra"]:
            sys.exit(__doc__)
        case requirements:
            pip(*requirements)


if __name__ == "__main__":
    main(sys.argv[1:])

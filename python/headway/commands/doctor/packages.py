"""The doctor's findings of the extras: what `pip install "headway[NAME]"` would bring.

The installed package's own metadata is asked, so that no second list of extras can grow old.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from importlib import metadata

from headway.commands.doctor.finding import OK, WARNING, Finding

__all__ = ["extras_of", "findings"]

ROOM = "extras"
_OF_DEVELOPERS = frozenset({"all", "bench", "lint", "test", "test-fast"})
_REQUIREMENT = re.compile(
    r"""(?P<name>[A-Za-z0-9][\w.-]*) \s* (?P<extras>\[[^]]*\])? \s* (?P<versions>[^;]*)
        ; .* \bextra \s* == \s* ['"](?P<extra>[^'"]+)['"]""",
    re.VERBOSE,
)


def findings() -> Iterator[Finding]:
    """One for each extra."""
    try:
        requirements = metadata.requires("headway") or []
    except metadata.PackageNotFoundError:
        yield Finding(
            ROOM,
            "metadata",
            "headway is imported, but not installed",
            WARNING,
            "Install it (pip install headway), so that its extras are known.",
        )
        return
    for extra, needed in extras_of(requirements).items():
        yield _finding(extra, needed)


def extras_of(requirements: Sequence[str]) -> Mapping[str, Mapping[str, str]]:
    """extra -> package -> the versions that would do, as ">=1.2,<3"."""
    found: dict[str, dict[str, str]] = {}
    for text in requirements:
        match = _REQUIREMENT.match(text)
        if match is None or match["extra"] in _OF_DEVELOPERS or match["name"] == "headway":
            continue
        needed = found.setdefault(match["extra"], {})
        needed[match["name"]] = match["versions"].strip(" ()")
    return found


def _finding(extra: str, needed: Mapping[str, str]) -> Finding:
    there, lacking, old = [], [], []
    for name, versions in needed.items():
        try:
            version = metadata.version(name)
        except metadata.PackageNotFoundError:
            lacking.append(name)
            continue
        there.append(f"{name} {version}")
        if _is_older(version, versions):
            old.append(f"{name} {version} (needs {versions})")
    install = f'pip install "headway[{extra}]"'
    if old:
        return Finding(ROOM, extra, f"too old: {', '.join(old)}", WARNING, f"Run: {install}")
    if lacking:
        value = f"not installed: {', '.join(lacking)}"
        return Finding(ROOM, extra, value, OK, f"To use it, run: {install}")
    return Finding(ROOM, extra, ", ".join(there))


def _is_older(version: str, wanted: str) -> bool:
    least = re.search(r">=\s*([0-9][0-9.]*)", wanted)
    return least is not None and _numbers(version) < _numbers(least[1])


def _numbers(version: str) -> tuple[int, ...]:
    """The leading numbers of a version, without zeros at the end: 2.0 is no newer than 2."""
    numbers = [int(part) for part in re.findall(r"[0-9]+", version.partition("+")[0])][:4]
    while numbers and numbers[-1] == 0:
        numbers.pop()
    return tuple(numbers)

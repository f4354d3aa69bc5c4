"""What `make release-check` refuses."""

from __future__ import annotations

import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

import release_check  # noqa: E402
import wheels_check  # noqa: E402


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """The two files that the checks read, as they are when a release is made."""
    for name in ("pyproject.toml", "CHANGELOG.md"):
        text = (ROOT / name).read_text(encoding="utf-8")
        (tmp_path / name).write_text(text.replace("(not yet released)", "(2026-01-31)", 1))
    return tmp_path


def change(file: Path, old: str, new: str) -> None:
    text = file.read_text(encoding="utf-8")
    assert old in text
    file.write_text(text.replace(old, new, 1), encoding="utf-8")


def test_what_is_ready_has_no_fault(project: Path) -> None:
    assert not list(release_check.version_faults(project))
    assert not list(release_check.classifier_faults(project))


BROKEN: list[tuple[str, str, str, Callable[[Path], Iterator[str]], str]] = [
    (
        "CHANGELOG.md",
        " (2026-01-31)",
        " (not yet released)",
        release_check.version_faults,
        "has no date",
    ),
    (
        "pyproject.toml",
        'version = "',
        'version = "9.',
        release_check.version_faults,
        "the newest heading of CHANGELOG.md is",
    ),
    (
        "pyproject.toml",
        '    "Programming Language :: Python :: 3.12",\n',
        "",
        release_check.classifier_faults,
        "lacks the classifier of Python 3.12",
    ),
    (
        "pyproject.toml",
        "Python :: 3.10",
        "Python :: 3.9",
        release_check.classifier_faults,
        "has the classifier of Python 3.9",
    ),
    (
        "pyproject.toml",
        'requires-python = ">=3.10"',
        'requires-python = ">=3.8"',
        release_check.classifier_faults,
        "requires-python is not >=3.10",
    ),
]


@pytest.mark.parametrize(("file", "old", "new", "check", "fault"), BROKEN)
def test_one_thing_that_is_wrong_is_named(
    project: Path,
    file: str,
    old: str,
    new: str,
    check: Callable[[Path], Iterator[str]],
    fault: str,
) -> None:
    change(project / file, old, new)
    assert fault in "\n".join(check(project))


def test_a_wheel_that_is_not_as_users_need_it(tmp_path: Path) -> None:
    wheel = tmp_path / "headway-0.1.0-cp311-cp311-linux_x86_64.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr("headway/a.py", f"BUILT_IN = '{ROOT}/build'")
        archive.writestr("headway/large", bytes(wheels_check.MOST_BYTES))
    faults = "\n".join(wheels_check.faults_of(wheel))
    assert "more than 1,500,000" in faults
    assert "not tagged manylinux_2_17" in faults
    assert "0 compiled modules, expected 1" in faults
    assert f"headway/a.py has a path of this machine: {ROOT}/build" in faults

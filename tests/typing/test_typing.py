"""Type checkers accept package, stubs and typed examples, and the stubs tell the truth."""

from __future__ import annotations

import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
USAGE = Path(__file__).parent / "usage.py"
DEADLINE_S = 600

pytestmark = pytest.mark.timeout(DEADLINE_S + 60)


def needs(module: str) -> pytest.MarkDecorator:
    """Skip where a tool is not installed."""
    return pytest.mark.skipif(find_spec(module) is None, reason=f"{module} is not installed")


def check(*command: str) -> None:
    """Run a tool in the root of the repository; what it complains about is the failure."""
    done = subprocess.run(
        [sys.executable, "-m", *command],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=DEADLINE_S,
        check=False,
    )
    if done.returncode != 0:
        pytest.fail(f"{command[0]} ended with {done.returncode}:\n{done.stdout}{done.stderr}")


@needs("mypy")
def test_mypy_strict_accepts_the_examples(tmp_path: Path) -> None:
    check("mypy", "--strict", "--cache-dir", str(tmp_path), str(USAGE))


@pytest.mark.slow
@needs("mypy")
def test_mypy_strict_accepts_the_package(tmp_path: Path) -> None:
    check("mypy", "--strict", "--cache-dir", str(tmp_path), "python")


@pytest.mark.slow
@needs("pyright")
def test_pyright_accepts_the_package_and_the_examples() -> None:
    # The package from the index brings a Node of its own, which not every machine can install.
    try:
        starts = subprocess.run(
            [sys.executable, "-m", "pyright", "--version"],
            capture_output=True,
            timeout=DEADLINE_S,
            check=False,
        )
    except subprocess.TimeoutExpired:
        pytest.skip("pyright does not start here")
    if starts.returncode != 0:
        pytest.skip("pyright does not start here")
    check("pyright", "--pythonpath", sys.executable)


@needs("mypy")
def test_the_stub_of_the_compiled_module_matches_it(tmp_path: Path) -> None:
    # The stub is read as Python 3.10 does; what a newer one adds to every named tuple is not in it.
    newer = tmp_path / "newer.txt"
    newer.write_text("headway._core.ObservedDimension.__replace__\n")
    # Whether a type may share a subclass with another is left out: older checkers cannot read it.
    options = ["--mypy-config-file", "pyproject.toml", "--ignore-disjoint-bases"]
    options += ["--allowlist", str(newer), "--ignore-unused-allowlist"]
    check("mypy.stubtest", "headway._core", *options)

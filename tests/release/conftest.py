"""The scripts that make wheels, importable; a copy of the checkout; and the sdist of that copy."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from release_checkout import CACHES, Sdist, listing

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "scripts"))

import wheels  # noqa: E402


@pytest.fixture(scope="session")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """No git repository, as an unpacked archive is none. Tests only read it."""
    folder = tmp_path_factory.mktemp("release") / "a folder with spaces, ä"
    wheels.copy_of_checkout(folder)
    for name in CACHES:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("left behind")
    return folder


@pytest.fixture(scope="session")
def sdist(checkout: Path, tmp_path_factory: pytest.TempPathFactory) -> Sdist:
    before = listing(checkout)
    out = tmp_path_factory.mktemp("sdist")
    command = [sys.executable, "scripts/wheels.py", "--sdist", str(out)]
    done = subprocess.run(command, cwd=checkout, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return Sdist(next(out.iterdir()), before, listing(checkout))

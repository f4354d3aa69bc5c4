"""The scripts that make wheels, importable, and a copy of the checkout to break."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "scripts"))

import wheels  # noqa: E402


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A copy that is no git repository, as an unpacked archive is none."""
    return wheels.copy_of_checkout(tmp_path / "a folder with spaces, ä")

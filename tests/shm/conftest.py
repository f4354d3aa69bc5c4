"""Shared memory under a name of its own for each test, removed when the test is over."""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator

import pytest

from headway._shm_store import path_of


@pytest.fixture
def name() -> Iterator[str]:
    """A name that nobody else uses."""
    made = f"test-{os.getpid()}-{secrets.token_hex(4)}"
    yield made
    path_of(made).unlink(missing_ok=True)

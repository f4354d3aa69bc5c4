"""One service that the tests of a worker share, and keys that no other test uses."""

from __future__ import annotations

import itertools
import os
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).parents[1] / "redis"))

from certificates import Certificates
from servers import RedisServer
from service_help import ALICE, BOB, OPS, ServiceProcess

pytest.importorskip("uvicorn")
pytest.importorskip("httptools")

_numbers = itertools.count()


@pytest.fixture(scope="session")
def service() -> Iterator[ServiceProcess]:
    """A service with the tenants alice and bob and the admin ops. Do it no harm."""
    with ServiceProcess(tokens=[f"alice:{ALICE}", f"bob:{BOB}", f"ops:{OPS}:admin"]) as running:
        yield running


@pytest.fixture
def key() -> str:
    """A key of the test's own."""
    return f"key-{os.getpid()}-{next(_numbers)}"


@pytest.fixture
def redis_server() -> Iterator[RedisServer]:
    """A Redis server that the test may kill."""
    if shutil.which("redis-server") is None:
        pytest.skip("redis-server is not installed")
    with RedisServer() as server:
        yield server


@pytest.fixture(scope="session")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    if shutil.which("openssl") is None:
        pytest.skip("the openssl command is not installed")
    return Certificates(tmp_path_factory.mktemp("certificates"))

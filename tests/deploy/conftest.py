"""What the tests of real deployments share: a Redis server, and each place where state may live."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).parents[1] / "redis"))

from deploy_places import KINDS, Place, place_of
from servers import RedisServer


@pytest.fixture(scope="session")
def deploy_redis() -> Iterator[RedisServer]:
    """A Redis server on a port of its own. Tests use keys of their own."""
    if shutil.which("redis-server") is None:
        pytest.skip("redis-server is not installed")
    with RedisServer() as server:
        yield server


@pytest.fixture
def new_place(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Callable[[str], Place]]:
    """Makes an empty place of a kind: `new_place("redis")`. It is removed afterwards."""
    made: list[Place] = []

    def make(kind: str) -> Place:
        server: RedisServer | None = None
        if kind == "redis":
            server = request.getfixturevalue("deploy_redis")
            server.command("FLUSHALL")
        place = place_of(kind, tmp_path, server)
        made.append(place)
        return place

    yield make
    for place in made:
        place.remove()


@pytest.fixture(params=KINDS)
def place(request: pytest.FixtureRequest, new_place: Callable[[str], Place]) -> Place:
    """Each place in turn."""
    return new_place(request.param)


@pytest.fixture(params=[kind for kind in KINDS if kind != "memory"])
def shared_place(request: pytest.FixtureRequest, new_place: Callable[[str], Place]) -> Place:
    """Each place that processes share."""
    return new_place(request.param)

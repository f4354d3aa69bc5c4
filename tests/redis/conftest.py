"""Real servers for tests of the Redis client, each on ports of its own.

`server` is shared by the tests of a worker and empty at the start of each: for tests that do it no
harm. Whoever kills, pauses or configures asks `start_server` for one of its own. Everything here is
skipped where redis-server is not installed, and comes in two variants where valkey-server is too.

This directory must not become a package (no `__init__.py`): it would be found under the name of
redis-py.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from pathlib import Path

import pytest
from certificates import Certificates
from proxy import Proxy
from servers import RedisServer, has_tls
from topologies import Cluster, Sentinels, Topology
from wire import RedisError

MISSING = pytest.mark.skipif(
    shutil.which("redis-server") is None, reason="redis-server is not installed"
)
BINARIES = [
    pytest.param("redis-server", marks=MISSING),
    *(["valkey-server"] if shutil.which("valkey-server") else []),
]


@pytest.fixture(scope="session", params=BINARIES)
def redis_binary(request: pytest.FixtureRequest) -> str:
    """The program of the servers."""
    return str(request.param)


@pytest.fixture(scope="session")
def shared_server(redis_binary: str) -> Iterator[RedisServer]:
    with RedisServer(redis_binary) as server:
        yield server


@pytest.fixture
def server(shared_server: RedisServer) -> RedisServer:
    """A plain server, with no keys and no scripts. Do not break it: others use it next."""
    with suppress(OSError, RedisError), shared_server.connect(timeout=5.0) as wire:
        wire.command("FLUSHALL")
        wire.command("SCRIPT", "FLUSH")
        return shared_server
    shared_server.kill()  # somebody did break it
    return shared_server.start(fresh=True)


@pytest.fixture
def start_server(redis_binary: str) -> Iterator[Callable[..., RedisServer]]:
    """Starts a server of one's own: `start_server(options={"maxmemory": "2mb"})`."""
    with ExitStack() as stack:

        def start(**how: object) -> RedisServer:
            new = RedisServer(redis_binary, **how)  # type: ignore[arg-type]
            stack.callback(_show, new)
            return stack.enter_context(new)

        yield start


@pytest.fixture(scope="session")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    """Certificates for both sides, and some that do not fit."""
    if shutil.which("openssl") is None:
        pytest.skip("the openssl command is not installed")
    directory: Path = tmp_path_factory.mktemp("certificates")
    return Certificates(directory)


@pytest.fixture
def tls_server(
    redis_binary: str, certificates: Certificates, start_server: Callable[..., RedisServer]
) -> RedisServer:
    """A server that speaks TLS only, and only with those who show a certificate."""
    if not has_tls(redis_binary):
        pytest.skip(f"this {redis_binary} was built without TLS")
    return start_server(tls=certificates)


@pytest.fixture
def acl_server(start_server: Callable[..., RedisServer]) -> RedisServer:
    """A server with a password for the default user, and two more: `limited` may use keys that
    begin with `hw:`, `reader` may only read.
    """
    return start_server(
        password="s3cret/:@%",
        users={"limited": ("pa ss", "~hw:* &* +@all"), "reader": ("look", "~* &* +@read")},
    )


@pytest.fixture
def sentinels(redis_binary: str) -> Iterator[Sentinels]:
    """A primary, two replicas and three sentinels."""
    with Sentinels(redis_binary) as topology:
        yield topology
        _show_all(topology)


@pytest.fixture
def cluster(redis_binary: str) -> Iterator[Cluster]:
    """Three primaries with a replica each."""
    with Cluster(redis_binary) as topology:
        yield topology
        _show_all(topology)


@pytest.fixture
def proxy(server: RedisServer) -> Iterator[Proxy]:
    """A proxy in front of the shared server."""
    with Proxy(server) as proxy:
        yield proxy


def _show(server: RedisServer) -> None:
    """Prints the end of its log, which pytest shows for tests that fail."""
    print(f"{server!r}:\n{server.log[-4000:]}")


def _show_all(topology: Topology) -> None:
    print(topology.logs())

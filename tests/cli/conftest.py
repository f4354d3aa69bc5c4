"""The program as a user runs it: `program` in a process of its own, `here` in this one, which is
quicker. Servers are real.
"""

from __future__ import annotations

import http.server
import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).parents[1] / "redis"))

from cli_outcome import Outcome
from cli_service import STATE, Stub
from servers import RedisServer

from headway.cli import main

VARIABLES = ("REDIS_URL", "HEADWAY_TOKEN", "CHOKED_API_TOKEN", "CHOKED_API_URL", "NO_COLOR")


@pytest.fixture(autouse=True)
def _no_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the tester's own shell has set is not ours."""
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def program(tmp_path: Path) -> Callable[..., Outcome]:
    """Runs `headway` to its end, in an empty folder."""

    def run(*words: str, **variables: str) -> Outcome:
        done = subprocess.run(
            [sys.executable, "-m", "headway", *words],
            cwd=tmp_path,
            env={**os.environ, **variables},
            capture_output=True,
            encoding="utf-8",
            timeout=60,
            check=False,
        )
        return Outcome(done.returncode, done.stdout, done.stderr)

    return run


@pytest.fixture
def here(capsys: pytest.CaptureFixture[str]) -> Callable[..., Outcome]:
    """Runs `headway` in this process."""

    def run(*words: str) -> Outcome:
        capsys.readouterr()
        try:
            code = main(words)
        except SystemExit as ended:
            code = ended.code if isinstance(ended.code, int) else -1
        captured = capsys.readouterr()
        return Outcome(code, captured.out, captured.err)

    return run


@pytest.fixture(scope="session")
def redis_of_all() -> Iterator[RedisServer]:
    import shutil

    if shutil.which("redis-server") is None:
        pytest.skip("redis-server is not installed")
    with RedisServer(password="s3cret") as server:
        yield server


@pytest.fixture
def redis_server(redis_of_all: RedisServer) -> RedisServer:
    """A server with a password, and empty."""
    redis_of_all.command("FLUSHALL")
    return redis_of_all


@pytest.fixture
def start_redis() -> Iterator[Callable[..., RedisServer]]:
    """Starts a server of one's own."""
    import shutil
    from contextlib import ExitStack

    if shutil.which("redis-server") is None:
        pytest.skip("redis-server is not installed")
    with ExitStack() as stack:
        yield lambda **how: stack.enter_context(RedisServer(**how))


@pytest.fixture
def stub() -> Iterator[tuple[str, type[Stub]]]:
    """A service's URL, and its handler, on which a test sets `answer` and reads `asked`."""
    handler = type(
        "Handler", (Stub,), {"asked": [], "answer": (200, {}, json.dumps(STATE).encode())}
    )
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}", handler
        finally:
            server.shutdown()
            thread.join()

"""No secret comes out: marked ones are planted in every input, and every output is read.

Inputs: URLs of stores with what can be mistyped in them, options, environment variables, headers,
keys, proxies, what a server answers. Outputs: logs at DEBUG, exceptions with all their causes, repr
and str, metrics, the command line. What a Redis user with a password is called is no secret.
"""

from __future__ import annotations

import http.server
import io
import logging
import os
import subprocess
import sys
import threading
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from headway import Throttled
from headway.contrib import Policy, Rule, api_key
from headway.contrib.wsgi import EnvironFacts
from headway.limiters import SyncSemaphore
from headway.smartratelimit import RateLimiter
from headway.smartratelimit.metrics import MetricsCollector
from headway.smartratelimit.storage import open_storage
from headway.store import RedisStore, from_any

SECRET = "pl4nted0secret"
PLANTED = [
    f"redis://user:{SECRET}@127.0.0.1:1/0",
    f"redis://{SECRET}@127.0.0.1:1/0",
    f"redis://:{SECRET}@127.0.0.1:99999/0",
    f"redis://:{SECRET}@[::1/0",
    f"redis://127.0.0.1:1/0?password={SECRET}",
    f"redis://127.0.0.1:1/0?passwrd={SECRET}",
    f"redis://127.0.0.1:1/0?timeout=1&pw={SECRET}",
    f"rediss://:{SECRET}@127.0.0.1:1/0?ssl_ca_certs=/nowhere&ssl_password={SECRET}",
    f"redis+sentinel://:{SECRET}@127.0.0.1:1/main?sentinel_password={SECRET}",
    f"redis+cluster://:{SECRET}@127.0.0.1:1",
    f"unix://:{SECRET}@/nowhere/redis.sock",
    f"redis://:{SECRET}@127.0.0.1:1/no-database",
    f"redis://user:{SECRET}@/b@127.0.0.1:1/0",
    f"redis://127.0.0.1:1/0#{SECRET}",
    f"redis:/:{SECRET}@127.0.0.1:1/0",
    f"Redis://:{SECRET}@127.0.0.1:1/0",
    f" redis://:{SECRET}@127.0.0.1:1/0",
    f"://:{SECRET}@127.0.0.1",
    f"http://:{SECRET}@127.0.0.1/",
]


def told(error: BaseException) -> str:
    """All that an error says, and its causes; not the lines of source, which are these."""
    lines = "".join(traceback.format_exception(error)).splitlines()
    return "\n".join([line for line in lines if not line.startswith("    ")] + [repr(error)])


@pytest.fixture
def said() -> Iterator[io.StringIO]:
    """Everything that headway logs, and what a test adds."""
    text = io.StringIO()
    handler = logging.StreamHandler(text)
    logger = logging.getLogger("headway")
    before = logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.DEBUG)
    yield text
    logger.removeHandler(handler)
    logger.setLevel(before)


USES: dict[str, Callable[[str], Any]] = {
    "RedisStore": RedisStore,
    "from_any": from_any,
    "a decision": lambda url: Throttled("key", store=url).limit(),
    "a semaphore": lambda url: SyncSemaphore("name", 1, 0.1, 1, url).__enter__(),
    "a storage": open_storage,
}


@pytest.mark.parametrize("use", USES)
@pytest.mark.parametrize("url", PLANTED, ids=range(len(PLANTED)))
def test_no_store_tells_what_its_url_holds(url: str, use: str, said: io.StringIO) -> None:
    try:
        made = USES[use](url)
    except Exception as error:
        print(told(error), file=said)
    else:
        print(repr(made), str(made), repr(getattr(made, "options", None)), file=said)
    assert SECRET not in said.getvalue()


@pytest.mark.parametrize(
    "options",
    [
        {"PASSWORD": SECRET},
        {"SENTINEL_KWARGS": {"password": SECRET}},
        {"CONNECTION_POOL_KWARGS": {"password": SECRET}},
    ],
)
def test_no_store_tells_what_its_options_hold(options: Any, said: io.StringIO) -> None:
    for url in ("redis://127.0.0.1:1/0", "redis+sentinel://127.0.0.1:1/main"):
        try:
            store = RedisStore(url, options)
            print(repr(store), str(store), file=said)
            Throttled("key", store=store).limit()
        except Exception as error:
            print(told(error), file=said)
    assert "cannot answer" in said.getvalue()
    assert SECRET not in said.getvalue()


COMMANDS = [["doctor"], ["peek", "k"], ["reset", "k"], ["top", "--once"]]


@pytest.mark.parametrize("command", COMMANDS, ids=[words[0] for words in COMMANDS])
@pytest.mark.parametrize("url", [PLANTED[0], PLANTED[1], PLANTED[5], PLANTED[8]])
def test_no_command_tells_what_a_url_holds(command: list[str], url: str, tmp_path: Path) -> None:
    variables = {"REDIS_URL": url, "CHOKED_API_TOKEN": SECRET, "HEADWAY_TOKEN": SECRET}
    words = command if command == ["doctor"] else [*command, "--store", url]
    done = subprocess.run(
        [sys.executable, "-m", "headway", *words],
        env=os.environ | variables,
        cwd=tmp_path,
        capture_output=True,
        encoding="utf-8",
        timeout=60,
        check=False,
    )
    assert done.stdout + done.stderr != ""
    assert SECRET not in done.stdout + done.stderr


def test_an_api_key_is_a_hash_wherever_it_comes_out(said: io.StringIO) -> None:
    functions = [api_key(), api_key("authorization"), api_key(query="token")]
    rules = [Rule("1/m", key=one, name=f"rule{n}") for n, one in enumerate(functions)]
    facts = EnvironFacts(
        {
            "REQUEST_METHOD": "GET",
            "PATH_INFO": "/",
            "REMOTE_ADDR": "192.0.2.1",
            "HTTP_X_API_KEY": SECRET,
            "HTTP_AUTHORIZATION": f"Bearer {SECRET}",
            "QUERY_STRING": f"token={SECRET}",
        }
    )
    for rule in rules:
        policy = Policy([rule])
        for _ in range(2):
            verdict = policy.decide(facts)
            print(verdict, verdict.outcomes, verdict.denied, policy.counts(), rule, file=said)
        assert verdict.status == 429
    assert "denies a request" in said.getvalue()
    assert SECRET not in said.getvalue()


class _Answers(http.server.BaseHTTPRequestHandler):
    """A server that says secrets where numbers belong."""

    def do_GET(self) -> None:
        self.send_response(200)
        for name in ("X-RateLimit-Limit", "X-RateLimit-Reset", "Retry-After"):
            self.send_header(name, SECRET)
        self.send_header("X-RateLimit-Remaining", "0")
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, format: str, *args: Any) -> None:
        pass


@pytest.fixture
def port() -> Iterator[int]:
    with http.server.HTTPServer(("127.0.0.1", 0), _Answers) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield server.server_port
        server.shutdown()
        thread.join()


@pytest.mark.parametrize("storage", ["memory", "sqlite"])
def test_a_client_keeps_its_urls_headers_and_partitions_to_itself(
    storage: str, port: int, said: io.StringIO, tmp_path: Path
) -> None:
    pytest.importorskip("requests")
    metrics = MetricsCollector()
    limiter = RateLimiter(
        storage="memory" if storage == "memory" else f"sqlite:///{tmp_path}/limits.db",
        metrics=metrics,
        max_wait=0.05,
        partition=lambda url, headers: headers.get("Authorization"),
    )
    url = f"http://user:{SECRET}@127.0.0.1:{port}/path?api_key={SECRET}"
    limiter.set_limit(f"http://127.0.0.1:{port}", 1)
    headers = {"Authorization": f"Bearer {SECRET}"}
    refused = 0
    for _ in range(3):
        try:
            limiter.request("GET", url, headers=headers, cost={"tokens": 4})
        except Exception as error:
            refused += 1
            print(told(error), file=said)
    assert refused == 2
    print(repr(limiter), limiter.get_status(url), file=said)
    print(metrics.export_prometheus(), metrics.export_json(), limiter._storage.keys(), file=said)
    for wrong in (f"http://u:{SECRET}@[::1/", f"u:{SECRET}@", f"http://h h/?key={SECRET}"):
        for use in (limiter.get_status, lambda bad: limiter.set_limit(bad, 5)):
            try:
                use(wrong)
            except Exception as error:
                print(told(error), file=said)
    limiter.close()
    assert SECRET not in said.getvalue()
    for file in tmp_path.iterdir():
        assert SECRET.encode() not in file.read_bytes()
        assert file.stat().st_mode & 0o077 == 0, file

"""Every Python block of smartratelimit.md runs verbatim, alone, on the drop-in.

The HTTP libraries are the real ones, and one local server plays all hosts. Redis is a server of the
test. The shell block's commands run as well.
"""

from __future__ import annotations

import importlib.util
import json
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from document_blocks import DATA, Block, blocks_of
from servers import RedisServer

for needed in ("requests", "httpx", "aiohttp"):
    if importlib.util.find_spec(needed) is None:
        pytest.skip(f"{needed} is not installed", allow_module_level=True)

RUN = Path(__file__).with_name("run_smartratelimit_block.py")
BLOCKS = blocks_of("smartratelimit")
DROPIN = ["-m", "headway.dropin", "smartratelimit", "--", "-m", "smartratelimit"]
LIMITER = "from smartratelimit import RateLimiter\n"
EXCEEDED = "from smartratelimit import RateLimitExceeded\n"
BEFORE = {
    "users": "users = ['a', 'b', 'c']\n",
    "urls": "urls = ['https://a.example/1', 'https://b.example/2']\n",
    "items": "items = [{'n': 1}, {'n': 2}]\n",
    "RateLimiter": LIMITER,
    "RateLimitExceeded": EXCEEDED,
    "limiter": f"{LIMITER}limiter = RateLimiter()\n",
}
"""What blocks take for granted."""
PRINTS = {
    "basic-usage": "octocat",
    "check-rate-limit-status": (
        r"Remaining: 4999/5000\nResets in: [\d.]+ seconds\nUtilization: 0\.0%"
    ),
    "async-support-with-httpx": "/users",
    "async-support-with-aiohttp": "/users",
    "metrics-collection": r'ratelimit_total_requests\{endpoint="api\.github\.com"\} 1(\.0)?\n',
}
AFTER = {"api-integration-in-fastapi": "assert notify_user('7') == {'status': 'sent'}\n"}


class _Api(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        self.rfile.read(int(self.headers.get("Content-Length", 0)))
        body = json.dumps({"path": self.path}).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("X-RateLimit-Limit", "5000")
        self.send_header("X-RateLimit-Remaining", "4999")
        self.send_header("X-RateLimit-Reset", "3600")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    do_POST = do_GET

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture(scope="module")
def port() -> Iterator[int]:
    with ThreadingHTTPServer(("127.0.0.1", 0), _Api) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server.server_port
        server.shutdown()
        thread.join()


@pytest.mark.parametrize("block", BLOCKS, ids=lambda block: block.name)
def test_a_block_runs_verbatim(
    block: Block, port: int, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    code, title = block.code, block.name.partition("/")[2]
    if "localhost:6379" in code:
        server: RedisServer = request.getfixturevalue("own_server")
        code = code.replace("localhost:6379", f"127.0.0.1:{server.port}")
    before = "".join(
        text
        for name, text in BEFORE.items()
        if re.search(rf"\b{name}\b", code)
        and not re.search(rf"(import.*|^){name}\b( =|,|$)", code, re.M)
    )
    file = tmp_path / "block.py"
    file.write_text(code, encoding="utf-8")
    done = subprocess.run(
        [sys.executable, str(RUN), str(file), str(port), before, AFTER.get(title, "")],
        cwd=tmp_path,
        capture_output=True,
        encoding="utf-8",
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    assert re.search(PRINTS.get(title, ""), done.stdout)
    if "sqlite" in code:
        assert (tmp_path / "rate_limits.db").exists()


def test_every_expectation_belongs_to_a_block() -> None:
    assert PRINTS.keys() | AFTER.keys() <= {block.name.partition("/")[2] for block in BLOCKS}


def test_the_commands_of_the_document_are_understood(tmp_path: Path) -> None:
    text = (DATA / "smartratelimit.md").read_text(encoding="utf-8")
    commands = re.findall(r"^smartratelimit (.+)$", text, re.MULTILINE)
    assert len(commands) >= 4
    for words in commands:
        if "probe" in words:  # that one needs the host
            continue
        done = subprocess.run(
            [sys.executable, *DROPIN, *words.split()],
            cwd=tmp_path,
            capture_output=True,
            encoding="utf-8",
            timeout=60,
            check=False,
        )
        assert done.returncode == (1 if "status" in words else 0), done.stderr
        assert "Traceback" not in done.stderr

"""The demo's access log is in combined format and never overwrites a log that is not its own."""

from __future__ import annotations

import asyncio
import re
from pathlib import Path
from typing import Any

import pytest

from headway.demo.access_log import AccessLog, LoggedApp

COMBINED = re.compile(
    r"(?P<ip>\S+) - (?P<user>\S+) \[(?P<time>\d\d/[A-Z][a-z]{2}/\d{4}:\d\d:\d\d:\d\d [+-]\d{4})\] "
    r'"(?P<request>(?:[^"\\]|\\.)*)" (?P<status>\d{3}) (?P<size>\d+) '
    r'"(?P<referer>(?:[^"\\]|\\.)*)" "(?P<agent>(?:[^"\\]|\\.)*)"'
)


def log_one_request(path: Path, headers: list[tuple[bytes, bytes]], query: bytes = b"") -> str:
    """Serve one request through the logging application and return what was logged."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 429, "headers": []})
        await send({"type": "http.response.body", "body": b"slow down"})

    async def receive() -> dict[str, Any]:
        return {"type": "http.request"}

    async def send(message: Any) -> None:
        pass

    scope = {
        "type": "http",
        "method": "GET",
        "path": "/search",
        "raw_path": b"/search",
        "query_string": query,
        "http_version": "1.1",
        "client": ("127.0.0.9", 5000),
        "headers": headers,
    }
    log = AccessLog(path)
    asyncio.run(LoggedApp(app, log)(scope, receive, send))
    log.close()
    assert log.lines == 1
    return path.read_text(encoding="utf-8")


def test_a_request_is_one_line_in_combined_format(tmp_path: Path) -> None:
    headers = [(b"x-client", b"mallory"), (b"user-agent", b"headway-demo (abusive)")]
    line = log_one_request(tmp_path / "new" / "access.log", headers, query=b"q=1")
    match = COMBINED.fullmatch(line.rstrip("\n"))
    assert match
    assert match["ip"] == "127.0.0.9"
    assert match["user"] == "mallory"
    assert match["request"] == "GET /search?q=1 HTTP/1.1"
    assert (match["status"], match["size"]) == ("429", "9")
    assert match["agent"] == "headway-demo (abusive)"


def test_a_header_with_quotes_and_line_ends_stays_one_line_in_its_field(tmp_path: Path) -> None:
    headers = [(b"user-agent", b'"x" 200 0\r\n127.0.0.1 \\'), (b"x-client", b"a b")]
    line = log_one_request(tmp_path / "access.log", headers)
    assert line.count("\n") == 1
    match = COMBINED.fullmatch(line.rstrip("\n"))
    assert match
    assert match["user"] == "a_b"


def test_a_log_of_an_earlier_demo_is_replaced(tmp_path: Path) -> None:
    path = tmp_path / "access.log"
    for _ in range(2):
        line = log_one_request(path, [(b"user-agent", b"headway-demo")])
    assert line.count("\n") == 1


def test_a_log_that_is_not_the_demos_own_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "access.log"
    path.write_text('10.0.0.1 - - [01/Jan/2026:00:00:00 +0000] "GET / HTTP/1.1" 200 1 "-" "curl"\n')
    with pytest.raises(FileExistsError, match=r"access\.log"):
        AccessLog(path)
    assert "curl" in path.read_text()

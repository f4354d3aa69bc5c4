"""A service that answers what a test wants, and notes what it is asked."""

from __future__ import annotations

import http.server
import json
from typing import Any


class Stub(http.server.BaseHTTPRequestHandler):
    """Notes what is asked, and answers what the test wants."""

    asked: list[tuple[str, str | None, Any]]
    answer: tuple[int, dict[str, str], bytes]
    health = 200
    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.asked.append((self.path, self.headers["Authorization"], json.loads(body)))
        status, headers, content = self.answer
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(content))}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(content)

    def do_GET(self) -> None:
        self.send_response(self.health)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


STATE = {"limit": 5, "remaining": 3, "reset_after": 1440.5, "retry_after": 0}

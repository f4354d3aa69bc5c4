"""The server's access log in combined format, the one that Apache and nginx write.

    127.0.0.4 - mallory [21/Nov/2026:07:29:01 +0000] "GET /feed HTTP/1.1" 429 48 "-" "headway-demo"

The user field is the client's `X-Client` name. A line is written when its response has been sent.
"""

from __future__ import annotations

import threading
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

USER_AGENT = "headway-demo"

# strftime's month names follow the locale; the format's do not.
MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")


class AccessLog:
    """A log file that any thread may write to."""

    def __init__(self, path: Path) -> None:
        """Create the file and its folder.

        Errors: OSError where that is not possible; FileExistsError where the file holds a log that
        is not the demo's own: it is left as it is.
        """
        if not _is_ours(path):
            raise FileExistsError(f"{path} holds something that this demo did not write")
        path.parent.mkdir(parents=True, exist_ok=True)
        self.path = path
        self.lines = 0
        self._lock = threading.Lock()
        self._file: TextIO = path.open("w", encoding="utf-8", newline="\n", buffering=1)

    def write(self, line: str) -> None:
        """Append one line."""
        with self._lock:
            self._file.write(line + "\n")
            self.lines += 1

    def close(self) -> None:
        """Write what is buffered and close the file; closing twice does no harm."""
        with self._lock:
            self._file.close()


class LoggedApp:
    """An ASGI application that logs every HTTP request of the one inside it."""

    def __init__(self, app: ASGIApp, log: AccessLog) -> None:
        self._app = app
        self._log = log

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve, watch the response go by, then write the line."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        status, size = 500, 0

        async def watch(message: Message) -> None:
            nonlocal status, size
            if message["type"] == "http.response.start":
                status = message["status"]
            elif message["type"] == "http.response.body":
                size += len(message.get("body", b""))
            await send(message)

        try:
            await self._app(scope, receive, watch)
        finally:
            self._log.write(_line(scope, status, size))


def _line(scope: Scope, status: int, size: int) -> str:
    headers = {name: value.decode("latin-1") for name, value in scope["headers"]}
    host = scope["client"][0] if scope.get("client") else "-"
    user = _quoted(headers.get(b"x-client", "-")).replace(" ", "_")
    query = f"?{scope['query_string'].decode('latin-1')}" if scope["query_string"] else ""
    target = _quoted(scope["raw_path"].decode("latin-1") + query)
    request = f"{scope['method']} {target} HTTP/{scope['http_version']}"
    referer = _quoted(headers.get(b"referer", "-"))
    agent = _quoted(headers.get(b"user-agent", "-"))
    when = _timestamp(datetime.now(timezone.utc))
    return f'{host} - {user} [{when}] "{request}" {status} {size} "{referer}" "{agent}"'


def _timestamp(when: datetime) -> str:
    return f"{when.day:02d}/{MONTHS[when.month - 1]}/{when:%Y:%H:%M:%S} +0000"


def _quoted(text: str) -> str:
    """The text as a quoted field may hold it: a client cannot end the field or the line."""
    return text.replace("\\", "\\\\").replace('"', '\\"').replace("\r", "").replace("\n", "")


def _is_ours(path: Path) -> bool:
    if not path.exists() or path.stat().st_size == 0:
        return True
    with path.open(encoding="utf-8", errors="replace") as file:
        return USER_AGENT in file.readline(4096)

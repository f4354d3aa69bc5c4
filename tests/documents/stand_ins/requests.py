"""Stands in for the `requests` package: every URL is asked of the test's own server instead.

Only what the documents use: `get(url, timeout=)`, `status_code`, `text`, `json()`,
`RequestException`. Where a document leaves the URL out, `get(...)`, nothing is asked and the call
is printed.
"""

import json
import os
import urllib.error
import urllib.request
from types import EllipsisType
from typing import Any
from urllib.parse import urlsplit


class RequestException(OSError):
    """What `get` raises when there is no answer."""


class Response:
    def __init__(self, status_code: int, body: bytes) -> None:
        self.status_code = status_code
        self.text = body.decode()

    def json(self) -> Any:
        return json.loads(self.text)


def get(url: "str | EllipsisType", timeout: float | None = None) -> Response:
    if isinstance(url, EllipsisType):
        print("GET ...")
        return Response(200, b"")
    local = f"http://127.0.0.1:{os.environ['DOCUMENT_SERVER_PORT']}{urlsplit(url).path}"
    try:
        with urllib.request.urlopen(local, timeout=timeout or 30) as answer:
            return Response(answer.status, answer.read())
    except urllib.error.URLError as error:
        raise RequestException(str(error)) from error

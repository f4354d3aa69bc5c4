"""An adapter for sessions of requests that answers by itself. Whoever imports it needs requests."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import pytest

requests = pytest.importorskip("requests")

Answer = Callable[[Any], "tuple[int, Mapping[str, str]]"]


class StubAdapter(requests.adapters.BaseAdapter):
    """Answers each request by `answer(request) -> (status, headers)`, and remembers it."""

    def __init__(self, answer: Answer = lambda request: (200, {})) -> None:
        super().__init__()
        self.answer = answer
        self.sent: list[Any] = []
        self.responses: list[Any] = []

    def send(self, request: Any, *_: Any, **__: Any) -> Any:
        self.sent.append(request)
        response = requests.Response()
        response.status_code, headers = self.answer(request)
        response.headers.update(headers)
        response.url, response.request = request.url or "", request
        response._content, response._content_consumed = b"", True
        self.responses.append(response)
        return response

    def close(self) -> None:
        pass


def session_of(limiter: Any, adapter: StubAdapter) -> Any:
    """A session that the limiter has wrapped, for http and https."""
    session = requests.Session()
    session.mount("https://", adapter)
    session.mount("http://", adapter)
    limiter.wrap_session(session)
    return session

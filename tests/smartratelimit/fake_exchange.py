"""Requests and responses that need no HTTP library: only what an adapter asks for."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from headway.smartratelimit import RateLimiter
from headway.smartratelimit.adapter import RateLimitAdapter

Answer = Callable[["Request"], "tuple[int, Mapping[str, str]]"]


@dataclass
class Request:
    url: str
    method: str = "GET"
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes | None = None


@dataclass
class Response:
    status_code: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)
    content: bytes = b""
    connection: Any = None

    def close(self) -> None:
        pass


class Exchange:
    """Sends by way of a limiter to `answer(request) -> (status, headers)`."""

    def __init__(self, limiter: RateLimiter, answer: Answer = lambda _: (200, {})) -> None:
        self.answer = answer
        self.sent = 0
        self._adapter = RateLimitAdapter(limiter, self)

    def send(self, request: Request, *_: Any, **__: Any) -> Response:
        """Called by the adapter."""
        self.sent += 1
        return Response(*self.answer(request))

    def get(self, url: str) -> int:
        """The status that came of it."""
        status: int = self._adapter.send(Request(url)).status_code
        return status

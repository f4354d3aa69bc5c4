"""What stands for the world where retries are tested: responses, lost connections, virtual time."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from headway.smartratelimit import RetryConfig, RetryHandler


@dataclass
class Response:
    """As requests': closed when nobody will read it."""

    status_code: int
    headers: dict[str, Any] = field(default_factory=dict)
    closed: bool = False

    def close(self) -> None:
        self.closed = True


@dataclass
class Request:
    method: str


class Lost(ConnectionError):
    """A connection that was lost, with its request if it is known."""

    def __init__(self, method: str | None = None) -> None:
        super().__init__("lost")
        if method:
            self.request = Request(method)


Run = Callable[..., Any]


class Time:
    """Virtual time: sleeping moves it, and is written down."""

    def __init__(self) -> None:
        self.now = 100.0
        self.slept: list[float] = []

    def handler(self, *, luck: float = 0.5, **config: Any) -> RetryHandler:
        return RetryHandler(
            RetryConfig(**config),
            sleep=self.sleep,
            async_sleep=self.sleep_async,
            clock=lambda: self.now,
            random=lambda: luck,
        )

    def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.now += seconds

    async def sleep_async(self, seconds: float) -> None:
        self.sleep(seconds)


def playing(*outcomes: Any) -> Callable[..., Any]:
    """A function that returns, or raises, these one after the other."""
    left: Iterator[Any] = iter(outcomes)

    def play(*args: Any, **kwargs: Any) -> Any:
        outcome = next(left)
        if isinstance(outcome, BaseException):
            raise outcome
        return outcome

    return play

"""What a client is told: one sentence for the model, and the same in numbers for programs."""

import math
from typing import TYPE_CHECKING, Any

from headway._core import RateLimitState
from headway.contrib.mcp import _sdk
from headway.exceptions import BaseThrottledError

__all__ = ["META", "RATE_LIMITED", "Denial", "Denied", "RateLimitedError", "numbers"]

if TYPE_CHECKING:
    _Error = Exception
else:
    _Error = _sdk.ERROR

RATE_LIMITED = -32029
"""The code of the JSON-RPC error, of those that JSON-RPC leaves to servers."""
META = "headway/rate-limit"
"""Where the numbers are in the `_meta` of a result."""


class Denial:
    """Why a call is not carried out, and when it may be."""

    __slots__ = ("data", "text")

    def __init__(self, text: str, data: dict[str, Any]) -> None:
        self.text = text
        self.data = data

    @classmethod
    def limited(cls, what: str, state: RateLimitState) -> "Denial":
        if math.isinf(state.retry_after):
            advice = "It asks for more than the limit ever allows: do not repeat it unchanged."
        else:
            seconds = max(math.ceil(state.retry_after), 1)
            advice = f"Retry after {seconds} second{'s' if seconds != 1 else ''}."
        data = {"error": "rate_limited", "name": what, **numbers(state)}
        return cls(f"Rate limit of {what} exceeded. {advice}", data)

    @classmethod
    def busy(cls, what: str, capacity: int) -> "Denial":
        calls = "call" if capacity == 1 else "calls"
        text = (
            f"{what} is busy: it carries out {capacity} {calls} at a time. "
            "Retry when a call has ended."
        )
        return cls(text, {"error": "concurrency_limited", "name": what, "limit": capacity})

    @classmethod
    def unavailable(cls, what: str) -> "Denial":
        text = f"The limit of {what} cannot be checked at the moment. Retry in a few seconds."
        return cls(text, {"error": "store_unavailable", "name": what})

    def as_result(self) -> Any:
        """As the result of a tool: errors that the model is to read are results."""
        return _sdk.call_tool_result(self.text, {META: self.data})


def numbers(state: RateLimitState) -> dict[str, Any]:
    """A state as JSON: seconds, and null where no time is enough."""
    return {
        "limit": state.limit,
        "remaining": state.remaining,
        "reset_after": _seconds(state.reset_after),
        "retry_after": _seconds(state.retry_after),
    }


def _seconds(value: float) -> float | None:
    """Milliseconds, rounded up: asking again after that time must do."""
    return None if math.isinf(value) else math.ceil(value * 1000) / 1000


class Denied(Exception):
    """A limit's verdict, on its way to whoever turns it into an answer."""

    def __init__(self, denial: Denial) -> None:
        super().__init__(denial.text)
        self.denial = denial


class RateLimitedError(BaseThrottledError, _Error):
    """A request was denied. The SDK answers it with an error of JSON-RPC, code -32029.

    `error.data` holds `retry_after` and the other numbers.
    """

    def __init__(self, denial: Denial) -> None:
        _sdk.error(self, RATE_LIMITED, denial.text, denial.data)
        self.denial = denial

    def __str__(self) -> str:
        return self.denial.text

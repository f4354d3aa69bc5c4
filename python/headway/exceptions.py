"""The one exception tree of headway (throttled.md, "Exception").

Everything that headway raises on purpose descends from `BaseThrottledError`. The compiled module
imports this file while it starts, so nothing here may import anything.
"""

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from headway._core import RateLimitResult

__all__ = [
    "BaseThrottledError",
    "DataError",
    "LimitedError",
    "SetUpError",
    "StoreUnavailableError",
]


class BaseThrottledError(Exception):
    """The root: catch this to catch every error of headway."""


class SetUpError(BaseThrottledError):
    """A limiter, store or drop-in cannot be set up as asked: unknown algorithm, bad option."""


class DataError(BaseThrottledError):
    """An argument is not usable; raised before any state changes.

    For example: `Invalid key: None, must be a non-empty key.`
    """


class StoreUnavailableError(BaseThrottledError):
    """A store cannot answer. The cause is chained as `__cause__`."""

    fault: str = "store"
    """What is wrong, in a word: connect, timeout, login, database, protocol, closed, …"""
    may_have_counted: bool = False
    """Whether the request had been sent, so that the server may have taken it."""


class LimitedError(BaseThrottledError):
    """A request was denied by a decorated function or a `with` block.

    Its text is `Rate limit exceeded: remaining=0, reset_after=60, retry_after=60.`, in seconds,
    or `Rate limit exceeded.` where no result is known.
    """

    rate_limit_result: "RateLimitResult | None"
    """The denial itself: limit, remaining, and the seconds to wait. None where not known."""

    def __init__(self, rate_limit_result: "RateLimitResult | None" = None) -> None:
        self.rate_limit_result = rate_limit_result
        super().__init__(_sentence(rate_limit_result))

    def __reduce__(self) -> "tuple[Any, ...]":
        # The default would rebuild the error from its text, which is not what __init__ takes.
        return type(self), (self.rate_limit_result,), self.__dict__


def _sentence(result: "RateLimitResult | None") -> str:
    if result is None:
        return "Rate limit exceeded."
    state = result.state
    return (
        f"Rate limit exceeded: remaining={state.remaining}, "
        f"reset_after={_seconds(state.reset_after)}, retry_after={_seconds(state.retry_after)}."
    )


def _seconds(value: float) -> str:
    return str(int(value)) if float(value).is_integer() else str(value)

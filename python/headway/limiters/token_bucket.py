"""Token buckets (limiters.md, "Token bucket"): so many in a time, under one name.

A bucket holds `capacity` tokens and gains `refill_amount` of them every `refill_frequency`
seconds, evenly: one each `refill_frequency / refill_amount`. Entering takes `tokens_to_consume`
and waits for them in line, to the exact instant; leaving gives nothing back.
"""

from collections.abc import Mapping
from datetime import timedelta
from typing import Any, NoReturn

from headway import _core
from headway._checks import not_negative, positive, positive_int, text
from headway._definitions import caller, define
from headway.limiters.exceptions import MaxSleepExceededError
from headway.store import shared_store

__all__ = ["AsyncTokenBucket", "SyncTokenBucket"]


class _Definition:
    """The parameters that hold for a name."""

    __slots__ = ("__weakref__", "params", "started", "where")

    params: Mapping[str, Any]
    where: str

    def __init__(self) -> None:
        self.started = False


class _Bucket(_core.Limiter):
    """What both kinds share: all but the protocol of entering."""

    def __init__(
        self,
        name: str,
        capacity: int,
        refill_frequency: float,
        refill_amount: int,
        max_sleep: float = 30.0,
        expiry: float | None = None,
        connection: object = None,
        tokens_to_consume: int = 1,
        initial_tokens: int | None = None,
    ) -> None:
        text("name", name)
        params: dict[str, Any] = {
            "capacity": positive_int("capacity", capacity),
            "refill_frequency": positive("refill_frequency", refill_frequency),
            "refill_amount": positive_int("refill_amount", refill_amount),
        }
        self.max_sleep = not_negative("max_sleep", max_sleep, "no end")
        if expiry is not None:  # states live as long as they say something; checked for its meaning
            positive("expiry", expiry)
        store = shared_store("limiters", connection)
        self._definition = define(
            store, "limiters.token_bucket", name, params, caller(1), _Definition
        )
        params = dict(self._definition.params)
        self.tokens_to_consume = positive_int(
            "tokens_to_consume", tokens_to_consume, params["capacity"]
        )
        super().__init__(
            key=name,
            timeout=self.max_sleep or float("inf"),
            using="token_bucket",
            quota=_core.per_duration(
                timedelta(seconds=params["refill_frequency"]),
                params["refill_amount"],
                params["capacity"],
            ),
            store=store,
            cost=self.tokens_to_consume,
            key_prefix="limiters",
        )
        self._silent = True
        if initial_tokens is not None:
            self._start_with(initial_tokens, params["capacity"])

    def _start_with(self, tokens: int, capacity: int) -> None:
        if not isinstance(tokens, int) or isinstance(tokens, bool) or not 0 <= tokens <= capacity:
            raise ValueError(
                f"Invalid initial_tokens: {tokens!r}, must be an integer between 0 and {capacity}."
            )
        # Once for a name, however many are made: one that is in use is not as good as new.
        if not self._definition.started and self._peek(self.name).reset_after == 0:
            self._definition.started = True
            self._settle(self.name, 0, tokens - capacity)

    @property
    def name(self) -> str:
        """Whom it shares its tokens with: every bucket of this name."""
        return str(self.key)

    @property
    def capacity(self) -> int:
        """How many tokens it holds."""
        return int(self._definition.params["capacity"])

    @property
    def refill_frequency(self) -> float:
        """Seconds in which `refill_amount` tokens arrive."""
        return float(self._definition.params["refill_frequency"])

    @property
    def refill_amount(self) -> int:
        """Tokens that arrive in `refill_frequency` seconds."""
        return int(self._definition.params["refill_amount"])

    def _limited_error(self, result: _core.RateLimitResult, /) -> Exception:
        return MaxSleepExceededError(
            f"Token bucket {self.name!r}: the tokens are there in {result.state.retry_after:g} s, "
            f"which is longer than max_sleep={self.max_sleep:g} s."
        )

    def __repr__(self) -> str:
        return (
            f"{type(self).__name__}(name={self.name!r}, capacity={self.capacity}, "
            f"refill_frequency={self.refill_frequency:g}, refill_amount={self.refill_amount}, "
            f"max_sleep={self.max_sleep:g})"
        )


class SyncTokenBucket(_Bucket):
    """A token bucket for `with`; waiters are served first come, first served.

    name: who shares the tokens; where two buckets of one name differ, the first holds and the
    second logs a warning. capacity: the most tokens it holds, and what it starts with.
    refill_frequency: seconds in which refill_amount tokens arrive, evenly. max_sleep: the longest
    wait in seconds; a longer one raises `MaxSleepExceededError` at once; 0 for no end.
    connection: a store or a URL; by default what REDIS_URL names, else the process.
    tokens_to_consume: what entering takes. initial_tokens: what the bucket starts with. expiry is
    accepted and has no effect: a state is kept as long as it matters. Raises ValueError naming a
    value that is not usable.
    """

    def __aenter__(self) -> NoReturn:
        """Refuse: this bucket waits as a thread does."""
        raise TypeError("SyncTokenBucket is for `with`; AsyncTokenBucket is for `async with`.")


class AsyncTokenBucket(_Bucket):
    """A token bucket for `async with`: as `SyncTokenBucket`, for tasks."""

    def __enter__(self) -> NoReturn:
        """Refuse: this bucket would stop the event loop."""
        raise TypeError("AsyncTokenBucket is for `async with`; SyncTokenBucket is for `with`.")

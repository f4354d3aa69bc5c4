"""Does a choked call leave anything behind? One limit and both, settled, refused, in all kinds of
functions; and decorating.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from itertools import count
from typing import Any

from looping import awaited
from measuring import Case, main, swallow

from headway.choked import Choked, choked, settle
from headway.exceptions import LimitedError

logging.disable(logging.CRITICAL)
os.environ.pop("REDIS_URL", None)

MANY = 10**12
TOKENS = "1000000000000/s"
choke = Choked()
numbers = count()
argument = object()


@choked(key="plain", max_tokens=MANY, refill_period=1)
def plain(*args: Any, **kwargs: Any) -> object:
    return argument


@choked(key="coroutine", max_tokens=MANY, refill_period=1)
async def coroutine() -> int:
    return 1


@choked(key="generator", max_tokens=MANY, refill_period=1)
def generator() -> Iterator[int]:
    yield 1


@choked(key="quick", max_tokens=1, refill_period=0.000_05)
def quick() -> None: ...


@choke(key="calls", request_limit=TOKENS)
def calls() -> None: ...


@choke(key="both", request_limit=TOKENS, token_limit=TOKENS, token_estimator=lambda text: 7)
def both(text: str) -> object:
    return argument


@choke(key="async", request_limit=TOKENS, token_limit=TOKENS, token_estimator=lambda: 7)
async def both_async() -> int:
    return 1


@choke(key="estimated", token_limit=TOKENS)
def estimated(messages: list[dict[str, str]]) -> None: ...


@choke(key="never", token_limit="5/s", token_estimator=lambda: 6)
def never() -> None: ...


def settled() -> None:
    both("text")
    settle(5)
    both.settle(9)  # type: ignore[attr-defined]


async def settled_async() -> None:
    await both_async()
    settle(5)


MESSAGES = [{"role": "user", "content": "how are you"}]

CASES = [
    Case("plain", plain, watched=(argument, plain)),
    Case("plain_with_arguments", lambda: plain(argument, 2, three=argument), watched=(argument,)),
    Case("generator", lambda: list(generator()), 0.3),
    Case("waiting", quick, 0.01),
    Case("calls", calls),
    Case("both_limits", lambda: both("text"), 0.1, watched=(argument,)),
    Case("both_limits_settled", settled, 0.05),
    Case("estimated", lambda: estimated(MESSAGES), 0.05, watched=(MESSAGES,)),
    Case("never_fits", swallow(LimitedError, never), 0.05),
    Case("settled_wrongly", swallow(ValueError, lambda: settle(-1)), 0.1),
    awaited("coroutine", coroutine, 0.3),
    awaited("both_limits_async", both_async, 0.05),
    awaited("both_limits_async_settled", settled_async, 0.05),
    Case("decorating", lambda: choked(f"k{next(numbers) % 100}", 5, 1)(lambda: None), 0.02),
    Case("decorating_with_both", lambda: choke("b", "5/s", "9/s")(lambda: None), 0.02),
    Case("decorating_a_shared_key", lambda: choked("plain", MANY, 1)(lambda: None), 0.02),
]

if __name__ == "__main__":
    main(CASES)

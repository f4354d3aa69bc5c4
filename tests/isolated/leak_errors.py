"""Does a refused argument leave anything behind? Every error of every entry point, and waits that
end in all their ways.
"""

from __future__ import annotations

import signal
from datetime import timedelta
from typing import Any

from measuring import Case, main, swallow

from headway import (
    MemoryStore,
    Quota,
    Rate,
    RateLimitState,
    Throttled,
    TokenBucket,
    VirtualClock,
    parse_quota,
    per_sec,
)
from headway.algorithms import step
from headway.exceptions import BaseThrottledError, DataError, SetUpError

clock = VirtualClock(10**18)
throttle = Throttled(key="key", quota="5/s", store=MemoryStore(clock=clock))
bare = Throttled(store=throttle.store)
LONG = "k" * 65_537
bad: Any = object()
odd: Any = "1"
too_many: Any = [None] * 9
refusing = MemoryStore(options={"MAX_SIZE": 1}, on_full="raise")
full = Throttled(quota="1/3650d", store=refusing)
full.limit("one")
shut = Throttled(key="shut", using="gcra", quota="1/3650d", store=throttle.store)
shut.limit()
quick = Throttled(key="key", using="gcra", quota="20000/s burst 1", store=MemoryStore())
bucket = TokenBucket(1, 20_000)


def broken(*args: Any) -> Any:
    raise LookupError


def nothing() -> None:
    """What the broken limiters would guard."""


class Interrupt(Exception):
    """Raised by the signal handler."""


def interrupted_wait() -> None:
    def handler(number: int, frame: object) -> None:
        raise Interrupt

    signal.signal(signal.SIGALRM, handler)
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.0002)
        shut.limit(timeout=1e12)
    except Interrupt:
        return
    raise AssertionError("the wait ended without the signal")


def refused(name: str, call: Any, error: Any = DataError, share: float = 0.3) -> Case:
    return Case(name, swallow(error, call), share)


CASES = [
    refused("no_key", bare.limit, share=1),
    refused("empty_key", lambda: throttle.limit(""), share=1),
    refused("key_of_another_type", lambda: throttle.limit(bad)),
    refused("long_key", lambda: throttle.limit(LONG)),
    refused("peek_no_key", bare.peek),
    refused("reset_no_key", bare.reset),
    refused("context_no_key", lambda: bare.__enter__()),
    refused("negative_cost", lambda: throttle.limit("key", -1), share=1),
    refused("huge_cost", lambda: throttle.limit("key", 10**30)),
    refused("cost_of_another_type", lambda: throttle.limit("key", odd)),
    refused("zero_timeout", lambda: throttle.limit("key", timeout=0)),
    refused("nan_timeout", lambda: throttle.limit("key", timeout=float("nan"))),
    refused("timeout_of_another_type", lambda: throttle.limit("key", timeout=odd)),
    refused("unknown_argument", lambda: throttle.limit("key", bad=1), TypeError),  # type: ignore[call-arg]
    refused("too_many_arguments", lambda: throttle.limit(*too_many), TypeError),
    refused("bad_quota_text", lambda: parse_quota("10/s; 5/fortnight")),
    refused("bad_limit", lambda: per_sec(0)),
    refused("bad_burst", lambda: Quota(Rate(timedelta(1), 5), -1)),
    refused("bad_period", lambda: Rate(timedelta(0), 5)),
    refused("bad_state", lambda: RateLimitState(bad, 1, 1), (TypeError, DataError)),
    refused("bad_using", lambda: Throttled(using="leaky"), SetUpError),
    refused("bad_quota", lambda: Throttled(quota=["5/s", bad]), DataError),
    refused("bad_prefix", lambda: Throttled(key_prefix=":")),
    refused("bad_store", lambda: Throttled(store=bad), (SetUpError, DataError, TypeError)),
    refused("bad_option", lambda: MemoryStore(options={"X": 1}), BaseThrottledError),
    refused("bad_size", lambda: MemoryStore(options={"MAX_SIZE": 0}), BaseThrottledError),
    refused("bad_step", lambda: step(b"x", "5/s", 1, 0)),
    refused("bad_instant", lambda: step(None, "5/s", 1, -1), (DataError, TypeError)),
    refused("bad_bucket", lambda: TokenBucket(0, 1), ValueError),
    refused("bad_tokens", lambda: bucket.allow(0), ValueError),
    refused("bad_advance", lambda: clock.advance(-1), DataError),
    refused("full_store", lambda: full.limit("two"), BaseThrottledError),
    refused("broken_key", Throttled(key=broken)(nothing), LookupError),
    refused("broken_cost", Throttled(key="k", cost=broken)(nothing), LookupError),
    refused("broken_quota", lambda: Throttled(quota=broken).limit("k"), LookupError, 0.1),
    Case("wait_served", lambda: quick.limit(timeout=1), 0.005),
    Case("wait_denied_at_once", lambda: shut.limit(timeout=1)),
    Case("wait_interrupted", interrupted_wait, 0.002),
    Case("bucket_wait_served", bucket.wait, 0.005),
]

if __name__ == "__main__":
    main(CASES)

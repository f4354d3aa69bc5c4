"""Does making, reading or dropping an object leave anything behind? Values, limiters, stores,
clocks and buckets.
"""

from __future__ import annotations

import copy
import pickle
from datetime import timedelta

from measuring import Case, main

from headway import (
    MemoryStore,
    Quota,
    Rate,
    RateLimitResult,
    RateLimitState,
    Throttled,
    TokenBucket,
    VirtualClock,
    parse_quota,
    per_duration,
    per_sec,
)
from headway.clock import now_ns
from headway.exceptions import LimitedError

MINUTE = timedelta(minutes=1)
RATE, QUOTA = Rate(MINUTE, 60), per_sec(5, 6)
STATE = RateLimitState(60, 59, 1, 0)
RESULT = RateLimitResult(False, STATE)
PICKLE = pickle.dumps((QUOTA, RATE, RESULT, STATE, LimitedError(rate_limit_result=RESULT)))
clock = VirtualClock()
shared = MemoryStore(clock=clock)
bucket = TokenBucket(1e12, 1e12)
empty = TokenBucket(1, 1e-9)
empty.allow()


class Named(TokenBucket):
    """A bucket with a dictionary."""


def taken_apart() -> None:
    match RESULT:
        case RateLimitResult(False, RateLimitState(60, 59, _, _)):
            return
    raise AssertionError("no match")


def filled_store() -> None:
    throttle = Throttled(quota="5/s; 6/m", store=MemoryStore(clock=VirtualClock()))
    for number in range(20):
        throttle.limit(str(number))


def named_bucket() -> None:
    named = Named(1, 1)
    named.name = named  # type: ignore[attr-defined]
    named.allow()


def owner_in_a_cycle() -> None:
    cell: list[object] = []
    cell.append(Throttled(key=lambda: str(len(cell)), quota=QUOTA, store=shared))


def moved_clock() -> None:
    clock.advance(ns=1)
    clock.advance(0.000_000_001)
    clock.set(clock.now_ns)


CASES = [
    Case("rate", lambda: Rate(MINUTE, 60), watched=(MINUTE,)),
    Case("quota", lambda: Quota(RATE, 90), watched=(RATE,)),
    Case("per_sec", lambda: per_sec(5, burst=6)),
    Case("per_duration", lambda: per_duration(MINUTE, 5)),
    Case("parse_quota", lambda: parse_quota("10/s burst 20; 1000/h")),
    Case("quota_attributes", lambda: (QUOTA.rate, QUOTA.burst, QUOTA.period_sec, QUOTA.fill_rate)),
    Case("quota_equal", lambda: per_sec(5, 6) == QUOTA != 5),
    Case("quota_hash", lambda: {QUOTA: 1, RATE: 2}),
    Case("quota_repr", lambda: repr(QUOTA) + repr(RATE), 0.1),
    Case("state", lambda: RateLimitState(60, 59, 1.5, 0.5)),
    Case("state_repr", lambda: repr(STATE), 0.3),
    Case("state_equal", lambda: (RateLimitState(1, 1, 1) == STATE, STATE != 5, hash(STATE))),
    Case("state_attributes", lambda: (STATE.limit, STATE.remaining, STATE.reset_after)),
    Case("result", lambda: RateLimitResult(True, STATE), watched=(STATE,)),
    Case("result_reads", lambda: (bool(RESULT), RESULT.state, hash(RESULT), RESULT == RESULT)),
    Case("result_repr", lambda: repr(RESULT), 0.3),
    Case("match", taken_apart),
    Case("pickle", lambda: pickle.dumps((QUOTA, RATE, RESULT, STATE)), 0.05),
    Case("unpickle", lambda: pickle.loads(PICKLE), 0.05),
    Case("copy", lambda: (copy.copy(QUOTA), copy.deepcopy(RESULT)), 0.1),
    Case("limited_error", lambda: str(LimitedError(rate_limit_result=RESULT)), 0.5),
    Case("throttled", lambda: Throttled(key="k", quota=QUOTA, store=shared), watched=(QUOTA,)),
    Case("throttled_by_default", Throttled, 0.2),
    Case("throttled_by_text", lambda: Throttled(quota="5/s; 6/m", store="memory://"), 0.05),
    Case("throttled_in_a_cycle", owner_in_a_cycle, 0.1),
    Case("throttled_attributes", lambda: (lambda t: (t.quota, t.using, t.key))(Throttled()), 0.2),
    Case("store", lambda: MemoryStore(options={"MAX_SIZE": 100}), 0.2),
    Case("store_by_default", MemoryStore, 0.05),
    Case("store_filled", filled_store, 0.02),
    Case("store_reads", lambda: (shared.stats(), len(shared), shared.options, shared.clock)),
    Case("clock", lambda: VirtualClock(5).now_ns),
    Case("clock_moved", moved_clock),
    Case("now_ns", now_ns),
    Case("bucket", lambda: TokenBucket(2.5, 0.5)),
    Case("bucket_with_clock", lambda: TokenBucket(2.5, 0.5, clock=clock), watched=(clock,)),
    Case("bucket_subclass", named_bucket, 0.2),
    Case("bucket_allow", bucket.allow),
    Case("bucket_allow_many", lambda: bucket.allow(2.5)),
    Case("bucket_denied", empty.allow),
    Case("bucket_try_consume", lambda: bucket.try_consume(tokens=1)),
    Case("bucket_wait", bucket.wait),
    Case("bucket_tokens", lambda: bucket.tokens),
]

if __name__ == "__main__":
    main(CASES)

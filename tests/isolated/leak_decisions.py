"""Does a decision leave anything behind? `limit`, `peek`, `reset` and `step`, allowed and denied,
with keys of all kinds.
"""

from __future__ import annotations

from itertools import count

from measuring import Case, main

from headway import MemoryStore, Throttled, VirtualClock, per_sec
from headway.algorithms import ALGORITHMS, step

FREE = "1000000000000/s"
store = MemoryStore(clock=VirtualClock(10**18))
free = Throttled(key="key", quota=FREE, store=store)
real = Throttled(key="key", quota=FREE, store=MemoryStore())
shut = Throttled(key="shut", quota="1/3650d", store=store)
shut.limit()
several = Throttled(key="several", quota=f"{FREE}; 900000000000/m", store=store)
several_shut = Throttled(key="several", quota="1/3650d; 2/3650d", store=store, key_prefix="shut")
several_shut.limit()
LONG, BYTES, WIDE = "k" * 60_000, b"bytes", "ключ 🚀"
small = Throttled(quota=FREE, store=MemoryStore(options={"MAX_SIZE": 100}))
numbers = count()
quota = per_sec(10**12)
state, _ = step(None, quota, 1, 10**18)


def held() -> object:
    """Results that live longer than the next one."""
    first, second = free.limit(), free.limit("other")
    return first.state.remaining, second.state, first == second


def reset_and_take() -> None:
    free.reset("reset")
    free.limit("reset")


CASES = [
    Case("limit_allowed", free.limit),
    Case("limit_allowed_by_key", lambda: free.limit("key", 1), watched=("key",)),
    Case("limit_allowed_by_keywords", lambda: free.limit(key="key", cost=1, timeout=-1)),
    Case("limit_in_real_time", real.limit),
    Case("limit_denied", lambda: shut.limit().state, watched=(shut,)),
    Case("limit_never_fits", lambda: shut.limit(cost=2).state.retry_after),
    Case("limit_reads", lambda: free.limit("key", 0)),
    Case("limit_new_keys", lambda: small.limit(str(next(numbers)))),
    Case("limit_bytes", lambda: free.limit(BYTES), watched=(BYTES,)),
    Case("limit_unicode", lambda: free.limit(WIDE), watched=(WIDE,)),
    Case("limit_unicode_made_each_time", lambda: free.limit("ключ" + str(next(numbers) % 9))),
    Case("limit_long_key", lambda: free.limit(LONG), 0.02, watched=(LONG,)),
    Case("limit_long_keys", lambda: small.limit(LONG + str(next(numbers))), 0.02),
    Case("limit_several_rules", several.limit),
    Case("limit_several_rules_denied", several_shut.limit),
    Case("limit_results_held", held),
    Case("limit_denied_at_once", lambda: shut.limit(timeout=1)),
    Case("peek", free.peek),
    Case("peek_key", lambda: free.peek("nobody")),
    Case("reset", lambda: free.reset("nobody")),
    Case("reset_and_take", reset_and_take),
    Case("step_new", lambda: step(None, quota, 1, 10**18), watched=(quota, None)),
    Case("step_again", lambda: step(state, quota, 1, 10**18), watched=(state,)),
    Case("step_text", lambda: step(None, "5/s; 6/m", 1, 10**18, using="gcra"), 0.5),
    *(
        Case(f"limit_{using}", Throttled(key="key", using=using, quota=FREE, store=store).limit)
        for using in ALGORITHMS
    ),
]

if __name__ == "__main__":
    main(CASES)

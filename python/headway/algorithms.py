"""The pure step of an algorithm: state in, state out, no clock and no store of its own.

`step(state, quota, cost, now_ns, using="token_bucket")` takes the bytes of an earlier call (or
None for a key never seen) and returns the new bytes and the result. A store that can only compare
and swap keeps the bytes and calls this. `ALGORITHMS` names the algorithms there are.
"""

from headway._core import ALGORITHMS, step

__all__ = ["ALGORITHMS", "step"]

"""The pure step of an algorithm: state in, state out, no clock and no store of its own.

`step(state, quota, cost, now_ns, using="token_bucket")` takes the bytes of an earlier call (or
None for a key never seen) and returns the new bytes and the result. A store that can only compare
and swap keeps the bytes and calls this. `ALGORITHMS` names the algorithms there are.
"""

from headway._core import ALGORITHMS, step

__all__ = ["ALGORITHMS", "expires_ns", "step"]

_STATE_BYTES = 25
"""Of one rule: a byte for version and algorithm, then three words, little-endian."""


def expires_ns(state: bytes) -> int:
    """From when a state says nothing any more: nanoseconds since the Unix epoch.

    Then it is as good as None, and a store may drop it.
    """
    ends = (state[at + 1 : at + 9] for at in range(0, len(state), _STATE_BYTES))
    return max((int.from_bytes(end, "little", signed=True) for end in ends), default=0)

"""Time as the limiters see it, in nanoseconds since the Unix epoch.

`now_ns()` is the process's own clock: it starts at the epoch's time and then only moves forward,
whatever happens to the wall clock. A `VirtualClock` moves when it is told to: give it to a
`MemoryStore`, and every decision becomes plain arithmetic, which is what tests and replays need.
"""

from headway._core import VirtualClock, now_ns

__all__ = ["VirtualClock", "now_ns"]

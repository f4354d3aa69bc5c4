"""The mirror of limiters.md: semaphores and token buckets that are shared by name.

    async with AsyncSemaphore(name="foo", capacity=5, max_sleep=30, expiry=30):
        ...

Limiters of one name share one state, in the process, wherever they are made. A wait that takes
longer than `max_sleep` seconds raises `MaxSleepExceededError`; 0 waits without end.
"""

from headway.limiters.exceptions import MaxSleepExceededError
from headway.limiters.semaphore import AsyncSemaphore, SyncSemaphore
from headway.limiters.token_bucket import AsyncTokenBucket, SyncTokenBucket

__all__ = [
    "AsyncSemaphore",
    "AsyncTokenBucket",
    "MaxSleepExceededError",
    "SyncSemaphore",
    "SyncTokenBucket",
]

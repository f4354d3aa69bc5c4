"""`TokenBucket(capacity, tokens_per_second)` of token-bucket.md: one bucket, no keys.

Tokens are floats. `allow()` takes them or says no at once, `wait()` sleeps until they are there,
first come first served, and `try_consume()` is `allow()` by another name.
"""

from headway._core import TokenBucket

__all__ = ["TokenBucket"]

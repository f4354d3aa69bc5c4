"""`headway.rate_limiter` under the name that throttled.md gives it: the same module object."""

import sys

import headway.rate_limiter
from headway.rate_limiter import *  # noqa: F403

sys.modules[__name__] = headway.rate_limiter

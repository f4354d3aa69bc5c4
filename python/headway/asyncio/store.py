"""`headway.store` under the name that throttled.md's asynchronous package gives it: the same module."""

import sys

import headway.store
from headway.store import *  # noqa: F403

sys.modules[__name__] = headway.store

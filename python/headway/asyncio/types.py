"""`headway.types` under the name that throttled.md's asynchronous package gives it: the same module."""

import sys

import headway.types
from headway.types import *  # noqa: F403

sys.modules[__name__] = headway.types

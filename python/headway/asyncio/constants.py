"""`headway.constants` under the name that throttled.md's asynchronous package gives it: the same module."""

import sys

import headway.constants
from headway.constants import *  # noqa: F403

sys.modules[__name__] = headway.constants

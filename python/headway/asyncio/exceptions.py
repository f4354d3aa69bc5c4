"""`headway.exceptions` under the name that throttled.md's asynchronous package gives it: the same module."""

import sys

import headway.exceptions
from headway.exceptions import *  # noqa: F403

sys.modules[__name__] = headway.exceptions

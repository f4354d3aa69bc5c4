"""`headway.utils` under the name that throttled.md's asynchronous package gives it: the same module."""

import sys

import headway.utils
from headway.utils import *  # noqa: F403

sys.modules[__name__] = headway.utils

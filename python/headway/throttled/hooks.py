"""`headway.hooks` under the name that throttled.md gives it: the same module object."""

import sys

import headway.hooks
from headway.hooks import *  # noqa: F403

sys.modules[__name__] = headway.hooks

"""`headway.exceptions` under the name that throttled.md gives it: the same module object."""

import sys

import headway.exceptions
from headway.exceptions import *  # noqa: F403

sys.modules[__name__] = headway.exceptions

"""`headway.asyncio` under the name that throttled.md gives it: the same module object."""

import sys

import headway.asyncio
from headway.asyncio import *  # noqa: F403

sys.modules[__name__] = headway.asyncio

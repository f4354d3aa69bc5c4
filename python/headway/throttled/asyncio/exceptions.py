"""`headway.asyncio.exceptions` under the name that throttled.md gives it: the same module object."""

import sys
from importlib import import_module

sys.modules[__name__] = import_module("headway.asyncio.exceptions")

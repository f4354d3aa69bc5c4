"""`headway.asyncio.exceptions` by throttled.md's own name: the same module object."""

import sys
from importlib import import_module

sys.modules[__name__] = import_module("headway.asyncio.exceptions")

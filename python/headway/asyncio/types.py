"""`headway.types` under the name of the asynchronous package: the same module object."""

import sys

import headway.types
from headway.types import *  # noqa: F403

sys.modules[__name__] = headway.types

"""`headway.constants` under the name of the asynchronous package: the same module object."""

import sys

import headway.constants
from headway.constants import *  # noqa: F403

sys.modules[__name__] = headway.constants

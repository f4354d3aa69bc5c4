"""`headway.exceptions` under the name of the asynchronous package: the same module object."""

import sys

import headway.exceptions
from headway.exceptions import *  # noqa: F403

sys.modules[__name__] = headway.exceptions

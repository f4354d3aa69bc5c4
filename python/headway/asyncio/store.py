"""`headway.store` under the name of the asynchronous package: the same module object."""

import sys

import headway.store
from headway.store import *  # noqa: F403

sys.modules[__name__] = headway.store

"""`headway.utils` under the name of the asynchronous package: the same module object."""

import sys

import headway.utils
from headway.utils import *  # noqa: F403

sys.modules[__name__] = headway.utils

"""`headway.store` under the name of the asynchronous package: the same module object."""

import sys
from typing import TYPE_CHECKING

import headway.store

if TYPE_CHECKING:
    from headway.store import *  # noqa: F403

sys.modules[__name__] = headway.store

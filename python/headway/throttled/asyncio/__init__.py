"""The mirror of throttled.md's asynchronous package: the names of `headway.asyncio`.

Its submodules are those of `headway.asyncio`, under this second name.
"""

from headway.asyncio import *  # noqa: F403
from headway.asyncio import __all__, __version__

__all__ = [*__all__, "__version__"]

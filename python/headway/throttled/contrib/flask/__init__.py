"""throttled-py's names for Flask (3.5): `from throttled.contrib.flask import Limiter`.

Importing this needs no Flask, so that `headway.dropin` can register it anywhere; the names that are
nothing without Flask load it when they are first used. For more than these names, see
`headway.contrib.flask`.
"""

from typing import TYPE_CHECKING

from headway.throttled.contrib.flask.headers import RateLimitContext, RateLimitHeaderPolicy
from headway.throttled.contrib.flask.key_funcs import get_remote_address

if TYPE_CHECKING:
    from headway.throttled.contrib.flask._flask import KeyFunc, Limiter, RateLimitExceededError

__all__ = [
    "KeyFunc",
    "Limiter",
    "RateLimitContext",
    "RateLimitExceededError",
    "RateLimitHeaderPolicy",
    "get_remote_address",
]


def __getattr__(name: str) -> object:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from headway.throttled.contrib.flask import _flask

    return getattr(_flask, name)

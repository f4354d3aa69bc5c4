"""`Limiter`, and `KeyFunc`, the type of its key functions. Loads Flask when it is first used."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from headway.throttled.contrib.flask._flask import KeyFunc, Limiter

__all__ = ["KeyFunc", "Limiter"]


def __getattr__(name: str) -> object:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from headway.throttled.contrib.flask import _flask

    return getattr(_flask, name)

"""The mirror of choked.md: a decorator that makes a function wait for its turn.

    from headway import choked

    @choked(key="api_calls", max_tokens=10, refill_period=60)
    def make_api_call(): ...

Functions of one key share one bucket of `max_tokens`, which fills in `refill_period` seconds. A
call takes one token; where there is none it waits, first come first served, to the exact instant.

`Choked` is the class form, with a limit of calls and a limit of the tokens that a language model
counts. The module itself is callable: `choked(...)` is `choked.choked(...)`.
"""

import sys
from collections.abc import Callable
from types import ModuleType
from typing import TypeVar

from headway.choked.decorator import choked
from headway.choked.dual import Choked, settle

__all__ = ["Choked", "choked", "settle"]

_F = TypeVar("_F", bound=Callable[..., object])


class _CallableModule(ModuleType):
    def __call__(self, key: str, max_tokens: int, refill_period: float) -> Callable[[_F], _F]:
        return choked(key, max_tokens, refill_period)


sys.modules[__name__].__class__ = _CallableModule

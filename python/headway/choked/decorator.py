"""`@choked(key=, max_tokens=, refill_period=)` (choked.md): one bucket for each key."""

import functools
import os
from collections.abc import Callable, Mapping
from datetime import timedelta
from typing import TYPE_CHECKING, Any, TypeVar, cast

from headway import _core
from headway._checks import positive, positive_int, text
from headway._definitions import define
from headway._wrap import decorate
from headway.store import shared_store
from headway.types import AnyStore

if TYPE_CHECKING:
    from headway.choked.estimators import Estimator
    from headway.choked.service import Service

__all__ = ["choked"]

_F = TypeVar("_F", bound=Callable[..., object])
Rules = tuple[tuple[_core.Quota, ...], tuple[_core.Quota, ...]]
"""Of calls, and of tokens."""


class Definition:
    """What holds for a key: the first function to name it has said so."""

    __slots__ = ("__weakref__", "params", "rules", "where")

    params: Mapping[str, Any]
    where: str

    def __init__(self, rules: "Rules") -> None:
        self.rules = rules

    @classmethod
    def of(
        cls,
        store: "AnyStore | Service",
        key: str,
        params: Mapping[str, Any],
        func: object,
        rules: "Rules",
    ) -> "Definition":
        """Return the definition of `key`: the first one, or this."""
        make = functools.partial(cls, rules)
        return define(cast("AnyStore", store), "choked", key, params, _named(func), make)

    def decorate(
        self,
        func: Any,
        key: str,
        store: "AnyStore | Service",
        estimate: "Estimator | None" = None,
    ) -> Any:
        """Return `func` behind what holds for the key."""
        calls, tokens = self.rules
        if not isinstance(store, AnyStore):
            from headway.choked.dual import decorate_remote

            return decorate_remote(self, func, key, store, estimate)
        if not tokens:
            return decorate(Waiting(self, key, store, quota=list(calls)), func)
        from headway.choked.dual import decorate_dual

        return decorate_dual(self, func, key, store, estimate)


class Waiting(_core.Throttled):
    """The limiter of one function: waits without end for what the key's functions share."""

    def __init__(self, definition: Definition, key: str, store: AnyStore, **options: Any) -> None:
        self._definition = definition  # kept as long as a function goes by it
        super().__init__(
            key=key,
            timeout=float("inf"),
            using="token_bucket",
            store=store,
            key_prefix="choked",
            **options,
        )


def choked(key: str, max_tokens: int, refill_period: float) -> Callable[[_F], _F]:
    """Make a function wait until the bucket of `key` has a token for the call.

    key: who shares the bucket: every function that names it, threads and tasks alike.
    max_tokens: what the bucket holds, an integer of at least 1. refill_period: the seconds in
    which it fills. Where a key is given other parameters than before, the first definition holds
    and a warning is logged that names both functions.

    Works on functions, coroutine functions, generators and methods. The state is kept by the
    service that CHOKED_API_TOKEN and CHOKED_API_URL name, else where REDIS_URL says, else in the
    process. Raises ValueError naming a value that is not usable.
    """
    text("key", key)
    params = {
        "max_tokens": positive_int("max_tokens", max_tokens),
        "refill_period": positive("refill_period", refill_period),
    }

    def decorator(func: _F) -> _F:
        quota = _core.per_duration(
            timedelta(seconds=params["refill_period"]), cast("int", params["max_tokens"])
        )
        store = service_from_env() or shared_store("choked")
        definition = Definition.of(store, key, params, func, ((quota,), ()))
        return cast("_F", definition.decorate(func, key, store))

    return decorator


def service_from_env() -> "Service | None":
    """Return the service that the environment names, if it does."""
    if not os.environ.get("CHOKED_API_TOKEN"):
        return None
    from headway.choked.service import service_from  # takes a while to import

    return service_from()


def _named(func: object) -> str:
    func = getattr(func, "__func__", func)  # of a classmethod or staticmethod
    name = getattr(func, "__qualname__", None) or repr(func)
    return f"{getattr(func, '__module__', '?')}.{name}"

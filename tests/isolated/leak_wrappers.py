"""Does a wrapped call leave anything behind? Decorators, contexts, hooks, and keys, costs and
quotas made by functions.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

from measuring import Case, main, swallow

from headway import MemoryStore, RateLimitResult, Throttled, VirtualClock, per_sec
from headway.exceptions import LimitedError
from headway.hooks import Hook, HookContext

FREE = "1000000000000/s"
store = MemoryStore(clock=VirtualClock(10**18))
free = Throttled(key="key", quota=FREE, store=store)
shut = Throttled(key="shut", quota="1/3650d", store=store)
shut.limit()
QUOTA = per_sec(10**12)
argument = object()


class Watching(Hook):
    """A hook that passes everything on."""

    def on_limit(
        self, call_next: Callable[[], RateLimitResult], context: HookContext
    ) -> RateLimitResult:
        return call_next()


hooked = Throttled(key="key", quota=FREE, store=store, hooks=[Watching(), Watching()])


@free
def plain(*args: Any, **kwargs: Any) -> Any:
    return argument


@shut
def denied() -> None:
    raise AssertionError("ran")


@Throttled(key=lambda *args, **kwargs: "made", cost=lambda *args, **kwargs: 2, quota=FREE)
def made(*args: Any, **kwargs: Any) -> Any:
    return argument


class Owner:
    """Methods of every kind."""

    @free
    def method(self) -> None: ...

    @classmethod
    @free
    def of_class(cls) -> None: ...

    @staticmethod
    @free
    def static() -> None: ...


owner = Owner()


@free
def generator() -> Iterator[int]:
    yield 1


@free
async def coroutine() -> int:
    return 1


@free
async def async_generator() -> AsyncIterator[int]:
    yield 1


def with_context() -> None:
    with free:
        pass


def with_denied_context() -> None:
    with shut:
        raise AssertionError("ran")


def with_raising_body() -> None:
    with free:
        raise LookupError


@free
def raising() -> None:
    raise LookupError


def run(coroutine: Any) -> Any:
    """Drives a coroutine that never suspends, without an event loop."""
    try:
        coroutine.send(None)
    except StopIteration as end:
        return end.value
    raise AssertionError("the coroutine suspended")


async def consume() -> list[int]:
    return [number async for number in async_generator()]


by_key = Throttled(quota=lambda key: QUOTA, store=store)
by_key_text = Throttled(quota=lambda key: "5/s" if key else "6/s", store=store)

CASES = [
    Case("decorated", plain, watched=(argument, plain)),
    Case("decorated_with_arguments", lambda: plain(argument, 2, three=argument)),
    Case("decorated_denied", swallow(LimitedError, denied), 0.3),
    Case("decorated_with_callables", lambda: made(argument, x=1)),
    Case("decorated_raises", swallow(LookupError, raising)),
    Case("method", lambda: owner.method(), watched=(owner,)),
    Case("bound_method", owner.method),
    Case("class_method", lambda: Owner.of_class()),
    Case("static_method", lambda: Owner.static()),
    Case("generator", lambda: list(generator()), 0.5),
    Case("generator_not_used", lambda: generator(), 0.5),
    Case("coroutine", lambda: run(coroutine()), 0.2),
    Case("coroutine_closed", lambda: coroutine().close(), 0.2),
    Case("async_generator", lambda: run(consume()), 0.1),
    Case("event_loop", lambda: asyncio.run(coroutine()), 0.0005),
    Case("context", with_context),
    Case("context_denied", swallow(LimitedError, with_denied_context), 0.3),
    Case("context_raises", swallow(LookupError, with_raising_body)),
    Case("hooks", hooked.limit, 0.1),
    Case("hooks_denied", Throttled(key="shut", quota="1/3650d", hooks=[Watching()]).limit, 0.1),
    Case("quota_by_key", lambda: by_key.limit("key")),
    Case("quota_by_key_as_text", lambda: by_key_text.limit("key"), 0.2),
    Case("decorating", lambda: free(lambda: None), 0.2),
]

if __name__ == "__main__":
    main(CASES)

"""Hooks: code of the user's own around every `limit()` (the middleware of throttled.md's library).

`[A, B]` runs as an onion: A before, B before, the limit itself, B after, A after. The one fact
behind this file: each `call_next` runs what lies below it at most once and remembers the outcome,
so however a hook misbehaves, the quota is consumed at most once.

- A hook that raises is logged and skipped; what lies below it counts.
- A hook that returns something else than a `RateLimitResult` is logged; the real result counts.
- An error of the limiter itself goes through the hooks to the caller, and is not tried again.

`Hook` is for limiters that answer, `AsyncHook` for those that are awaited. Where a limiter with
`Hook`s is met by asynchronous code (`async with`, or a decorated coroutine function), it waits
first, and the hooks then see a decision that has been taken.
"""

import sys
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from headway._core import RateLimitResult
from headway._interrupts import comes_from_a_handler

if TYPE_CHECKING:
    import logging

    from headway._core import Limiter, Quota

__all__ = [
    "AsyncHook",
    "Hook",
    "HookContext",
    "build_hook_chain",
    "check_hooks",
    "enter_async",
    "run_chain",
    "run_chain_async",
]

Limit = Callable[[], RateLimitResult]
AsyncLimit = Callable[[], Awaitable[RateLimitResult]]


@dataclass(frozen=True, slots=True)
class HookContext:
    """What is known before the decision."""

    key: str | bytes
    """Who is limited, without the store's prefix."""
    cost: int
    """How much of the quota this request takes."""
    algorithm: str
    """For example "token_bucket"."""
    store_type: str
    """For example "memory"."""
    quota: "Quota | tuple[Quota, ...] | None" = field(default=None, compare=False)
    """The limiter's, or a tuple of its rules; None where it is found by the key."""


class Hook(ABC):
    """Base of all hooks: override `on_limit`."""

    @abstractmethod
    def on_limit(
        self, call_next: Callable[[], RateLimitResult], context: HookContext
    ) -> RateLimitResult:
        """Take part in one decision.

        `call_next()` runs the hooks further in and then the limiter, the wait included; calling
        it again gives the same result. Return its result, or one of your own.
        """
        raise NotImplementedError


class AsyncHook(ABC):
    """Base of the hooks of `headway.asyncio.Throttled`: override `on_limit`."""

    @abstractmethod
    async def on_limit(self, call_next: AsyncLimit, context: HookContext) -> RateLimitResult:
        """Take part in one decision.

        `await call_next()` runs the hooks further in and then the limiter, the wait included;
        calling it again gives the same result. Return its result, or one of your own.
        """
        raise NotImplementedError


def check_hooks(hooks: Iterable[Any], awaits: bool) -> tuple[Any, ...]:
    """Return the hooks as a tuple; raise TypeError where one is not of the limiter's kind."""
    checked = tuple(hooks)
    wanted, other = (AsyncHook, Hook) if awaits else (Hook, AsyncHook)
    for hook in checked:
        if isinstance(hook, other):
            raise TypeError(
                f"Invalid hook type: {type(hook).__name__}. Expected: {wanted.__name__}, since "
                f"this Throttled is {'awaited' if awaits else 'not awaited'}."
            )
        if not isinstance(hook, wanted):
            raise TypeError(
                f"Invalid hook type: {type(hook).__name__}. Expected: {wanted.__name__}"
            )
    return checked


def run_chain(
    hooks: Sequence[Hook],
    do_limit: Limit,
    key: str | bytes,
    cost: int,
    algorithm: str,
    store_type: str,
    quota: "Quota | tuple[Quota, ...] | None" = None,
) -> RateLimitResult:
    """Take one decision through the hooks; the compiled limiter calls this."""
    return _Next(hooks, 0, do_limit, HookContext(key, cost, algorithm, store_type, quota))()


def build_hook_chain(hooks: Sequence[Hook], do_limit: Limit, context: HookContext) -> Limit:
    """Return a function that takes one decision through the hooks each time it is called."""
    return lambda: _Next(hooks, 0, do_limit, context)()


class _Next:
    """The `call_next` of one place in the chain: everything from `hooks[at]` inwards, once."""

    __slots__ = ("_at", "_context", "_do_limit", "_error", "_hooks", "_result")

    def __init__(
        self, hooks: Sequence[Hook], at: int, do_limit: Limit, context: HookContext
    ) -> None:
        self._hooks = hooks
        self._at = at
        self._do_limit = do_limit
        self._context = context
        self._result: RateLimitResult | None = None
        self._error: BaseException | None = None

    def __call__(self) -> RateLimitResult:
        if self._error is not None:
            raise self._error
        if self._result is None:
            try:
                self._result = self._run()
            except BaseException as error:
                self._error = error
                raise
        return self._result

    def _run(self) -> RateLimitResult:
        if self._at == len(self._hooks):
            return self._do_limit()
        hook = self._hooks[self._at]
        call_next = _Next(self._hooks, self._at + 1, self._do_limit, self._context)
        try:
            result: object = hook.on_limit(call_next, self._context)
        except Exception as error:
            if error is call_next._error or comes_from_a_handler(error):
                raise  # not the hook's: it only let the error pass
            _logger().exception("Hook %r raised during on_limit", hook)
        else:
            if isinstance(result, RateLimitResult):
                return result
            _logger().error(
                "Hook %r returned %r from on_limit, must be a RateLimitResult", hook, result
            )
        return call_next()


async def run_chain_async(
    hooks: Sequence[Hook] | Sequence[AsyncHook],
    do_limit: AsyncLimit,
    key: str | bytes,
    cost: int,
    algorithm: str,
    store_type: str,
    quota: "Quota | tuple[Quota, ...] | None" = None,
) -> RateLimitResult:
    """Take one awaited decision through the hooks; the compiled limiter calls this."""
    context = HookContext(key, cost, algorithm, store_type, quota)
    if isinstance(hooks[0], Hook):
        result = await do_limit()
        return _Next(hooks, 0, lambda: result, context)()  # type: ignore[arg-type]
    return await _AsyncNext(hooks, 0, do_limit, context)()  # type: ignore[arg-type]


async def enter_async(
    limiter: "Limiter", limiting: Awaitable[RateLimitResult]
) -> RateLimitResult | None:
    """Await a decision and raise what the limiter raises when it is a denial."""
    result = await limiting
    if result.limited:
        raise limiter._limited_error(result)
    return None if limiter._silent else result


class _AsyncNext:
    """As `_Next`, for hooks that are awaited.

    Calls at the same time share one run. A cancellation is no outcome: a hook may have cancelled
    its call itself (`asyncio.wait_for`), and the next call goes on. What lies below is kept, so
    that a decision that was taken is not taken again.
    """

    __slots__ = (
        "_at",
        "_below",
        "_context",
        "_do_limit",
        "_ended",
        "_error",
        "_hooks",
        "_is_running",
        "_result",
    )

    def __init__(
        self, hooks: Sequence[AsyncHook], at: int, do_limit: AsyncLimit, context: HookContext
    ) -> None:
        self._hooks = hooks
        self._at = at
        self._do_limit = do_limit
        self._context = context
        self._result: RateLimitResult | None = None
        self._error: Exception | None = None
        self._below: _AsyncNext | None = None
        self._is_running = False
        self._ended: Any = None
        """The event that those wait for who call while it is running."""

    async def __call__(self) -> RateLimitResult:
        while self._is_running:
            if self._ended is None:
                self._ended = _event()
            await self._ended.wait()
        if self._error is not None:
            raise self._error
        if self._result is None:
            try:
                self._is_running = True
                self._result = await self._run()
            except Exception as error:
                self._error = error
                raise
            finally:
                self._is_running = False
                if self._ended is not None:
                    self._ended.set()
                    self._ended = None
        return self._result

    async def _run(self) -> RateLimitResult:
        if self._at == len(self._hooks):
            return await self._do_limit()
        hook = self._hooks[self._at]
        if self._below is None:
            self._below = _AsyncNext(self._hooks, self._at + 1, self._do_limit, self._context)
        call_next = self._below
        try:
            result: object = await hook.on_limit(call_next, self._context)
        except Exception as error:
            if error is call_next._error or comes_from_a_handler(error):
                raise  # not the hook's: it only let the error pass
            _logger().exception("Hook %r raised during on_limit", hook)
        else:
            if isinstance(result, RateLimitResult):
                return result
            _logger().error(
                "Hook %r returned %r from on_limit, must be a RateLimitResult", hook, result
            )
        return await call_next()


def _event() -> Any:
    """An event of the library that runs the event loop."""
    if "trio" in sys.modules:
        from headway._trio import in_trio

        if in_trio():
            return sys.modules["trio"].Event()
    import asyncio

    return asyncio.Event()


def _logger() -> "logging.Logger":
    import logging  # only a hook that misbehaves pays for it

    return logging.getLogger(__name__)

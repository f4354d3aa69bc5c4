"""What `@Throttled(...)` makes of the thing it decorates.

A plain function becomes a compiled `Guarded`, which asks the limiter and calls on. A coroutine
function, a generator function and an async generator function must stay what they are, because
frameworks decide by it, so each gets a real wrapper of its own kind. All of them carry the
function's identity and, as `.limiter`, the limiter.

Who asks when: a function and a coroutine function at the call (the latter when awaited), a
generator when its first value is asked for.
"""

import contextlib
import functools
from collections.abc import AsyncGenerator, Callable, Generator
from types import MethodType
from typing import TYPE_CHECKING, Any

from headway._core import Guarded
from headway.exceptions import DataError

if TYPE_CHECKING:
    from headway._core import Limiter

# Bits of a code object's co_flags; inspect has them too, and costs milliseconds to import.
_GENERATOR, _COROUTINE, _AWAITABLE_GENERATOR, _ASYNC_GENERATOR = 0x20, 0x80, 0x100, 0x200


def decorate(throttled: "Limiter", func: Any) -> Any:
    """Return `func` behind `throttled`; `Throttled.__call__` is this.

    Raises TypeError where `func` cannot be called, DataError where `throttled` has no key.
    """
    if isinstance(func, (classmethod, staticmethod)):
        return type(func)(decorate(throttled, func.__func__))
    if not callable(func):
        raise TypeError(
            f"Throttled(...) decorates a function, method or class, not {func!r} "
            f"of type {type(func).__name__}."
        )
    if not throttled.key:
        raise DataError(f"Invalid key: {throttled.key}, must be a non-empty key.")

    flags = _code_flags(func)
    if flags & _COROUTINE or _marked_as_coroutine(func):
        return _identity(_coroutine(throttled, func), throttled, func)
    if flags & _ASYNC_GENERATOR:
        return _identity(_async_generator(throttled, func), throttled, func)
    if flags & _GENERATOR and not flags & _AWAITABLE_GENERATOR:
        return _identity(_generator(throttled, func), throttled, func)
    guarded: Any = functools.update_wrapper(Guarded(throttled, func), func)
    if not hasattr(guarded, "__annotations__"):
        # Since Python 3.14 update_wrapper copies __annotate__, which only functions evaluate.
        with contextlib.suppress(AttributeError, NameError):
            guarded.__annotations__ = func.__annotations__
    return guarded


def copy_annotations(wrapper: Any, func: Any) -> None:
    """What functools.update_wrapper leaves out since Python 3.14: annotations that were assigned.

    It copies `__annotate__`, which is None or missing where `__annotations__` was assigned, as
    other decorators do, or where `func` is no function of Python.
    """
    if getattr(func, "__annotate__", None) is None:
        with contextlib.suppress(AttributeError, NameError):
            wrapper.__annotations__ = func.__annotations__


def _identity(wrapper: Any, throttled: "Limiter", func: Any) -> Any:
    functools.update_wrapper(wrapper, func)
    copy_annotations(wrapper, func)
    wrapper.limiter = throttled
    return wrapper


def _code_flags(func: Any) -> int:
    """Return the code flags of what runs when `func` is called; 0 where it is not Python."""
    while isinstance(func, (functools.partial, MethodType)):
        func = func.func if isinstance(func, functools.partial) else func.__func__
    code = getattr(func, "__code__", None)
    if code is None and not isinstance(func, type):
        code = getattr(type(func).__call__, "__code__", None)
    return getattr(code, "co_flags", 0)


def _marked_as_coroutine(func: Any) -> bool:
    """Tell whether a library has marked `func` (inspect.markcoroutinefunction, 3.12)."""
    if not hasattr(func, "_is_coroutine_mark"):
        return False
    import inspect

    return inspect.iscoroutinefunction(func)


def _admit(throttled: "Limiter", args: Any, kwargs: Any) -> None:
    result = throttled._acquire(args, kwargs, None)
    if result.limited:
        raise throttled._limited_error(result)


def _coroutine(throttled: "Limiter", func: Callable[..., Any]) -> Callable[..., Any]:
    async def wrapper(*args: Any, **kwargs: Any) -> Any:
        await throttled._acquire_async(args, kwargs)
        return await func(*args, **kwargs)

    return wrapper


def _generator(throttled: "Limiter", func: Callable[..., Any]) -> Callable[..., Any]:
    def wrapper(*args: Any, **kwargs: Any) -> Generator[Any, Any, Any]:
        _admit(throttled, args, kwargs)
        return (yield from func(*args, **kwargs))

    return wrapper


def _async_generator(throttled: "Limiter", func: Callable[..., Any]) -> Callable[..., Any]:
    async def wrapper(*args: Any, **kwargs: Any) -> AsyncGenerator[Any, Any]:
        await throttled._acquire_async(args, kwargs)
        inner = func(*args, **kwargs)
        step = inner.asend(None)
        while True:
            try:
                value = await step
            except StopAsyncIteration:
                return
            # There is no `yield from` here: what the caller sends, throws or closes goes on.
            try:
                sent = yield value
            except GeneratorExit:
                await inner.aclose()
                raise
            except BaseException as error:
                step = inner.athrow(error)
            else:
                step = inner.asend(sent)

    return wrapper

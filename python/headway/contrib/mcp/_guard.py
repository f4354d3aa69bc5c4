"""Where a limit stands: before one function, or before all requests of a server.

A function. What it is called with says nothing of the caller, so it is given the context of its
call: in 1.x the SDK keeps that in a context variable, in 2.x it hands it to a parameter that is
annotated with `Context`, and a function without one gets one here that it does not see.

A server. 2.x has middleware. 1.x has a dictionary of handlers, and what is put into it is wrapped.
"""

import functools
import inspect
from collections.abc import Callable, Collection
from importlib import import_module
from typing import TYPE_CHECKING, Any, get_args

from headway._wrap import copy_annotations
from headway.contrib.mcp import _sdk
from headway.contrib.mcp._call import Call
from headway.contrib.mcp._denial import META, Denial, Denied, RateLimitedError, numbers
from headway.exceptions import SetUpError

if TYPE_CHECKING:
    from headway._core import RateLimitState
    from headway.contrib.mcp._limit import Limit

__all__ = ["decorate", "install"]

CALL_TOOL = "tools/call"
OWN = ("initialize", "ping")
"""What the protocol needs for itself is never counted."""
GIVEN = "headway_context"
REQUESTS = "requests"
"""What the limit of a server is called that has no name."""
UNNAMED = "_headway_unnamed_limits"
"""Where a server says how many of its limits have no name."""


def decorate(limit: "Limit", function: Callable[..., Any]) -> Callable[..., Any]:
    """Return `function` behind `limit`."""
    if not callable(function):
        raise TypeError(f"{type(limit).__name__}(...) decorates a function, not {function!r}.")
    name = getattr(function, "__name__", type(function).__name__)
    what = limit.name or name
    whole = f"{function.__module__}.{getattr(function, '__qualname__', name)}"
    scope = limit.name or whole
    signature = _signature(function)
    given = _context_parameter(signature)
    hidden = given is None and _sdk.IS_V2

    def read(args: Any, kwargs: dict[str, Any]) -> Call:
        context: Any = kwargs.pop(GIVEN, None) if hidden else kwargs.get(given or "")
        if context is None and args and _is_context(args[0]):
            context = args[0]
        return _call_of(context, name, kwargs)

    if inspect.iscoroutinefunction(function):

        async def awaited(*args: Any, **kwargs: Any) -> Any:
            call = read(args, kwargs)
            try:
                async with limit.enter_async(call, scope, what) as turn:
                    result = await function(*args, **kwargs)
                    turn.failed = _is_error(result)
                    return result
            except Denied as denied:
                return _answer(call, denied.denial)

        wrapper: Any = awaited
    else:

        def called(*args: Any, **kwargs: Any) -> Any:
            call = read(args, kwargs)
            try:
                with limit.enter(call, scope, what) as turn:
                    result = function(*args, **kwargs)
                    turn.failed = _is_error(result)
                    return result
            except Denied as denied:
                return _answer(call, denied.denial)

        wrapper = called
    functools.update_wrapper(wrapper, function)
    copy_annotations(wrapper, function)
    if hidden and signature is not None:
        _declare_context(wrapper, signature)
    return wrapper  # type: ignore[no-any-return]


def _answer(call: Call, denial: Denial) -> Any:
    """Tell the caller: a tool returns its error, everything else raises one."""
    if call.method == CALL_TOOL and _sdk.IS_V2:
        return denial.as_result()
    raise RateLimitedError(denial) from None


def _is_error(result: Any) -> bool:
    """Whether a result, in any of the shapes that it has on its way out, tells of an error."""
    result = getattr(result, "root", result)  # of 1.x' ServerResult
    if isinstance(result, dict):
        return result.get("isError") is True
    return True in (getattr(result, "is_error", None), getattr(result, "isError", None))


def _signature(function: Callable[..., Any]) -> inspect.Signature | None:
    try:
        return inspect.signature(function, eval_str=True)
    except (NameError, TypeError, ValueError):  # the SDK has more to say about it
        return None


def _context_parameter(signature: inspect.Signature | None) -> str | None:
    """The name of the parameter that the SDK gives the context to."""
    kind = _sdk.context_class()
    for parameter in signature.parameters.values() if signature else ():
        for each in (parameter.annotation, *get_args(parameter.annotation)):
            if inspect.isclass(each) and issubclass(each, kind):
                return parameter.name
    return None


def _declare_context(wrapper: Any, signature: inspect.Signature) -> None:
    kind = _sdk.context_class()
    given = inspect.Parameter(GIVEN, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=kind)
    parameters = list(signature.parameters.values())
    at = len(parameters) - any(each.kind is each.VAR_KEYWORD for each in parameters)
    parameters.insert(at, given)
    wrapper.__signature__ = signature.replace(parameters=parameters)
    annotations = {each.name: each.annotation for each in parameters}
    annotations["return"] = signature.return_annotation
    wrapper.__annotations__ = {
        name: value for name, value in annotations.items() if value is not signature.empty
    }


def _is_context(value: Any) -> bool:
    return hasattr(value, "request_id") and hasattr(value, "session")


def _call_of(context: Any, name: str, arguments: dict[str, Any]) -> Call:
    """The call that a decorated function serves; of 1.x only the function's name is known."""
    context = getattr(context, "request_context", context)
    if context is None:
        context = _sdk.current_context()
    method = getattr(context, "method", CALL_TOOL)
    params = getattr(context, "params", None)
    return _call(method, context, params, name, arguments)


def _call(
    method: str,
    context: Any,
    params: Any,
    name: str | None = None,
    arguments: dict[str, Any] | None = None,
) -> Call:
    """A call by its parameters as they came in: nobody has checked them yet."""
    known = params if isinstance(params, dict) else {}
    for field in ("name", "uri"):
        if isinstance(known.get(field), str):
            name = known[field]
            break
    sent = known.get("arguments")
    return Call(
        method, name or method, sent if isinstance(sent, dict) else arguments or {}, context
    )


def install(limit: "Limit", server: Any, methods: Collection[str] | None) -> None:
    """Put `limit` before the requests of `server`."""
    if isinstance(methods, str):
        raise SetUpError(f"Invalid methods: {methods!r}, must be several, such as ['tools/call'].")
    inner = getattr(server, "_mcp_server", server)  # FastMCP's own, of 1.x
    handlers = getattr(inner, "request_handlers", None)
    middleware = getattr(inner, "middleware", None)
    if isinstance(middleware, list):
        middleware.append(_middleware(limit, methods, _scope(limit, inner)))
    elif isinstance(handlers, dict):
        inner.request_handlers = _Handlers(handlers, limit, methods, _scope(limit, inner))
    else:
        raise SetUpError(
            f"Invalid server: {server!r}, must be the SDK's MCPServer, FastMCP or Server."
        )


def _scope(limit: "Limit", server: Any) -> str:
    """Under what a server's requests are counted: several limits without a name count apart.

    It is the same in all processes that install them in the same order.
    """
    if limit.name is not None:
        return limit.name
    number: int = getattr(server, UNNAMED, 0) + 1
    setattr(server, UNNAMED, number)
    scope = f"{server.name}:{REQUESTS}"
    return scope if number == 1 else f"{scope}:{number}"


def _counts(method: str, methods: Collection[str] | None) -> bool:
    return method not in OWN if methods is None else method in methods


def _middleware(limit: "Limit", methods: Collection[str] | None, scope: str) -> Any:
    what = limit.name or REQUESTS

    async def middleware(context: Any, call_next: Any) -> Any:
        if context.request_id is None or not _counts(context.method, methods):
            return await call_next(context)
        call = _call(context.method, context, context.params)
        try:
            async with limit.enter_async(call, scope, what) as turn:
                result = await call_next(context)
                turn.failed = _is_error(result)
        except Denied as denied:
            if call.method != CALL_TOOL:
                raise RateLimitedError(denied.denial) from None
            return denied.denial.as_result()
        if turn.state is not None and isinstance(result, dict):
            result["_meta"] = _with_numbers(result.get("_meta"), turn.state)
        return result

    return middleware


def _with_numbers(meta: Any, state: "RateLimitState") -> dict[str, Any]:
    """`meta` with the numbers of this limit, or of the tightest where there are several.

    Those of a denial stay.
    """
    told: dict[str, Any] = meta if isinstance(meta, dict) else {}
    known = told.get(META)
    if isinstance(known, dict) and (
        "error" in known or known.get("remaining", state.remaining) < state.remaining
    ):
        return told
    return {**told, META: numbers(state)}


class _Handlers(dict[Any, Any]):
    """The handlers of a server of 1.x, each behind a limit, those to come included."""

    def __init__(
        self,
        handlers: dict[Any, Any],
        limit: "Limit",
        methods: Collection[str] | None,
        scope: str,
    ) -> None:
        super().__init__()
        self._inner = handlers
        """Of another limit perhaps, which what comes later must pass too."""
        self._limit = limit
        self._methods = methods
        self._scope = scope
        for kind in handlers:
            self._put(kind)

    def __setitem__(self, kind: Any, handler: Any) -> None:
        self._inner[kind] = handler
        self._put(kind)

    def _put(self, kind: Any) -> None:
        handler = self._inner[kind]
        method = kind.model_fields["method"].default
        if method is not None and _counts(method, self._methods):
            handler = self._guarded(method, handler)
        super().__setitem__(kind, handler)

    def _guarded(self, method: str, handler: Any) -> Any:
        limit, scope = self._limit, self._scope
        what = limit.name or REQUESTS

        @functools.wraps(handler)
        async def guarded(request: Any) -> Any:
            if request is None:  # the server asks itself
                return await handler(request)
            params = getattr(request, "params", None)
            sent = {} if params is None else params.model_dump(mode="json", by_alias=True)
            call = _call(method, _sdk.current_context(), sent)
            try:
                async with limit.enter_async(call, scope, what) as turn:
                    result = await handler(request)
                    turn.failed = _is_error(result)
            except Denied as denied:
                if method != CALL_TOOL:
                    raise RateLimitedError(denied.denial) from None
                types: Any = import_module("mcp.types")
                return types.ServerResult(denied.denial.as_result())
            if turn.state is not None:
                result.root.meta = _with_numbers(result.root.meta, turn.state)
            return result

        return guarded

"""Limits for Django: a middleware for all requests, a decorator for views, under WSGI and ASGI.

    # settings.py
    MIDDLEWARE = [..., "headway.contrib.django.RateLimitMiddleware"]
    HEADWAY = {
        "LIMITS": ["100/minute", Rule("5/minute", name="login", paths="/login", methods="POST")],
        "STORE": "redis://localhost:6379/0",
    }

    # views.py
    from headway.contrib.django import exempt, limit, user

    @limit("10/minute", key=user())
    def search(request): ...

The keys of HEADWAY are the arguments of `RateLimitMiddleware`'s policy in capitals: LIMITS, KEY,
STORE, HEADERS, RESET, DRY_RUN, ON_ERROR, EXEMPT, ON_LIMITED; what is callable may be given by its
dotted name. The middleware stands behind Django's AuthenticationMiddleware where users are keys.
Callables of your own are given the `HttpRequest`.

A decision under ASGI is awaited, and one under WSGI is not; both count in the same store.
"""

import functools
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, TypeVar

from headway.contrib._bare import refuse_bare
from headway.contrib._keys import KeyFunction, api_key, client_address, combine, route, user
from headway.contrib._policy import Policy, checked_on_limited, refuse_coroutine
from headway.contrib._rules import Concurrency, Rule, RuleLike
from headway.contrib._verdict import Verdict
from headway.contrib._views import rules_of_view, settled
from headway.contrib.wsgi import VERDICTS
from headway.exceptions import SetUpError

try:
    from asgiref.sync import iscoroutinefunction, markcoroutinefunction, sync_to_async
    from django.http import HttpRequest, HttpResponse

    from headway.contrib._django_settings import USUAL, Configured, configured
except ImportError as missing:
    if (missing.name or "").partition(".")[0] not in ("django", "asgiref"):
        raise
    raise ImportError(
        'headway.contrib.django needs Django: pip install "headway[django]"', name=missing.name
    ) from missing

if TYPE_CHECKING:
    from django.http.response import HttpResponseBase

__all__ = [
    "Concurrency",
    "KeyFunction",
    "RateLimitMiddleware",
    "Rule",
    "Verdict",
    "api_key",
    "client_address",
    "combine",
    "exempt",
    "limit",
    "route",
    "user",
]

EXEMPT = "headway_exempt"
"""A view that has this is not limited by the middleware. Wrappers inherit it."""
_exempt_views = 0

_V = TypeVar("_V", bound=Callable[..., Any])
OnLimited = Callable[["HttpRequest", Verdict], "HttpResponseBase | None"]


class _NeedsUser(BaseException):
    """Somebody asked who is logged in, and under ASGI that has to be awaited first.

    It passes what handles errors of the user's own callables.
    """


class RequestFacts:
    """What a limit may know of a request, as Django knows it."""

    __slots__ = ("_awaits", "request")

    def __init__(self, request: "HttpRequest", awaits: bool) -> None:
        self.request = request
        self._awaits = awaits

    @property
    def method(self) -> str:
        return (self.request.method or "GET").upper()

    @property
    def path(self) -> str:
        return self.request.path_info

    def address(self) -> str | None:
        return self.request.META.get("REMOTE_ADDR") or None

    def header(self, name: str) -> str | None:
        return self.request.headers.get(name)

    def query(self, name: str) -> str | None:
        values = self.request.GET.getlist(name)
        return str(values[0]) if values else None

    def route(self) -> str:
        match = self.request.resolver_match
        return self.path if match is None else f"/{match.route}"

    def user(self) -> str | None:
        if self._awaits:
            if not hasattr(self.request, "user"):
                return None
            known: Any = getattr(self.request, "_headway_user", None)
            if known is None:
                raise _NeedsUser
        else:
            known = getattr(self.request, "user", None)
        if not known or not known.is_authenticated:
            return None
        return str(known.pk)


class _Guard:
    """A policy for both worlds, and the answer of a request that it denies."""

    def __init__(
        self,
        limits: Any,
        options: dict[str, Any],
        on_limited: OnLimited | None,
        refuse_coroutines: bool = False,
    ) -> None:
        options = {**options, "refuse_coroutines": refuse_coroutines}
        self._policies = {
            awaits: Policy(limits, awaits=awaits, **options) for awaits in (False, True)
        }
        if refuse_coroutines and on_limited is not None:
            refuse_coroutine("on_limited", on_limited)
        self._on_limited = on_limited

    def decide(self, request: "HttpRequest") -> Verdict:
        verdict = self._policies[False].decide(RequestFacts(request, False))
        _verdicts(request).append(verdict)
        return verdict

    async def decide_async(self, request: "HttpRequest") -> Verdict:
        policy, facts = self._policies[True], RequestFacts(request, True)
        try:
            verdict = await policy.decide_async(facts)
        except _NeedsUser:
            # Keys are made before any store is asked, so nothing was taken.
            request._headway_user = await _awaited_user(request)  # type: ignore[attr-defined]
            verdict = await policy.decide_async(facts)
        _verdicts(request).append(verdict)
        return verdict

    def denied(self, request: "HttpRequest", verdict: Verdict) -> Any:
        if self._on_limited is not None:
            answer = self._on_limited(request, verdict)
            if answer is not None:
                return answer
        return self._usual(request, verdict)

    def _usual(self, request: "HttpRequest", verdict: Verdict) -> HttpResponse:
        content_type, body = verdict.body(request.headers.get("accept"))
        return HttpResponse(body, status=verdict.status, content_type=content_type)

    async def denied_async(self, request: "HttpRequest", verdict: Verdict) -> Any:
        """The same, where on_limited may be a coroutine function."""
        answer: Any = None
        if self._on_limited is not None:
            answer = self._on_limited(request, verdict)
            if hasattr(answer, "__await__"):
                answer = await answer
        return self._usual(request, verdict) if answer is None else answer

    def counts(self) -> dict[str, dict[str, int]]:
        """As `Policy.counts`, of both."""
        one, other = (self._policies[awaits].counts() for awaits in (False, True))
        return {
            rule: {what: count + other[rule][what] for what, count in counts.items()}
            for rule, counts in one.items()
        }


async def _awaited_user(request: Any) -> Any:
    if hasattr(request, "auser"):
        return await request.auser()
    return await sync_to_async(lambda: request.user.is_authenticated and request.user)()


class RateLimitMiddleware:
    """Limits all requests as HEADWAY["LIMITS"] says, and tells of views' own limits too.

    A response of any kind has the fields, one from a cache or another middleware further in as
    well. Raises SetUpError where HEADWAY is not usable, when the server starts.
    """

    sync_capable = True
    async_capable = True

    def __init__(self, get_response: Callable[..., Any]) -> None:
        self.get_response = get_response
        said = configured()
        limits = said.limits
        self._async = iscoroutinefunction(get_response)
        self._guard = None
        if limits is not None:
            self._guard = _Guard(limits, said.options, said.on_limited, not self._async)
        if self._async:
            markcoroutinefunction(self)

    def __call__(self, request: "HttpRequest") -> Any:
        if self._async:
            return self._call_async(request)
        try:
            response = None
            if self._guard is not None and not _is_exempt(request):
                verdict = self._guard.decide(request)
                if not verdict.allowed:
                    response = self._guard.denied(request, verdict)
            if response is None:
                response = self.get_response(request)
        except BaseException:
            for verdict in _verdicts(request):
                verdict.release()
            raise
        return _tell(request, response)

    async def _call_async(self, request: "HttpRequest") -> Any:
        try:
            response = None
            if self._guard is not None and not _is_exempt(request):
                verdict = await self._guard.decide_async(request)
                if not verdict.allowed:
                    response = await self._guard.denied_async(request, verdict)
            if response is None:
                response = await self.get_response(request)
        except BaseException:
            for verdict in _verdicts(request):
                await verdict.release_async()
            raise
        return _tell(request, response, awaits=True)

    def counts(self) -> dict[str, dict[str, int]]:
        """How many each rule denied, would have denied in a dry run, and could not decide."""
        return {} if self._guard is None else self._guard.counts()


def limit(
    limits: "RuleLike | Iterable[RuleLike] | Callable[[HttpRequest], Any]",
    *,
    name: str | None = None,
    on_limited: OnLimited | None = None,
    **options: Any,
) -> Callable[[_V], _V]:
    """Limit a view, plain or `async def`, a class of views, or a method by `method_decorator`.

    limits: quotas and rules; all that match must admit, besides those of the middleware. name: in
    header fields, by default the view's. on_limited: a callable of request and verdict that returns
    the response, or None. The other options are key, store, headers, reset, dry_run, on_error and
    exempt; what is not given is as HEADWAY says. Each view has counts of its own.
    """
    refuse_bare(limits)
    for option in options:
        if option not in USUAL:
            raise TypeError(f"limit() got an unexpected keyword argument {option!r}")

    guards: dict[object, _Lazy] = {}

    def decorate(view: Any) -> Any:
        if not callable(view):
            raise TypeError(f"limit() decorates a view, not {view!r}.")
        owner = getattr(getattr(view, "func", view), "__self__", None)
        awaits = iscoroutinefunction(view) or any(
            getattr(one, "view_is_async", False) for one in (owner, view)
        )
        whole = view.__module__, getattr(view, "__qualname__", None)
        guard = guards.get(whole)  # method_decorator decorates anew with every call
        if guard is None:
            rules = rules_of_view(view, limits, name)
            Policy(rules, awaits=awaits, **options)  # says now what is wrong
            if checked_on_limited(on_limited) is not None and not awaits:
                refuse_coroutine("on_limited", on_limited)
            guard = guards.setdefault(whole, _Lazy(rules, options, on_limited))
        if isinstance(view, type):
            dispatch = view.dispatch  # type: ignore[attr-defined]
            view.dispatch = _limited_method(dispatch, guard)  # type: ignore[attr-defined]
            return view
        return (_limited_async if awaits else _limited)(view, guard)

    return decorate


def exempt(view: _V) -> _V:
    """Take a view out of the limits of the middleware; its own decorators still count."""
    global _exempt_views
    setattr(view, EXEMPT, True)
    _exempt_views += 1
    return view


class _Lazy:
    """A view's guard, made when it is first needed: views are imported before settings may be."""

    def __init__(
        self, rules: list[Any], options: dict[str, Any], on_limited: OnLimited | None
    ) -> None:
        self._rules, self._options, self._on_limited = rules, options, on_limited
        self._made: tuple[Configured, _Guard] | None = None

    def __call__(self) -> _Guard:
        said = configured()
        if self._made is None or self._made[0] is not said:
            options = {**said.options, "exempt": None, **self._options}
            guard = _Guard(self._rules, options, self._on_limited or said.on_limited)
            self._made = said, guard
        return self._made[1]


def _limited(view: Any, lazy: _Lazy) -> Any:
    @functools.wraps(view)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        guard, request = lazy(), _request_of(view, args, kwargs)
        verdict = guard.decide(request)
        try:
            response = view(*args, **kwargs) if verdict.allowed else guard.denied(request, verdict)
        except BaseException:
            verdict.release()
            raise
        return _tell(request, response, verdict)

    return wrapper


def _limited_async(view: Any, lazy: _Lazy) -> Any:
    @functools.wraps(view)
    async def wrapper(*args: Any, **kwargs: Any) -> Any:
        guard, request = lazy(), _request_of(view, args, kwargs)
        verdict = await guard.decide_async(request)
        try:
            if verdict.allowed:
                response = await view(*args, **kwargs)
            else:
                response = await guard.denied_async(request, verdict)
        except BaseException:
            await verdict.release_async()
            raise
        return _tell(request, response, verdict, awaits=True)

    return wrapper


def _request_of(view: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> "HttpRequest":
    """The request that a view is called with: its first argument, or that of a method after `self`.

    A request of Django REST framework has Django's own in it.
    """
    for value in (*args[:2], kwargs.get("request")):
        found = getattr(value, "_request", value)
        if isinstance(found, HttpRequest):
            return found
    raise SetUpError(
        f"The view {getattr(view, '__qualname__', view)!r} was called without a request, which "
        "limit() needs to tell who is limited."
    )


def _limited_method(dispatch: Any, lazy: _Lazy) -> Any:
    """A class' `dispatch`, which returns a coroutine where its views are coroutine functions."""

    @functools.wraps(dispatch)
    def wrapper(self: Any, request: Any, *args: Any, **kwargs: Any) -> Any:
        bound = functools.partial(dispatch, self)
        limited = _limited_async if getattr(self, "view_is_async", False) else _limited
        return limited(bound, lazy)(request, *args, **kwargs)

    return wrapper


def _is_exempt(request: "HttpRequest") -> bool:
    """Whether the view that is going to serve the request says so: middleware comes before it.

    Finding the view costs as much as all else here, so it is done only where some view is exempt;
    which is known when all of them are imported.
    """
    from django.urls import Resolver404, get_resolver, resolve

    urlconf = getattr(request, "urlconf", None)
    if not _exempt_views:
        _ = get_resolver(urlconf).url_patterns
        if not _exempt_views:
            return False
    try:
        view: Any = resolve(request.path_info, urlconf).func
    except Resolver404:
        return False
    kinds = (getattr(view, name, None) for name in ("view_class", "cls"))  # Django's, and DRF's
    return hasattr(view, EXEMPT) or any(hasattr(kind, EXEMPT) for kind in kinds)


def _verdicts(request: Any) -> list[Verdict]:
    """What was decided on a request; a WSGI middleware around Django tells of it too."""
    found: list[Verdict] | None = getattr(request, "_headway_verdicts", None)
    if found is None:
        found = request.META.get(VERDICTS)
        if found is None:
            found = []
        request._headway_verdicts = found
    return found


def _tell(request: Any, response: Any, own: Verdict | None = None, awaits: bool = False) -> Any:
    """Add the fields to a response of any kind, and hold the permits as long as it lasts.

    own: the verdict of a decorator. What is around it may still make another response of this one,
    unless nothing is: then it was the first to decide.
    """
    verdicts = _verdicts(request)
    outermost = own is None or verdicts[0] is own
    for name, value in settled(verdicts, response.status_code if outermost else 200):
        response.headers[name] = value
    for verdict in verdicts:
        if verdict.permits:
            _release_when_closed(request, response, verdict, awaits)
    return response


def _release_when_closed(request: Any, response: Any, verdict: Verdict, awaits: bool) -> None:
    """Give the permits back at the response's end; or the request's, where a middleware further out
    makes a response of its own instead: Django closes the last one, and with it the request.
    """
    permits, verdict.permits = verdict.permits, []
    held = Verdict(verdict.headers, verdict.reset)
    held.permits = permits
    release = held.release
    if awaits:
        import asyncio

        loop = asyncio.get_running_loop()

        def release() -> None:  # Django closes responses in a thread
            if loop.is_closed():  # under WSGI, where a view has a loop for itself
                asyncio.run(held.release_async())
            else:
                asyncio.run_coroutine_threadsafe(held.release_async(), loop)

    def then_release(close: Callable[[], None]) -> Callable[[], None]:
        def closing() -> None:
            try:
                close()
            finally:
                release()

        return closing

    response.close = then_release(response.close)
    request.close = then_release(request.close)

"""Limits for Flask: for an application, its blueprints and its views.

    from headway.contrib.flask import RateLimit, Rule, user

    limits = RateLimit(app, "100/minute", store="redis://localhost:6379/0")

    @app.get("/search")
    @limits.limit("5/minute", key=user())
    def search(): ...

    @app.get("/health")
    @limits.exempt
    def health(): ...

The application's limits are asked before a request is dispatched, a view's own when the view is
called. A request that is denied raises `RateLimitExceeded`, status 429, which Flask answers by
itself or hands to `@app.errorhandler(429)`; where the store cannot answer it is
`LimitsUnavailable`, 503. Callables of your own are given the request.
"""

import functools
import sys
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, TypeVar
from weakref import WeakKeyDictionary, WeakSet

from headway.contrib._bare import refuse_bare
from headway.contrib._keys import (
    KeyFunction,
    KeyLike,
    api_key,
    client_address,
    combine,
    route,
    user,
)
from headway.contrib._policy import Policy, checked_on_limited, store_of
from headway.contrib._query import first_value
from headway.contrib._rules import Concurrency, Exempt, Rule, RuleLike
from headway.contrib._verdict import Verdict
from headway.contrib._views import rules_of_view, settled
from headway.contrib.wsgi import VERDICTS
from headway.exceptions import LimitedError, SetUpError

try:
    from flask import Blueprint, current_app, request
    from werkzeug.exceptions import ServiceUnavailable, TooManyRequests
    from werkzeug.wrappers import Response as WerkzeugResponse
    from werkzeug.wsgi import ClosingIterator
except ImportError as missing:
    if (missing.name or "").partition(".")[0] not in ("flask", "werkzeug"):
        raise
    raise ImportError(
        'headway.contrib.flask needs Flask: pip install "headway[flask]"', name=missing.name
    ) from missing

if TYPE_CHECKING:
    from flask import Flask, Request, Response

__all__ = [
    "Concurrency",
    "KeyFunction",
    "LimitsUnavailable",
    "RateLimit",
    "RateLimitExceeded",
    "Rule",
    "Verdict",
    "api_key",
    "client_address",
    "combine",
    "route",
    "user",
]

EXTENSION = "headway"
HELD = "headway.held"
"""Where in `environ` it says that the response gives the permits back."""
EXEMPT = "_headway_exempt"
"""A view function that has this is not limited but by its own decorators. Wrappers inherit it."""
CONFIG = ("limits", "key", "store", "headers", "reset", "dry_run", "on_error", "exempt")
"""What an application's configuration may say, as HEADWAY_LIMITS and so on."""

_V = TypeVar("_V")
OnLimited = Callable[["Request", Verdict], Any]


class RateLimitExceeded(TooManyRequests, LimitedError):
    """A request was denied. `verdict` tells by which rule, and what to answer."""

    def __init__(self, verdict: Verdict) -> None:
        TooManyRequests.__init__(self, verdict.detail)
        self.rate_limit_result = None if verdict.denied is None else verdict.denied.result
        self.verdict = verdict

    def get_response(self, *args: Any, **kwargs: Any) -> Any:
        return _response(self.verdict)


class LimitsUnavailable(ServiceUnavailable):
    """The store of the limits cannot answer, and on_error is "deny"."""

    def __init__(self, verdict: Verdict) -> None:
        super().__init__(verdict.detail)
        self.verdict = verdict
        self.__cause__ = verdict.error

    def get_response(self, *args: Any, **kwargs: Any) -> Any:
        return _response(self.verdict)


class RequestFacts:
    """What a limit may know of a request, as Flask knows it."""

    __slots__ = ("request",)

    def __init__(self, request: "Request") -> None:
        self.request = request

    @property
    def method(self) -> str:
        return self.request.method

    @property
    def path(self) -> str:
        path = self.request.path
        rule = self.request.url_rule
        if rule is not None and not rule.strict_slashes and path != "/":
            # The router takes the path with a slash at its end and without.
            path = path.removesuffix("/") + ("/" if rule.rule.endswith("/") else "")
        return path

    def address(self) -> str | None:
        return self.request.remote_addr or None

    def header(self, name: str) -> str | None:
        return self.request.headers.get(name)

    def query(self, name: str) -> str | None:
        return first_value(self.request.query_string.decode("latin-1"), name)

    def route(self) -> str:
        rule = self.request.url_rule
        return self.path if rule is None else rule.rule

    def user(self) -> str | None:
        """Flask-Login's user where that is used, else whom the server has logged in."""
        login: Any = sys.modules.get("flask_login")
        if login is not None and hasattr(current_app, "login_manager"):
            known = login.current_user
            return str(known.get_id()) if known.is_authenticated else None
        return self.request.environ.get("REMOTE_USER") or None


class _Guard:
    """One policy of an application: for all of it, for a blueprint, or for a view."""

    __slots__ = ("on_limited", "policy")

    def __init__(self, policy: Policy, on_limited: OnLimited | None) -> None:
        self.policy = policy
        self.on_limited = on_limited

    def check(self) -> Any:
        """Let the request pass, or raise, or return what on_limited says."""
        verdict = self.policy.decide(RequestFacts(request))
        _verdicts().append(verdict)
        if verdict.allowed:
            return None
        if self.on_limited is not None:
            answer = self.on_limited(request, verdict)
            if answer is not None:
                return answer
        raise RateLimitExceeded(verdict) if verdict.status == 429 else LimitsUnavailable(verdict)


class _Application:
    """The limits of one application; they are made when first needed, with its configuration."""

    def __init__(self, options: dict[str, Any], on_limited: OnLimited | None) -> None:
        limits = options.pop("limits")
        options["store"] = store_of(options["store"])
        self.options = options
        self.whole: _Guard | None = None
        if limits is not None:
            self.whole = _Guard(Policy(limits, **options), on_limited)
        self.on_limited = on_limited
        self.guards: dict[object, _Guard] = {}

    def guard(self, source: "_Source") -> _Guard:
        found = self.guards.get(source)
        if found is None:
            options = {**self.options, "exempt": None, **source.options}
            made = _Guard(Policy(source.rules, **options), source.on_limited or self.on_limited)
            found = self.guards.setdefault(source, made)
        return found


class _Source:
    """What a decorator was given. Each application makes a policy of it."""

    def __init__(
        self, rules: list[Any], options: dict[str, Any], on_limited: OnLimited | None
    ) -> None:
        self.rules, self.options = rules, options
        self.on_limited: OnLimited | None = checked_on_limited(on_limited)
        Policy(rules, **options)  # says now what is wrong


class RateLimit:
    """The extension. `RateLimit(app, …)`, or `RateLimit(limits=…)` and `init_app(app)`.

    limits: quotas and rules for the whole application, or None for what decorators say alone.
    key: who is limited, by default the client's address; behind a proxy, use
    `client_address(trusted_proxies=…)` or werkzeug's ProxyFix. store: a store or URL; by default
    the counts are in this process, so each worker has its own. headers: "both", "ietf", "x" or
    "none". reset: whether X-RateLimit-Reset is "after" now or "at" a Unix time. dry_run: decide and
    log only. on_error: "deny" (503), "allow" or "raise" when the store cannot answer. exempt:
    paths, and callables of the request. on_limited: a callable of request and verdict that returns
    what a view may return, or None. What is not given is read from the application's configuration:
    HEADWAY_LIMITS, HEADWAY_STORE and so on.
    """

    def __init__(
        self,
        app: "Flask | None" = None,
        limits: "RuleLike | Iterable[RuleLike] | Callable[[Request], Any] | None" = None,
        *,
        key: KeyLike | None = None,
        store: object = None,
        headers: str | None = None,
        reset: str | None = None,
        dry_run: bool | None = None,
        on_error: str | None = None,
        exempt: "Exempt | Iterable[Exempt] | None" = None,
        on_limited: OnLimited | None = None,
    ) -> None:
        given = (limits, key, store, headers, reset, dry_run, on_error, exempt)
        self._given = dict(zip(CONFIG, given, strict=True))
        self._on_limited: OnLimited | None = checked_on_limited(on_limited)
        # By the blueprint itself: an application registers it under any name, or under several.
        self._blueprints: WeakKeyDictionary[Any, list[_Source]] = WeakKeyDictionary()
        self._exempt: WeakSet[Any] = WeakSet()
        if app is not None:
            self.init_app(app)

    def init_app(self, app: "Flask") -> None:
        """Put the limits before `app`. Raises SetUpError where that was done already."""
        if EXTENSION in app.extensions:
            raise SetUpError(
                f"{app!r} has a RateLimit already: give one RateLimit several rules instead."
            )
        options = {
            name: app.config.get(f"HEADWAY_{name.upper()}") if value is None else value
            for name, value in self._given.items()
        }
        for name, usual in (
            ("headers", "both"),
            ("reset", "after"),
            ("dry_run", False),
            ("on_error", "deny"),
        ):
            options[name] = usual if options[name] is None else options[name]
        app.extensions[EXTENSION] = _Application(options, self._on_limited)
        app.before_request(self._before)
        app.after_request(_tell)
        app.teardown_request(_release)

    def limit(
        self,
        limits: "RuleLike | Iterable[RuleLike] | Callable[[Request], Any]",
        *,
        name: str | None = None,
        on_limited: OnLimited | None = None,
        **options: Any,
    ) -> Callable[[_V], _V]:
        """Limit a view, plain or `async def`, or a blueprint, besides what limits all.

        Stands below the line that makes the route. The options are those of `RateLimit`; what is
        not given is as it is there. Each view and blueprint has counts of its own.
        """
        refuse_bare(limits)
        for option in options:
            if option not in CONFIG[1:]:
                raise TypeError(f"limit() got an unexpected keyword argument {option!r}")

        def decorate(view: Any) -> Any:
            if isinstance(view, Blueprint):
                rules = rules_of_view(view, limits, name)
                source = _Source(rules, options, on_limited)
                self._blueprints.setdefault(view, []).append(source)
                return view
            if not callable(view):
                raise TypeError(f"limit() decorates a view or a blueprint, not {view!r}.")
            source = _Source(rules_of_view(view, limits, name), options, on_limited)

            @functools.wraps(view)
            def wrapper(*args: Any, **kwargs: Any) -> Any:
                answer = self._application().guard(source).check()
                if answer is not None:
                    return answer
                return current_app.ensure_sync(view)(*args, **kwargs)

            return wrapper

        return decorate

    def exempt(self, view: _V) -> _V:
        """Take a view, a class of views or a blueprint out of the limits of the application and of
        its blueprints.
        """
        if isinstance(view, Blueprint):
            self._exempt.add(view)
        else:
            setattr(view, EXEMPT, True)
        return view

    def counts(self) -> dict[str, dict[str, int]]:
        """What the application's own rules denied since this process started, by rule."""
        whole = self._application().whole
        return {} if whole is None else whole.policy.counts()

    def _application(self) -> _Application:
        found = current_app.extensions.get(EXTENSION)
        if found is None:
            raise SetUpError(
                f"{current_app.name!r} has no RateLimit: call init_app(app) before requests come."
            )
        return found  # type: ignore[no-any-return]

    def _before(self) -> Any:
        application = self._application()
        view = current_app.view_functions.get(request.endpoint or "")
        if getattr(view, EXEMPT, False) or getattr(_class_of(view), EXEMPT, False):
            return None
        known = current_app.blueprints
        blueprints = [known[name] for name in reversed(request.blueprints) if name in known]
        if any(blueprint in self._exempt for blueprint in blueprints):
            return None
        guards = [] if application.whole is None else [application.whole]
        for blueprint in blueprints:
            guards += map(application.guard, self._blueprints.get(blueprint) or ())
        for guard in guards:
            answer = guard.check()
            if answer is not None:
                return answer
        return None


def _class_of(view: Any) -> Any:
    """The class of a view that `as_view` made; None for a function."""
    return getattr(view, "view_class", None)


def _verdicts() -> list[Verdict]:
    """What was decided on this request; with a WSGI middleware around, its verdicts too.

    `flask.g` would not do: requests that are made in one application context share it.
    """
    found: list[Verdict] = request.environ.setdefault(VERDICTS, [])
    return found


def _tell(response: "Response") -> "Response":
    """Add the fields to a response of any kind, and hold the permits as long as its body lasts."""
    verdicts = _verdicts()
    for name, value in settled(verdicts, response.status_code):
        response.headers[name] = value
    for verdict in verdicts:
        if verdict.permits:
            response.call_on_close(verdict.release)
    if any(verdict.permits for verdict in verdicts):
        request.environ[HELD] = True
        if response.direct_passthrough:  # a file: werkzeug gives the server the body alone to close
            releases = [verdict.release for verdict in verdicts]
            body: Iterable[Any] = response.response
            response.response = ClosingIterator(body, releases)
    return response


def _release(error: BaseException | None = None) -> None:
    """Where no response was made, nothing else gives the permits back."""
    if HELD not in request.environ:
        for verdict in _verdicts():
            verdict.release()


def _response(verdict: Verdict) -> WerkzeugResponse:
    accept = request.headers.get("accept") if request else None
    content_type, body = verdict.body(accept)
    return WerkzeugResponse(body, verdict.status, content_type=content_type)

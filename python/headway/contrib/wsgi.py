"""Limits before any WSGI application, with nothing but the standard library.

    from headway.contrib.wsgi import RateLimitMiddleware

    application = RateLimitMiddleware(application, "100/minute")

    application = RateLimitMiddleware(
        application,
        [Rule("1000/hour", key=api_key()), Rule("5/minute", name="login", paths="/login")],
        store="redis://localhost:6379/0",
    )

A request that is denied never reaches the application. Callables of your own (keys, quotas, costs,
exemptions) are given the `environ`.
"""

from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any

from headway.contrib._keys import (
    KeyFunction,
    KeyLike,
    api_key,
    client_address,
    combine,
    route,
    user,
)
from headway.contrib._policy import Policy, checked_on_limited
from headway.contrib._query import first_value
from headway.contrib._rules import Concurrency, Exempt, Rule, RuleLike
from headway.contrib._verdict import Verdict
from headway.contrib._views import settled

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIApplication, WSGIEnvironment

__all__ = [
    "Concurrency",
    "EnvironFacts",
    "KeyFunction",
    "RateLimitMiddleware",
    "Rule",
    "Verdict",
    "api_key",
    "client_address",
    "combine",
    "route",
    "user",
]

VERDICTS = "headway.verdicts"
"""Where in `environ` the verdicts on a request are collected: who is outermost tells them all."""

STATUS = {429: "429 Too Many Requests", 503: "503 Service Unavailable"}

OnLimited = Callable[["WSGIEnvironment", Verdict], "WSGIApplication | None"]


class EnvironFacts:
    """What a limit may know of a request, read from its `environ`."""

    __slots__ = ("request",)

    def __init__(self, environ: "WSGIEnvironment") -> None:
        self.request = environ

    @property
    def method(self) -> str:
        return str(self.request["REQUEST_METHOD"]).upper()

    @property
    def path(self) -> str:
        """Frameworks (werkzeug) take several slashes at the beginning for one."""
        return "/" + _text(self.request.get("PATH_INFO", "")).lstrip("/")

    def address(self) -> str | None:
        return self.request.get("REMOTE_ADDR") or None

    def header(self, name: str) -> str | None:
        field = name.upper().replace("-", "_")
        if field not in ("CONTENT_TYPE", "CONTENT_LENGTH"):
            field = f"HTTP_{field}"
        value: str | None = self.request.get(field)
        return value

    def query(self, name: str) -> str | None:
        return first_value(self.request.get("QUERY_STRING", ""), name)

    def route(self) -> str:
        return _text(self.request.get("SCRIPT_NAME", "")) + self.path.removesuffix("\n")

    def user(self) -> str | None:
        return self.request.get("REMOTE_USER") or None


def _text(value: str) -> str:
    """What WSGI gives: bytes, each as the character of Latin-1."""
    return value.encode("latin-1", "replace").decode("utf-8", "replace")


class RateLimitMiddleware:
    """A WSGI application before another one, that lets through what its limits admit.

    limits: quotas and rules; all that match a request must admit it. key: who is limited where a
    rule does not say, by default the client's address. store: a store or URL; by default the counts
    are in this process, so each worker has its own. headers: "both", "ietf", "x" or "none". reset:
    whether X-RateLimit-Reset is in seconds "after" now or "at" a Unix time. dry_run: decide and log
    only. on_error: "deny" (503), "allow" or "raise" when the store cannot answer. exempt: paths,
    and callables of the environ, that nothing is for. on_limited: a callable of environ and
    verdict, which returns the WSGI application that answers instead, or None for the usual answer.
    """

    def __init__(
        self,
        app: "WSGIApplication",
        limits: "RuleLike | Iterable[RuleLike] | Callable[[WSGIEnvironment], Any]",
        *,
        key: KeyLike | None = None,
        store: object = None,
        headers: str = "both",
        reset: str = "after",
        dry_run: bool = False,
        on_error: str = "deny",
        exempt: "Exempt | Iterable[Exempt] | None" = None,
        on_limited: OnLimited | None = None,
    ) -> None:
        self.app = app
        self.policy = Policy(
            limits,  # type: ignore[arg-type]
            key=key,
            store=store,
            headers=headers,
            reset=reset,
            dry_run=dry_run,
            on_error=on_error,
            exempt=exempt,
        )
        self._on_limited: OnLimited | None = checked_on_limited(on_limited)

    def __call__(
        self, environ: "WSGIEnvironment", start_response: "StartResponse"
    ) -> Iterable[bytes]:
        facts = EnvironFacts(environ)
        verdict = self.policy.decide(facts)
        outer: list[Verdict] | None = environ.get(VERDICTS)
        if outer is None:
            verdicts = environ[VERDICTS] = [verdict]
            start_response = _telling(verdicts, start_response)
        else:
            outer.append(verdict)
        try:
            if verdict.allowed:
                body = self.app(environ, start_response)
            else:
                body = self._denied(facts, verdict, start_response)
        except BaseException:
            verdict.release()
            raise
        return _Held(body, verdict) if verdict.permits else body

    def _denied(
        self, facts: EnvironFacts, verdict: Verdict, start_response: "StartResponse"
    ) -> Iterable[bytes]:
        if self._on_limited is not None:
            answer = self._on_limited(facts.request, verdict)
            if answer is not None:
                return answer(facts.request, start_response)
        content_type, body = verdict.body(facts.header("accept"))
        fields = [("Content-Type", content_type), ("Content-Length", str(len(body)))]
        start_response(STATUS[verdict.status], fields)
        return [] if facts.method == "HEAD" else [body]


def _telling(verdicts: list[Verdict], start_response: "StartResponse") -> "StartResponse":
    """A `start_response` that adds what the verdicts have to tell, those to come included."""

    def start(status: str, fields: list[tuple[str, str]], exc_info: Any = None) -> Any:
        added = settled(verdicts, int(status[:3]))
        if added:
            names = {name for name, _ in added}
            fields = [field for field in fields if field[0].lower() not in names] + added
        if exc_info is None:
            return start_response(status, fields)
        return start_response(status, fields, exc_info)

    return start


class _Held:
    """A body that gives its permits back when it is closed."""

    def __init__(self, body: Iterable[bytes], verdict: Verdict) -> None:
        self._body = body
        self._verdict = verdict

    def __iter__(self) -> Iterator[bytes]:
        return iter(self._body)

    def close(self) -> None:
        try:
            close = getattr(self._body, "close", None)
            if close is not None:
                close()
        finally:
            self._verdict.release()

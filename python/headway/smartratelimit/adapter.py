"""An adapter for sessions of requests that asks the limiter before each request.

    session.mount("https://", RateLimitAdapter(RateLimiter()))

A session sends every hop of a redirect through the adapter of its URL, so each is counted for its
own host. The connection itself is another adapter's business: requests' own, or one of yours.
"""

from typing import TYPE_CHECKING, Any

from headway.smartratelimit._arguments import invalid
from headway.smartratelimit._attempts import RequestAttempts
from headway.smartratelimit._libraries import library, take_cost, was_sent
from headway.smartratelimit._sync import SyncLimiter

if TYPE_CHECKING:
    import requests

__all__ = ["RateLimitAdapter"]

_DRAIN_MAX = 65536
_values = dict.values


class RateLimitAdapter:
    """Has what sessions ask of an adapter; everything else is that of the adapter within."""

    def __init__(self, limiter: SyncLimiter, adapter: Any = None) -> None:
        """adapter: sends the requests; requests' HTTPAdapter unless told."""
        if not isinstance(limiter, SyncLimiter):
            invalid("limiter", limiter, "a RateLimiter")
        if adapter is not None and not callable(getattr(adapter, "send", None)):
            invalid("adapter", adapter, "an adapter of requests, or None for its HTTPAdapter")
        self.limiter = limiter
        self.adapter = library("requests").adapters.HTTPAdapter() if adapter is None else adapter

    def __getattr__(self, name: str) -> Any:
        if name in ("adapter", "limiter"):  # before __init__: a copy or a pickle is being made
            raise AttributeError(name)
        return getattr(self.adapter, name)

    def __repr__(self) -> str:
        return f"RateLimitAdapter({self.limiter!r}, {self.adapter!r})"

    def close(self) -> None:
        self.adapter.close()

    def send(self, request: "requests.PreparedRequest", *args: Any, **kwargs: Any) -> Any:
        """Wait until the request may go, send it, and learn from the response."""
        limiter = self.limiter
        method, url = request.method or "GET", request.url or ""
        costs = take_cost()
        attempts: RequestAttempts | None = None
        while True:
            entry = limiter._enter(method, url, request.headers, costs)
            try:
                response = self.adapter.send(request, *args, **kwargs)
            except BaseException as error:
                limiter._lose(entry, was_sent(error))
                attempts = attempts or RequestAttempts(limiter, method)
                delay = attempts.after_loss(error, _can_rewind(request))
                if delay is None or not _rewind(request):
                    raise
            else:
                response.connection = self  # an auth that sends again comes back here
                status = response.status_code
                limiter._learn(entry, costs, _pairs(response.headers), status, method, url)
                if "graphql" in url and not kwargs.get("stream") and _is_graphql(url, response):
                    limiter.learn_from_body(url, response.content)
                if status not in limiter._retried:
                    return response
                attempts = attempts or RequestAttempts(limiter, method)
                try:
                    delay = attempts.after_refusal(entry[0], response, _can_rewind(request))
                except BaseException:
                    response.close()
                    raise
                if delay is None:
                    return response
                _drop(response)
                if not _rewind(request):
                    return response
            limiter._pause(delay)


def _is_graphql(url: str, response: Any) -> bool:
    """Where the cost is in the body, and the body is read anyway."""
    path = url.partition("?")[0]
    return path.endswith(("/graphql", "/graphql.json")) and "json" in response.headers.get(
        "Content-Type", ""
    )


def _pairs(headers: Any) -> Any:
    """The pairs of requests' dict, without a call for each. Its store is an OrderedDict, the own
    `values` of which looks each key up again: six times as slow as those of a dict."""
    store = getattr(headers, "_store", None)
    return list(_values(store)) if isinstance(store, dict) else headers


def _can_rewind(request: Any) -> bool:
    body = request.body
    return (
        body is None
        or isinstance(body, (str, bytes))
        or (isinstance(getattr(request, "_body_position", None), int) and hasattr(body, "seek"))
    )


def _rewind(request: Any) -> bool:
    """Make the body ready to be sent again; False: it cannot be."""
    if not _can_rewind(request):
        return False
    if request.body is not None and not isinstance(request.body, (str, bytes)):
        try:
            request.body.seek(request._body_position)
        except (OSError, ValueError):
            return False
    return True


def _drop(response: Any) -> None:
    """Let go of a response that nobody will read; a short one gives its connection back."""
    try:
        if 0 <= int(response.headers.get("Content-Length", -1)) <= _DRAIN_MAX:
            response.content  # noqa: B018 - reads it
    except Exception:  # it is thrown away
        pass
    response.close()

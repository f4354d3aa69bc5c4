"""RateLimiter: for requests, and for whatever else sends from a thread.

limiter = RateLimiter()
response = limiter.request("GET", "https://api.github.com/users/octocat")
"""

from collections.abc import Callable
from types import TracebackType
from typing import TYPE_CHECKING, Any

from headway.smartratelimit._costs import amounts
from headway.smartratelimit._libraries import costing, library
from headway.smartratelimit._sync import SyncLimiter
from headway.smartratelimit.exceptions import RateLimitExceeded, StorageUnavailable

if TYPE_CHECKING:
    import requests

__all__ = ["RateLimitExceeded", "RateLimiter", "StorageUnavailable"]


class RateLimiter(SyncLimiter):
    """Sends requests as fast as the server allows, and no faster. May be shared by threads."""

    _own_session: "requests.Session | None" = None

    def __enter__(self) -> "RateLimiter":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def request(
        self, method: str, url: str, cost: Any = None, **kwargs: Any
    ) -> "requests.Response":
        """Send a request when it may go. `kwargs` are those of requests' own.

        cost: what it spends: None for one request, a number of requests, or a dict such as
        {'requests': 1, 'tokens': 900}.
        """
        return self._session().request(method, url, cost=cost, **kwargs)  # type: ignore[call-arg]

    def wrap_session(self, session: "requests.Session") -> None:
        """Limit what a session sends, in place. Its adapters, headers, cookies, auth, hooks and
        proxies stay what they are; its methods take `cost=` too. Wrapping again does nothing."""
        known = getattr(session, "_headway_wrapping", None)
        if known is not None:
            known.limiter = self
            return
        wrapping = _Wrapping(self, session.get_adapter, session.request)
        session._headway_wrapping = wrapping  # type: ignore[attr-defined]
        session.get_adapter = wrapping.get_adapter  # type: ignore[method-assign]
        session.request = wrapping.request  # type: ignore[method-assign]

    def close(self) -> None:
        """Let go of connections, and of the storage if the limiter has opened it."""
        with self._lock:
            session, self._own_session = self._own_session, None
        if session is not None:
            session.close()
        super().close()

    def _session(self) -> "requests.Session":
        session = self._own_session
        if session is None:
            with self._lock:
                session = self._own_session
                if session is None:
                    session = library("requests").Session()
                    self.wrap_session(session)
                    self._own_session = session
        return session


class _Wrapping:
    """What a wrapped session calls instead of its own two methods.

    Adapters are wrapped when the session looks for one, so that those mounted later are too.
    """

    def __init__(
        self, limiter: RateLimiter, get_adapter: Callable[..., Any], request: Callable[..., Any]
    ) -> None:
        self.limiter = limiter
        self._get_adapter = get_adapter
        self._request = request
        self._made: tuple[Any, Any, Any] = (None, None, None)

    def get_adapter(self, url: str) -> Any:
        from headway.smartratelimit.adapter import RateLimitAdapter

        adapter = self._get_adapter(url)
        if isinstance(adapter, RateLimitAdapter):
            return adapter
        limiter, within, made = self._made
        if within is not adapter or limiter is not self.limiter:
            made = RateLimitAdapter(self.limiter, adapter)
            self._made = (self.limiter, adapter, made)
        return made

    def request(self, method: Any, url: Any, *args: Any, cost: Any = None, **kwargs: Any) -> Any:
        with costing(amounts(cost)):
            return self._request(method, url, *args, **kwargs)

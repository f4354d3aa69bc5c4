"""AsyncRateLimiter: for httpx and aiohttp.

async with AsyncRateLimiter() as limiter:
    async with httpx.AsyncClient() as client:
        response = await limiter.arequest_httpx(client, "GET", "https://api.github.com/users")
"""

from collections.abc import Awaitable, Callable
from types import TracebackType
from typing import TYPE_CHECKING, Any

from headway.smartratelimit._attempts import RequestAttempts
from headway.smartratelimit._costs import amounts
from headway.smartratelimit._libraries import costing, library, take_cost, was_sent
from headway.smartratelimit._tasks import TaskLimiter
from headway.smartratelimit.exceptions import RateLimitExceeded, StorageUnavailable

if TYPE_CHECKING:
    import aiohttp
    import httpx

__all__ = ["AsyncRateLimiter", "RateLimitExceeded", "StorageUnavailable"]


class AsyncRateLimiter(TaskLimiter):
    """Sends requests as fast as the server allows, and no faster. For tasks of asyncio or trio."""

    _middleware: Any = None

    async def __aenter__(self) -> "AsyncRateLimiter":
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    async def arequest_httpx(
        self, client: "httpx.AsyncClient", method: str, url: str, cost: Any = None, **kwargs: Any
    ) -> "httpx.Response":
        """Send a request by a client of httpx when it may go; `kwargs` are those of its request().

        The client does the sending, with all its settings; redirects are followed here, so that
        each hop is counted for its own host.
        """
        from headway.smartratelimit.httpx_transport import COUNTED, exchange

        library("httpx")
        import httpx

        costs = amounts(cost)
        auth = kwargs.pop("auth", httpx.USE_CLIENT_DEFAULT)
        follow = kwargs.pop("follow_redirects", httpx.USE_CLIENT_DEFAULT)
        if follow is httpx.USE_CLIENT_DEFAULT:
            follow = client.follow_redirects
        request = client.build_request(method, url, **kwargs)
        history: list[httpx.Response] = []

        async def send(request: Any) -> Any:
            return await client.send(request, auth=auth, follow_redirects=False)

        while True:
            request.extensions = {**request.extensions, COUNTED: self}
            response: httpx.Response = await exchange(self, request, costs, send)
            response.history = list(history)
            if not follow or response.next_request is None:
                return response
            history.append(response)
            if len(history) > client.max_redirects:
                raise httpx.TooManyRedirects("Exceeded maximum allowed redirects.", request=request)
            # The next request has the credentials that are meant for its host, and no others.
            request, costs, auth = response.next_request, None, None

    async def arequest_aiohttp(
        self,
        session: "aiohttp.ClientSession",
        method: str,
        url: Any,
        cost: Any = None,
        **kwargs: Any,
    ) -> "aiohttp.ClientResponse":
        """Send a request by a session of aiohttp when it may go; `kwargs` are those of request().

        The response has been read: its status, headers, `await response.json()`, `.text()` and
        `.read()` are there, and its connection is free.
        """
        library("aiohttp")
        import aiohttp

        costs = amounts(cost)
        if not hasattr(aiohttp, "ClientHandlerType"):  # before 3.12
            before: aiohttp.ClientResponse = await self._before_middlewares(
                session, method, url, costs, kwargs
            )
            return before
        own = kwargs.pop("middlewares", None)
        chain = tuple(getattr(session, "_middlewares", ()) if own is None else own)
        middleware = self.aiohttp_middleware()
        if middleware not in chain:
            chain = (*chain, middleware)
        with costing(costs):
            response: aiohttp.ClientResponse
            response = await session.request(method, url, middlewares=chain, **kwargs)
            await response.read()  # to its end, which frees the connection
            return response

    def aiohttp_middleware(self) -> Callable[[Any, Callable[..., Awaitable[Any]]], Awaitable[Any]]:
        """A middleware for `aiohttp.ClientSession(middlewares=(...,))`, of aiohttp 3.12 or later.

        aiohttp calls it for every hop of a redirect.
        """
        if self._middleware is None:
            self._middleware = _Middleware(self)
        return self._middleware  # type: ignore[no-any-return]

    async def _before_middlewares(
        self, session: Any, method: str, url: Any, costs: Any, kwargs: dict[str, Any]
    ) -> Any:
        """Where aiohttp has no middlewares the first hop waits; those after it are counted when
        they have been followed."""
        data = kwargs.get("data")
        again = data is None or isinstance(data, (str, bytes))
        full = str(url if getattr(session, "_base_url", None) is None else session._build_url(url))
        headers = {**dict(session.headers), **dict(kwargs.get("headers") or {})}
        attempts: RequestAttempts | None = None
        while True:
            entry = await self._enter(method, full, headers, costs)
            try:
                response = await session.request(method, url, **kwargs)
                await response.read()  # to its end, which frees the connection
            except BaseException as error:
                await self._lose_async(entry, was_sent(error))
                attempts = attempts or RequestAttempts(self, method)
                delay = attempts.after_loss(error, again)
                if delay is None:
                    raise
            else:
                for number, hop in enumerate((*response.history, response)):
                    where = str(hop.url)
                    if number:
                        entry = await self._count(hop.method, where)
                    spent = None if number else costs
                    told = (hop.raw_headers, hop.status, hop.method, where)
                    await self._learn_async(entry, spent, *told)
                if response.status not in self._retried:
                    return response
                attempts = attempts or RequestAttempts(self, method)
                delay = attempts.after_refusal(entry[0], response, again)
                if delay is None:
                    return response
            await self._pause(delay)


class _Middleware:
    def __init__(self, limiter: AsyncRateLimiter) -> None:
        self.limiter = limiter

    async def __call__(self, request: Any, handler: Callable[..., Awaitable[Any]]) -> Any:
        limiter = self.limiter
        method, url = request.method, str(request.url)
        costs = take_cost()
        again = _can_repeat(request.body)
        attempts: RequestAttempts | None = None
        while True:
            entry = await limiter._enter(method, url, request.headers, costs)
            try:
                response = await handler(request)
            except BaseException as error:
                await limiter._lose_async(entry, was_sent(error))
                attempts = attempts or RequestAttempts(limiter, method)
                delay = attempts.after_loss(error, again)
                if delay is None:
                    raise
            else:
                status = response.status
                told = (response.raw_headers, status, method, url)
                await limiter._learn_async(entry, costs, *told)
                if status not in limiter._retried:
                    return response
                attempts = attempts or RequestAttempts(limiter, method)
                try:
                    delay = attempts.after_refusal(entry[0], response, again)
                except BaseException:
                    response.close()
                    raise
                if delay is None:
                    return response
                response.release()
            await limiter._pause(delay)


def _can_repeat(body: Any) -> bool:
    payload = library("aiohttp").payload
    return body is None or isinstance(body, (bytes, payload.BytesPayload))

"""Transports for httpx that ask the limiter before each request.

    httpx.Client(transport=RateLimitTransport(RateLimiter()))
    httpx.AsyncClient(transport=AsyncRateLimitTransport(AsyncRateLimiter()))

A client sends every hop of a redirect through its transport, so each is counted for its own host. A
request's cost is one request, or what `extensions={"cost": {"tokens": 900}}` says.
"""

from types import TracebackType
from typing import TYPE_CHECKING, Any

from headway.smartratelimit._arguments import invalid
from headway.smartratelimit._attempts import RequestAttempts
from headway.smartratelimit._costs import amounts
from headway.smartratelimit._libraries import library, was_sent
from headway.smartratelimit._sync import SyncLimiter
from headway.smartratelimit._tasks import TaskLimiter

if TYPE_CHECKING:
    import httpx

__all__ = ["AsyncRateLimitTransport", "RateLimitTransport"]

COUNTED = "headway.counted"
"""An extension: the limiter that has counted this request already."""


def _costs(request: "httpx.Request", limiter: object) -> "tuple[bool, dict[str, int] | None]":
    """Whether it is to be counted here, and what it costs. A redirect takes the extensions along,
    and is one request."""
    extensions = request.extensions
    if extensions.get(COUNTED) is limiter:
        return False, None
    if "cost" not in extensions:
        return True, None
    costs = amounts(extensions["cost"])
    request.extensions = {name: value for name, value in extensions.items() if name != "cost"}
    return True, costs


def can_repeat(request: "httpx.Request") -> bool:
    """Whether the body is there to be sent again."""
    return isinstance(request.stream, library("httpx").ByteStream)


class RateLimitTransport:
    """For httpx.Client; everything else is that of the transport within."""

    def __init__(self, limiter: SyncLimiter, transport: Any = None) -> None:
        """transport: sends the requests; httpx' HTTPTransport unless told."""
        if not isinstance(limiter, SyncLimiter):
            invalid("limiter", limiter, "a RateLimiter")
        self.limiter = limiter
        self.transport = library("httpx").HTTPTransport() if transport is None else transport

    def handle_request(self, request: "httpx.Request") -> "httpx.Response":
        limiter = self.limiter
        counted, costs = _costs(request, limiter)
        if not counted:
            return self.transport.handle_request(request)  # type: ignore[no-any-return]
        method, url = request.method, str(request.url)
        attempts: RequestAttempts | None = None
        while True:
            entry = limiter._enter(method, url, request.headers, costs)
            try:
                response: httpx.Response = self.transport.handle_request(request)
            except BaseException as error:
                limiter._lose(entry, was_sent(error))
                attempts = attempts or RequestAttempts(limiter, method)
                delay = attempts.after_loss(error, can_repeat(request))
                if delay is None:
                    raise
            else:
                status = response.status_code
                limiter._learn(entry, costs, response.headers.raw, status, method, url)
                if status not in limiter._retried:
                    return response
                attempts = attempts or RequestAttempts(limiter, method)
                try:
                    delay = attempts.after_refusal(entry[0], response, can_repeat(request))
                except BaseException:
                    response.close()
                    raise
                if delay is None:
                    return response
                response.close()
            limiter._pause(delay)

    def close(self) -> None:
        self.transport.close()

    def __enter__(self) -> "RateLimitTransport":
        self.transport.__enter__()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None = None,
        error: BaseException | None = None,
        trace: TracebackType | None = None,
    ) -> None:
        self.transport.__exit__(kind, error, trace)


class AsyncRateLimitTransport:
    """For httpx.AsyncClient, on asyncio and on trio."""

    def __init__(self, limiter: TaskLimiter, transport: Any = None) -> None:
        """transport: sends the requests; httpx' AsyncHTTPTransport unless told."""
        if not isinstance(limiter, TaskLimiter):
            invalid("limiter", limiter, "an AsyncRateLimiter")
        self.limiter = limiter
        self.transport = library("httpx").AsyncHTTPTransport() if transport is None else transport

    async def handle_async_request(self, request: "httpx.Request") -> "httpx.Response":
        limiter = self.limiter
        counted, costs = _costs(request, limiter)
        if not counted:
            return await self.transport.handle_async_request(request)  # type: ignore[no-any-return]
        found: httpx.Response = await exchange(
            limiter, request, costs, self.transport.handle_async_request
        )
        return found

    async def aclose(self) -> None:
        await self.transport.aclose()

    async def __aenter__(self) -> "AsyncRateLimitTransport":
        await self.transport.__aenter__()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None = None,
        error: BaseException | None = None,
        trace: TracebackType | None = None,
    ) -> None:
        await self.transport.__aexit__(kind, error, trace)


async def exchange(
    limiter: TaskLimiter, request: "httpx.Request", costs: "dict[str, int] | None", send: Any
) -> Any:
    """Wait until a request may go, send it, and learn from the response; again if need be."""
    method, url = request.method, str(request.url)
    attempts: RequestAttempts | None = None
    while True:
        entry = await limiter._enter(method, url, request.headers, costs)
        try:
            response = await send(request)
        except BaseException as error:
            await limiter._lose_async(entry, was_sent(error))
            attempts = attempts or RequestAttempts(limiter, method)
            delay = attempts.after_loss(error, can_repeat(request))
            if delay is None:
                raise
        else:
            status = response.status_code
            raw = response.headers.raw
            await limiter._learn_async(entry, costs, raw, status, method, url)
            if status not in limiter._retried:
                return response
            attempts = attempts or RequestAttempts(limiter, method)
            try:
                delay = attempts.after_refusal(entry[0], response, can_repeat(request))
            except BaseException:
                await response.aclose()
                raise
            if delay is None:
                return response
            await response.aclose()
        await limiter._pause(delay)

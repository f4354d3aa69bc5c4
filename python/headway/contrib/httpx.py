"""Limits of your own for what httpx sends (docs/httpx-limits.md).

    client = httpx.Client(transport=RateLimitTransport("10/s", concurrency=4))

A request waits here until its quota has a slot, and then goes to the transport within; so pools,
proxies, HTTP/2 and retries stay what they are. One that cannot go in time raises
`RateLimitTimeout`, which is an error of httpx too, as if no connection had become free.

The permit of a concurrency limit is taken first and the slot of the quota last, so that what was
admitted goes out at once. The permit ends when the response is closed, wherever that happens.

Limits that a server tells in its headers are learned by `headway.smartratelimit` instead; one
transport can be put into the other.
"""

import math
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from types import TracebackType
from typing import Any, Generic, TypeVar
from weakref import finalize, ref

from headway._checks import positive_int
from headway._core import AsyncThrottled, RateLimitResult, Throttled
from headway.constants import RateLimiterType
from headway.exceptions import DataError, LimitedError, SetUpError
from headway.hooks import AsyncHook, Hook
from headway.limiters import AsyncSemaphore, MaxSleepExceededError, SyncSemaphore
from headway.store import from_any
from headway.types import AnyStore, QuotaLike

try:
    import httpx
except ImportError as error:
    raise ImportError(
        'headway.contrib.httpx needs httpx: pip install "headway[httpx]"', name="httpx"
    ) from error

__all__ = ["AsyncRateLimitTransport", "RateLimitTimeout", "RateLimitTransport", "by_host"]

KEY_PREFIX = "headway:httpx"
EXPIRY_S = 60.0
"""Seconds after which the permit of a process that was killed is free again."""
BRIEFLY_S = 1e-6
"""What a semaphore is told for "do not wait": 0 would be without end."""

KeyOf = Callable[["httpx.Request"], "str | None"]
CostOf = Callable[["httpx.Request"], int]


class RateLimitTimeout(LimitedError, httpx.PoolTimeout):
    """A request was not sent, because it could not be in time.

    `except httpx.TimeoutException` and `except httpx.HTTPError` catch it, and so does
    `except headway.LimitedError`.
    """

    key: str
    """Whose limit it is: the host, unless the transport has a key of its own."""
    retry_after: float | None
    """Seconds until it may go if nothing else does; None where too many are under way."""

    def __init__(
        self,
        message: str,
        *,
        key: str = "",
        request: httpx.Request | None = None,
        result: RateLimitResult | None = None,
    ) -> None:
        httpx.PoolTimeout.__init__(self, message, request=request)
        self.key = key
        self.rate_limit_result = result
        self.retry_after = None if result is None else result.state.retry_after

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (str(self),), self.__dict__


def by_host(request: httpx.Request) -> str:
    """The host, with its port where the URL has one that its scheme does not imply."""
    return request.url.netloc.decode("ascii")


class _Cost(int):
    """A cost that has been seen, and of which request: a redirect takes the extension along."""

    request: "ref[httpx.Request]"


class _Waits:
    """How long one request may still wait."""

    __slots__ = ("allowed", "until")

    def __init__(self, allowed: float) -> None:
        self.allowed = allowed
        self.until = time.monotonic() + allowed

    @property
    def rest(self) -> float:
        return self.until - time.monotonic()

    def for_quota(self) -> float:
        """As `timeout` of `limit`: -1 for not at all."""
        rest = self.rest
        return rest if rest > 0 else -1

    def for_permit(self) -> float:
        """As `max_sleep` of a semaphore: 0 for without end."""
        rest = self.rest
        return 0 if math.isinf(rest) else max(rest, BRIEFLY_S)


_L = TypeVar("_L", Throttled, AsyncThrottled)


class _Limits(Generic[_L]):
    """What both transports share: whose limit it is, what it costs, how long to wait."""

    limiter: _L | None
    """What decides, and what has `peek` and `reset` by key; None without a quota."""
    store: AnyStore

    def __init__(
        self,
        make: type[_L],
        quota: QuotaLike | Callable[[Any], QuotaLike] | None,
        concurrency: int | None,
        key: str | KeyOf,
        cost: int | CostOf,
        timeout: float | None,
        using: str | RateLimiterType | None,
        store: AnyStore | str | None,
        key_prefix: str,
        hooks: Any,
    ) -> None:
        if quota is None and concurrency is None:
            raise SetUpError(
                "A transport without a limit: give quota='10/s', concurrency=4 or both."
            )
        if not key or not (isinstance(key, str) or callable(key)):
            raise DataError(f"Invalid key: {key!r}, must be a text or a function of the request.")
        if not callable(cost):
            _check_cost(cost)
        if timeout is not None and not _is_wait(timeout):
            raise DataError(
                f"Invalid timeout: {timeout!r}, must be seconds of at least 0, or None for the "
                "request's own pool timeout."
            )
        if concurrency is not None:
            try:
                concurrency = positive_int("concurrency", concurrency)
            except ValueError as error:
                raise DataError(str(error)) from None
        self.concurrency = concurrency
        self.timeout = timeout
        self._held = _Held()
        self._key, self._cost, self._prefix = key, cost, key_prefix
        self.store = from_any("memory://" if store is None else store)
        made = make(using=using, quota=quota or "1/s", store=self.store, key_prefix=key_prefix,
                    hooks=hooks)  # fmt: skip
        self.limiter = None if quota is None else made
        if concurrency is not None:  # a store that cannot have them says so here
            kind = SyncSemaphore if make is Throttled else AsyncSemaphore
            kind(f"{key_prefix}:set-up", concurrency, connection=self.store)

    def _of(self, request: httpx.Request) -> tuple[str | None, int, _Waits]:
        """Whose limit, how much of it, and for how long it may be waited for."""
        key = self._key(request) if callable(self._key) else self._key
        if key is not None and (not isinstance(key, str) or not key):
            raise DataError(
                f"Invalid key: {key!r}, must be a text that is not empty, or None for no limit."
            )
        allowed = self.timeout
        if allowed is None:
            allowed = request.extensions.get("timeout", {}).get("pool")
        return key, self._cost_of(request), _Waits(math.inf if allowed is None else allowed)

    def _cost_of(self, request: httpx.Request) -> int:
        said = request.extensions.get("cost")
        if said is None:
            return _check_cost(self._cost(request)) if callable(self._cost) else self._cost
        if isinstance(said, _Cost):
            return int(said) if said.request() is request else 1
        seen = _Cost(_check_cost(said))
        seen.request = ref(request)
        request.extensions = {**request.extensions, "cost": seen}
        return int(seen)

    def _permit_name(self, key: str) -> str:
        return f"{self._prefix}:{key}"

    def _denied(
        self, request: httpx.Request, key: str, waits: _Waits, result: RateLimitResult
    ) -> RateLimitTimeout:
        wait = result.state.retry_after
        why = (
            "it costs more than the quota ever has"
            if math.isinf(wait)
            else f"the next slot is in {wait:.3g} s, and the timeout is {waits.allowed:g} s"
        )
        message = f"Over the quota of {key!r}: {why}."
        return RateLimitTimeout(message, key=key, request=request, result=result)

    def _crowded(self, request: httpx.Request, key: str, waits: _Waits) -> RateLimitTimeout:
        return RateLimitTimeout(
            f"{self.concurrency} requests of {key!r} are under way, and none has ended within the "
            f"timeout of {waits.allowed:g} s.",
            key=key,
            request=request,
        )


class RateLimitTransport(_Limits[Throttled], httpx.BaseTransport):
    """For httpx.Client: requests wait for a quota, for a permit, or for both.

    quota: "10/s", "10/s; 1000/h", or a function of the key. concurrency: so many requests of a key
    at a time, each until its response is closed. transport: sends the requests; httpx'
    HTTPTransport unless told. key: a text for one limit over all, or a function of the request;
    each host by default; None from the function means no limit. cost: what a request takes of the
    quota, or a function of the request; `extensions={"cost": 5}` says it for one. timeout: the
    longest wait in seconds, then `RateLimitTimeout`; by default the request's pool timeout, which
    is 5 s unless the client says otherwise. store: a store or URL; by default the process. using,
    key_prefix, hooks: as of `Throttled`. Raises `SetUpError` or `DataError` naming what cannot be
    used.
    """

    def __init__(
        self,
        quota: QuotaLike | Callable[[Any], QuotaLike] | None = None,
        *,
        concurrency: int | None = None,
        transport: httpx.BaseTransport | None = None,
        key: str | KeyOf = by_host,
        cost: int | CostOf = 1,
        timeout: float | None = None,
        using: str | RateLimiterType | None = None,
        store: AnyStore | str | None = None,
        key_prefix: str = KEY_PREFIX,
        hooks: Sequence[Hook] | None = None,
    ) -> None:
        super().__init__(
            Throttled, quota, concurrency, key, cost, timeout, using, store, key_prefix, hooks
        )
        self.transport = httpx.HTTPTransport() if transport is None else transport

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        key, cost, waits = self._of(request)
        if key is None:
            return self.transport.handle_request(request)
        if self.concurrency is None:
            self._take(request, key, cost, waits)
            return self.transport.handle_request(request)
        # One of its own for each request: it knows whose permit ends, whoever closes the response.
        permit = SyncSemaphore(
            self._permit_name(key), self.concurrency, waits.for_permit(), EXPIRY_S, self.store
        )
        try:
            permit.__enter__()
        except MaxSleepExceededError as error:
            raise self._crowded(request, key, waits) from error
        try:
            self._take(request, key, cost, waits)
            response = self.transport.handle_request(request)
        except BaseException:
            permit.__exit__(None, None, None)
            raise
        if response.is_closed:  # read already, as httpx' own mock does it
            permit.__exit__(None, None, None)
        else:
            response.stream = _HeldStream(response.stream, permit, self._held)
        return response

    def _take(self, request: httpx.Request, key: str, cost: int, waits: _Waits) -> None:
        if self.limiter is not None:
            result = self.limiter.limit(key, cost, waits.for_quota())
            if not result:
                raise self._denied(request, key, waits, result)

    def close(self) -> None:
        """Close the transport within. Streams that are still open hold no permits any more."""
        try:
            self.transport.close()
        finally:
            self._held.drop_all()

    def __enter__(self) -> "RateLimitTransport":
        self.transport.__enter__()
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None = None,
        exc_value: BaseException | None = None,
        traceback: TracebackType | None = None,
    ) -> None:
        try:
            self.transport.__exit__(exc_type, exc_value, traceback)
        finally:
            self._held.drop_all()


class AsyncRateLimitTransport(_Limits[AsyncThrottled], httpx.AsyncBaseTransport):
    """For httpx.AsyncClient, on asyncio and on trio: as `RateLimitTransport`."""

    def __init__(
        self,
        quota: QuotaLike | Callable[[Any], QuotaLike] | None = None,
        *,
        concurrency: int | None = None,
        transport: httpx.AsyncBaseTransport | None = None,
        key: str | KeyOf = by_host,
        cost: int | CostOf = 1,
        timeout: float | None = None,
        using: str | RateLimiterType | None = None,
        store: AnyStore | str | None = None,
        key_prefix: str = KEY_PREFIX,
        hooks: Sequence[AsyncHook] | None = None,
    ) -> None:
        super().__init__(
            AsyncThrottled, quota, concurrency, key, cost, timeout, using, store, key_prefix, hooks
        )
        self.transport = httpx.AsyncHTTPTransport() if transport is None else transport

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        key, cost, waits = self._of(request)
        if key is None:
            return await self.transport.handle_async_request(request)
        if self.concurrency is None:
            await self._take(request, key, cost, waits)
            return await self.transport.handle_async_request(request)
        permit = AsyncSemaphore(
            self._permit_name(key), self.concurrency, waits.for_permit(), EXPIRY_S, self.store
        )
        try:
            await permit.__aenter__()
        except MaxSleepExceededError as error:
            raise self._crowded(request, key, waits) from error
        try:
            await self._take(request, key, cost, waits)
            response = await self.transport.handle_async_request(request)
        except BaseException:
            await permit.__aexit__(None, None, None)
            raise
        if response.is_closed:
            await permit.__aexit__(None, None, None)
        else:
            response.stream = _AsyncHeldStream(response.stream, permit, self._held)
        return response

    async def _take(self, request: httpx.Request, key: str, cost: int, waits: _Waits) -> None:
        if self.limiter is not None:
            result = await self.limiter.limit(key, cost, waits.for_quota())
            if not result:
                raise self._denied(request, key, waits, result)

    async def aclose(self) -> None:
        """Close the transport within. Streams that are still open hold no permits any more."""
        try:
            await self.transport.aclose()
        finally:
            self._held.drop_all()

    async def __aenter__(self) -> "AsyncRateLimitTransport":
        await self.transport.__aenter__()
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None = None,
        exc_value: BaseException | None = None,
        traceback: TracebackType | None = None,
    ) -> None:
        try:
            await self.transport.__aexit__(exc_type, exc_value, traceback)
        finally:
            self._held.drop_all()


class _Held:
    """The permits of responses that are not closed yet, by the identity of each permit.

    A permit ends once: with its response, or with the transport, or when its response is dropped.
    """

    __slots__ = ("_permits",)

    def __init__(self) -> None:
        self._permits: dict[int, Any] = {}

    def add(self, stream: object, permit: object) -> None:
        """Hold a permit as long as `stream` lives."""
        self._permits[id(permit)] = permit
        finalize(stream, self.drop, permit).atexit = False

    def take(self, permit: object) -> bool:
        """Whether the permit has not ended yet; the caller ends it then."""
        return self._permits.pop(id(permit), None) is not None

    def drop(self, permit: Any) -> None:
        """End a permit without waiting: a server is told in the background."""
        if self.take(permit):
            leave = getattr(permit, "__aexit__", None) or permit.__exit__
            leave(GeneratorExit, None, None)  # as where a block is closed: nothing to await

    def drop_all(self) -> None:
        for permit in list(self._permits.values()):
            self.drop(permit)


class _HeldStream(httpx.SyncByteStream):
    """A response's body, at the end of which its permit is free."""

    def __init__(self, stream: Any, permit: SyncSemaphore, held: _Held) -> None:
        self._stream, self._permit, self._held = stream, permit, held
        held.add(self, permit)

    def __iter__(self) -> Iterator[bytes]:
        yield from self._stream

    def close(self) -> None:
        try:
            self._stream.close()
        finally:
            if self._held.take(self._permit):
                self._permit.__exit__(None, None, None)


class _AsyncHeldStream(httpx.AsyncByteStream):
    """The same, awaited."""

    def __init__(self, stream: Any, permit: AsyncSemaphore, held: _Held) -> None:
        self._stream, self._permit, self._held = stream, permit, held
        held.add(self, permit)

    async def __aiter__(self) -> AsyncIterator[bytes]:
        async for part in self._stream:
            yield part

    async def aclose(self) -> None:
        try:
            await self._stream.aclose()
        finally:
            if self._held.take(self._permit):
                await self._permit.__aexit__(None, None, None)


def _check_cost(cost: object) -> int:
    if not isinstance(cost, int) or isinstance(cost, bool) or cost < 0:
        raise DataError(
            f"Invalid cost: {cost}, must be an integer greater than or equal to 0, or a function "
            "of the request."
        )
    return cost


def _is_wait(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and value >= 0

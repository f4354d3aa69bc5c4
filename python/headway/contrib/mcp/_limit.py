"""`RateLimit`: so many calls in a time. `Concurrency`: so many at once.

Both decide about a `Call` and know nothing of servers; `_guard` puts them before a function or a
whole server. A `RateLimit` keeps one limiter for each quota it has met, so that a quota may depend
on the call.
"""

import logging
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from typing import TYPE_CHECKING, Any, TypeAlias, TypeVar

from headway._checks import not_negative, positive, positive_int
from headway._core import AsyncThrottled, MemoryStore, Throttled
from headway.contrib._bare import refuse_bare
from headway.contrib._keys import KeyLike, checked_key, key_function
from headway.contrib._rules import checked_switch
from headway.contrib.mcp import _guard
from headway.contrib.mcp._call import Call, CallFacts, caller, everyone
from headway.contrib.mcp._denial import Denial, Denied
from headway.contrib.mcp._turn import Turn
from headway.exceptions import SetUpError, StoreUnavailableError
from headway.limiters import AsyncSemaphore, MaxSleepExceededError, SyncSemaphore
from headway.store import from_any
from headway.types import QuotaLike

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

__all__ = ["Concurrency", "Limit", "RateLimit"]

Quotas: TypeAlias = QuotaLike | Mapping[str, QuotaLike] | Callable[[Call], QuotaLike | None]
Exempt: TypeAlias = Collection[str] | Callable[[Call], bool]

QUOTAS_MAX = 1024
"""So many different quotas are remembered at a time."""
AT_ONCE = 1e-6
"""What a semaphore is told to wait for one who does not want to wait: for it, 0 is for ever."""

_S = TypeVar("_S", AsyncSemaphore, SyncSemaphore)
_logger = logging.getLogger("headway.contrib.mcp")


class Limit:
    """What both share: whom they count, and to whom they do not apply."""

    def __init__(
        self,
        key: KeyLike,
        store: object,
        name: str | None,
        exempt: Exempt,
        dry_run: bool,
        on_error: str,
    ) -> None:
        if on_error not in ("deny", "allow"):
            raise SetUpError(f"Invalid on_error: {on_error!r}, must be 'deny' or 'allow'.")
        if name is not None and (not isinstance(name, str) or not name):
            raise SetUpError(f"Invalid name: {name!r}, must be a non-empty string.")
        if isinstance(exempt, str) or not (callable(exempt) or isinstance(exempt, Collection)):
            raise SetUpError(
                f"Invalid exempt: {exempt!r}, must be names of tools or a function of a call."
            )
        self._key_function = key_function(key)
        self._store = MemoryStore() if store is None else from_any(store)
        self._exempt = exempt
        self.name = name
        """Limits of one name and store share their counts.

        By default a function is called by its own name and counted by its module's as well; a
        server's requests are counted under its name.
        """
        self.dry_run = checked_switch("dry_run", dry_run)
        """Whether it only says in the log what it would have denied."""
        self.on_error = on_error
        """What becomes of a call when the store cannot answer."""

    def __call__(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """Put this limit before a tool, prompt or resource."""
        return _guard.decorate(self, function)

    def install(self, server: Any, methods: Collection[str] | None = ("tools/call",)) -> None:
        """Put this limit before every request of a server: MCPServer, FastMCP or a low-level one.

        methods: those that count; None for all but the protocol's own (`initialize`, `ping`).
        """
        _guard.install(self, server, methods)

    def enter(self, call: Call, scope: str, what: str) -> Any:
        """A context manager: carry the call out in it. Gives a `Turn`, or raises `Denied`.

        scope: under which it counts. what: by which name clients are told.
        """
        raise NotImplementedError

    def enter_async(self, call: Call, scope: str, what: str) -> Any:
        """The same for `async with`."""
        raise NotImplementedError

    def applies_to(self, call: Call) -> bool:
        if callable(self._exempt):
            return not self._exempt(call)
        return call.name not in self._exempt and call.method not in self._exempt

    def _key(self, call: Call, scope: str) -> str | None:
        key = self._key_function(CallFacts(call))
        if key is None:
            return None
        scope = scope.replace("%", "%25").replace("|", "%7C")
        return f"mcp|{scope}|{checked_key(key, self._key_function)}"

    def _deny(self, denial: Denial) -> None:
        if not self.dry_run:
            raise Denied(denial)
        _logger.info("dry run, would deny: %s", denial.text)

    def _unavailable(self, what: str, error: StoreUnavailableError) -> None:
        _logger.warning(
            "The limit of %s cannot be checked, on_error=%r: %s", what, self.on_error, error
        )
        if self.on_error == "deny":
            self._deny(Denial.unavailable(what))


class RateLimit(Limit):
    """So many calls in a time: above a function, or `install`ed in a server.

        @mcp.tool()
        @limit("10/minute", key=user())
        async def search(query: str) -> str: ...

    quota: "10/minute", a `Quota`, several; or a mapping from the names of tools or methods, "*" for
    all others; or a function of the call, which returns None where there is no limit. key: whom to
    count, `caller()` by default; what it returns None for is not counted. cost: what a call takes,
    a number or a function of the call. timeout: for how many seconds a call may wait, by default
    not at all. store: a store or URL, by default one of its own in this process. name: limits of
    one name and one store share their counts. exempt: names that are not counted, or a function of
    the call. on_error: what happens when the store cannot answer, "deny" or "allow".
    """

    def __init__(
        self,
        quota: Quotas,
        *,
        key: KeyLike | None = None,
        cost: int | Callable[[Call], int] = 1,
        timeout: float | None = None,
        store: object = None,
        using: str = "token_bucket",
        name: str | None = None,
        exempt: Exempt = (),
        dry_run: bool = False,
        on_error: str = "deny",
    ) -> None:
        refuse_bare(quota, "call")
        super().__init__(caller() if key is None else key, store, name, exempt, dry_run, on_error)
        self._quota = quota
        self._cost = cost
        self._timeout = timeout
        self._using = using
        self._limiters: dict[Any, tuple[Throttled, AsyncThrottled]] = {}
        if isinstance(quota, Mapping):
            for each in quota.values():
                self._limiter(each)
        elif not callable(quota):
            self._limiter(quota)

    @contextmanager
    def enter(self, call: Call, scope: str, what: str) -> Iterator[Turn]:
        """Take from the quota, then carry the call out. Raises `Denied`."""
        with Turn(call) as turn:
            plan = self._plan(call, scope, what)
            if plan is not None:
                (limiter, _), key, cost, what = plan
                try:
                    result = limiter.limit(key, cost, self._timeout)
                except StoreUnavailableError as error:
                    self._unavailable(what, error)
                else:
                    turn.state = result.state
                    if result.limited:
                        self._deny(Denial.limited(what, result.state))
                    else:
                        turn.took(limiter, key, cost)
            yield turn

    @asynccontextmanager
    async def enter_async(self, call: Call, scope: str, what: str) -> "AsyncIterator[Turn]":
        with Turn(call) as turn:
            plan = self._plan(call, scope, what)
            if plan is not None:
                (_, limiter), key, cost, what = plan
                try:
                    result = await limiter.limit(key, cost, self._timeout)
                except StoreUnavailableError as error:
                    self._unavailable(what, error)
                else:
                    turn.state = result.state
                    if result.limited:
                        self._deny(Denial.limited(what, result.state))
                    else:
                        turn.took(limiter, key, cost)
            yield turn

    def _plan(
        self, call: Call, scope: str, what: str
    ) -> tuple[tuple[Throttled, AsyncThrottled], str, int, str] | None:
        """What to ask of which limiter, and what to call it; None where nothing is limited."""
        if not self.applies_to(call):
            return None
        quota: Any = self._quota
        if isinstance(quota, Mapping):
            entry = next((each for each in (call.name, call.method, "*") if each in quota), None)
            if entry is None:
                return None
            quota, scope = quota[entry], f"{scope}:{entry}"
            what = what if entry == "*" else entry
        elif callable(quota):
            quota = quota(call)
            if quota is None:
                return None
            scope = f"{scope}:{quota!r}"
        cost = self._cost(call) if callable(self._cost) else self._cost
        key = self._key(call, scope)
        return None if key is None else (self._limiter(quota), key, cost, what)

    def _limiter(self, quota: Any) -> tuple[Throttled, AsyncThrottled]:
        known = tuple(quota) if isinstance(quota, list) else quota
        pair = self._limiters.get(known)
        if pair is None:
            if len(self._limiters) >= QUOTAS_MAX:
                self._limiters.clear()  # counts are in the store, nothing is forgotten
            common: dict[str, Any] = {"quota": quota, "using": self._using, "store": self._store}
            pair = self._limiters[known] = (Throttled(**common), AsyncThrottled(**common))
        return pair


class Concurrency(Limit):
    """So many calls at once, for tools that take long.

        @mcp.tool()
        @concurrency(2, max_wait=10)
        async def render(scene: str) -> str: ...

    capacity: calls at a time. key: for whom, by default `everyone()`. max_wait: seconds for
    which a call may wait, by default not at all. expiry: seconds until the place of a process that
    was killed is free again. The others are as for `RateLimit`.
    """

    def __init__(
        self,
        capacity: int,
        *,
        key: KeyLike | None = None,
        max_wait: float = 0,
        expiry: float = 30,
        store: object = None,
        name: str | None = None,
        exempt: Exempt = (),
        dry_run: bool = False,
        on_error: str = "deny",
    ) -> None:
        super().__init__(everyone() if key is None else key, store, name, exempt, dry_run, on_error)
        self.capacity = positive_int("capacity", capacity)
        self._max_sleep = max(not_negative("max_wait", max_wait, "not waiting"), AT_ONCE)
        self._expiry = positive("expiry", expiry)

    @contextmanager
    def enter(self, call: Call, scope: str, what: str) -> Iterator[Turn]:
        """Hold a place while the call is carried out. Raises `Denied`."""
        with Turn(call) as turn:
            semaphore = self._semaphore(SyncSemaphore, call, scope)
            if semaphore is not None:
                try:
                    semaphore.__enter__()
                except (MaxSleepExceededError, StoreUnavailableError) as error:
                    semaphore = None
                    self._no_place(what, error)
            try:
                yield turn
            finally:
                if semaphore is not None:
                    semaphore.__exit__(None, None, None)

    @asynccontextmanager
    async def enter_async(self, call: Call, scope: str, what: str) -> "AsyncIterator[Turn]":
        with Turn(call) as turn:
            semaphore = self._semaphore(AsyncSemaphore, call, scope)
            if semaphore is not None:
                try:
                    await semaphore.__aenter__()
                except (MaxSleepExceededError, StoreUnavailableError) as error:
                    semaphore = None
                    self._no_place(what, error)
            try:
                yield turn
            finally:
                if semaphore is not None:
                    await semaphore.__aexit__(None, None, None)

    def _semaphore(self, kind: type[_S], call: Call, scope: str) -> _S | None:
        key = self._key(call, scope) if self.applies_to(call) else None
        if key is None:
            return None
        return kind(key, self.capacity, self._max_sleep, self._expiry, self._store)

    def _no_place(self, what: str, error: Exception) -> None:
        if isinstance(error, StoreUnavailableError):
            self._unavailable(what, error)
        else:
            self._deny(Denial.busy(what, self.capacity))

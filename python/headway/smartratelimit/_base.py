"""What the limiters for threads and for tasks share: all but how they wait and how they send.

The life of a request, in the order of the methods: `find` its scope, `_ask` the ledger (and wait in
line), send, and tell the ledger what came of it by `_learn` or `_lose`. On memory that is two calls
into C and two looks into dicts.
"""

import logging
import os
import threading
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NoReturn
from weakref import WeakSet

from headway._core import Ledger, Observation, parse_headers
from headway._forks import open_after_fork
from headway._interrupts import comes_from_a_handler
from headway.smartratelimit._arguments import invalid, number
from headway.smartratelimit._bodies import graphql_cost
from headway.smartratelimit._costs import Preset, defaults, preset
from headway.smartratelimit._costs import window_ns as window_of
from headway.smartratelimit._scopes import (
    Partition,
    Scope,
    Scopes,
    covers,
    narrowed,
    scope_key,
    without_scheme,
)
from headway.smartratelimit._told import status_of
from headway.smartratelimit.exceptions import RateLimitExceeded, StorageUnavailable
from headway.smartratelimit.metrics import MetricsCollector
from headway.smartratelimit.models import REQUESTS, RateLimitStatus
from headway.smartratelimit.providers import get_provider, seed_limits
from headway.smartratelimit.retry import RetryConfig, RetryHandler
from headway.smartratelimit.storage import MemoryStorage, Storage, failures_of, open_storage

__all__ = ["Entry", "LimiterBase"]

logger = logging.getLogger("headway.smartratelimit")

_UNREADABLE = (TypeError, ValueError, LookupError, AttributeError, ArithmeticError)
"""What headers of strange types raise. Not every Exception: a signal's handler may raise one, such
as Celery's SoftTimeLimitExceeded, which is for the caller."""
MAX_WAIT_S = 3600.0
_MAX_WAIT_MOST_S = 3650 * 86400.0

Entry = tuple[Scope, str, "bytes | None", int]
"""A request that may go: its scope and resource, its ticket (None: nobody counts), when."""


class LimiterBase:
    """See `RateLimiter` and `AsyncRateLimiter`."""

    def __init__(
        self,
        storage: Any = "memory",
        default_limits: Mapping[str, int] | None = None,
        headers_map: Mapping[str, str] | None = None,
        raise_on_limit: bool = False,
        retry: RetryConfig | None = None,
        fail_closed: bool = False,
        use_provider_profiles: bool = True,
        authenticated: bool = False,
        *,
        max_wait: float = MAX_WAIT_S,
        partition: Partition | None = None,
        metrics: MetricsCollector | None = None,
    ) -> None:
        """storage: 'memory', 'sqlite:///path', 'redis://host:port/db' or an object of your own.

        default_limits: until the server tells, such as {'requests_per_minute': 60}.
        headers_map: names of headers of your own for limit, remaining, reset, used, window,
            retry_after, resource.
        raise_on_limit: RateLimitExceeded instead of a wait.
        retry: how 429, 503 and 504 are retried; three times unless told. One that is given also
            says what is sent again after a lost connection; without one nothing is.
        fail_closed: a storage that fails later is StorageUnavailable instead of no limit.
        use_provider_profiles: published limits of known hosts hold until a header tells others.
        authenticated: requests carry credentials, for which these profiles differ.
        max_wait: seconds; a request that would have to wait longer is RateLimitExceeded at once.
        partition: function of a URL and its headers, such as `lambda url, headers:
            headers.get("Authorization")`; what it returns has limits of its own. None: all.
        metrics: where requests and waits are counted.
        """
        self._defaults = defaults(default_limits)
        self._headers_map = None if headers_map is None else dict(headers_map)
        self.ignored = 0
        """How many values of headers made no sense."""
        parse_headers({}, 200, None, self._headers_map)  # a wrong map is an error now
        if retry is not None and not isinstance(retry, RetryConfig):
            invalid("retry", retry, "a RetryConfig, or None for its defaults")
        if partition is not None and not callable(partition):
            invalid("partition", partition, "a function of a URL and its headers")
        if metrics is not None and not isinstance(metrics, MetricsCollector):
            invalid("metrics", metrics, "a MetricsCollector or None")
        wait_s = number("max_wait", max_wait, _MAX_WAIT_MOST_S, " of seconds")
        self._raise_on_limit = bool(raise_on_limit)
        self._max_wait_ns = 0 if raise_on_limit else int(wait_s * 1e9)
        self._retry = RetryHandler(RetryConfig(jitter=0.1) if retry is None else retry)
        self._retries_lost = retry is not None
        self._retried = frozenset(
            self._retry.config.retry_on_status if self._retry.max_attempts() > 1 else ()
        )
        self._fail_closed = bool(fail_closed)
        self._profiles = bool(use_provider_profiles)
        self._authenticated = bool(authenticated)
        self._metrics = metrics
        self._partition = partition
        self._storage: Storage = open_storage(storage)
        self._memory = self._storage if type(self._storage) is MemoryStorage else None
        self._ledger_of = None if self._memory is None else self._memory._ledgers.get
        """In memory: the ledger of a key, where there is one."""
        self._failures = failures_of(self._storage)
        self._owns_storage = self._storage is not storage
        self._polls = not self._owns_storage or self._memory is None
        self._clock = self._storage.now
        self._is_failing = False
        self._lock = open_after_fork(threading.Lock())
        self._presets: dict[str, list[Preset]] = {}
        """What set_limit was told of hosts without a scheme: it holds for http too."""
        self._scopes = Scopes(partition, self._narrow_paths)
        self._find = self._scopes.find
        _limiters.add(self)

    # ---- configuration ----

    def set_limit(
        self, endpoint: str, limit: int, window: str = "1h", dimension: str = REQUESTS
    ) -> None:
        """Set a limit by hand: of a host, or of what lies under a path; headers do not overrule it.

        window: '30s', '15m', '1h', '1d'. dimension: 'requests', or what else is metered, such as
        'tokens'. A host without a scheme is meant for https and http.
        """
        key = scope_key(endpoint)
        wanted = preset(limit, window, dimension)
        if "://" not in endpoint:
            given = self._presets.setdefault(without_scheme(key), [])
            given[:] = [one for one in given if one.dimension != wanted.dimension] + [wanted]
            self._scopes.add("http" + key[5:])
        self._scopes.add(key)
        self._change(key, "configure", *_arguments(wanted))
        self._wake(key, anew=True)
        if "://" not in endpoint:
            self._wake("http" + key[5:], anew=True)

    def clear(self, endpoint: str | None = None) -> None:
        """Forget what is known of an endpoint and of what lies under it, or everything."""
        if endpoint is None:
            self._presets.clear()
            self._storage.clear()
            self._wake(None, anew=True)
            self._scopes.forget()
            return
        for key in self._keys(endpoint):
            self._storage.clear(key)
            for name in [name for name in self._presets if covers(without_scheme(key), name)]:
                del self._presets[name]
            self._wake(key, anew=True)
        self._scopes.forget()

    def _keys(self, endpoint: str) -> list[str]:
        key = scope_key(endpoint)
        return [key] if "://" in endpoint else [key, "http" + key[5:]]

    def _wake(self, key: str | None, anew: bool = False) -> None:
        for scope in self._scopes.known():
            if key is None or covers(key, scope.key):
                if anew:
                    scope.prepared = False
                scope.stir(always=True)

    # ---- reading ----

    def get_status(self, endpoint: str, partition: str | None = None) -> RateLimitStatus | None:
        """What is known of an endpoint now; None: nothing. With a path: of the narrowest scope."""
        for key in self._keys(endpoint):
            while True:
                found = self._status(key if partition is None else narrowed(key, partition))
                if found is not None:
                    return found
                above, _, _ = key.rpartition("/")
                if above.endswith("/") or "://" not in above:
                    break
                key = above
        return None

    def list_endpoints(self) -> list[str]:
        """Everything of which something is known, as the keys that get_status takes."""
        keys = self._storage.keys()
        return sorted(key for key in keys if self._status(key) is not None)

    def _status(self, key: str) -> RateLimitStatus | None:
        ledger = self._storage.look(key)
        return None if ledger is None else status_of(key, ledger, self._clock())

    def close(self) -> None:
        """Let go of the storage, if the limiter has opened it, and of connections."""
        if self._owns_storage:
            self._storage.close()

    # ---- limits known in advance ----

    def _narrow_paths(self, origin: str) -> Iterator[str]:
        host = without_scheme(origin)
        if self._profiles and get_provider(host) is not None:
            yield from (path for path in seed_limits(host, self._authenticated) if path)
        for name in list(self._presets):
            if name.startswith(host + "/"):
                yield name[len(host) :]
        try:
            known = self._storage.keys_under(origin)
        except self._failures:  # asking it will say so
            return
        for key in known:  # what this or another program has set before
            if "/#" not in key:
                yield key[len(origin) :]

    def _preparations(self, scope: Scope) -> list[tuple[Any, ...]]:
        """Calls that a ledger needs before it is asked for the first time."""
        wanted = list(self._defaults)
        host = scope.endpoint[: len(scope.endpoint) - len(scope.path)]
        if self._profiles and get_provider(host) is not None:
            for seed in seed_limits(host, self._authenticated).get(scope.path, ()):
                wanted.append(
                    Preset(seed.dimension, seed.limit, window_of(seed.window), "registry")
                )
        own = self._presets.get(scope.endpoint, ())
        if scope.key.startswith("https://") and "/#" not in scope.key:
            own = ()  # it was set there already
        elif "/#" in scope.key and not own:
            own = self._presets_of(scope)
        return [_arguments(one) for one in (*wanted, *own)]

    def _presets_of(self, scope: Scope) -> list[Preset]:
        """A partition has the limits that were set for all, for itself."""
        ledger = self._storage.look(scope.key.rpartition("/#")[0])
        if ledger is None:
            return []
        told, _ = ledger.status(self._clock())
        return [
            Preset(name, limit, window, "configured")
            for name, _, limit, _, _, window, source in told
            if source == "configured" and limit is not None and window is not None
        ]

    def _prepare(self, scope: Scope) -> None:
        for arguments in self._preparations(scope):
            self._change(scope.key, "configure", *arguments)
        scope.prepared = True

    def _prepared(self, scope: Scope) -> Ledger:
        """The ledger of a scope, in memory, with what it needs to begin with."""
        assert self._memory is not None
        self._prepare(scope)
        return self._memory.ledger(scope.key)

    # ---- asking the storage ----

    def _change(self, key: str, method: str, *args: Any) -> Any:
        """Call a method of a ledger; None where the storage fails and that is to be passed over."""
        try:
            answer = self._storage.change(key, method, *args)
        except self._failures as error:
            return self._failing(error)
        if self._is_failing:
            self._working()
        return answer

    async def _change_async(self, key: str, method: str, *args: Any) -> Any:
        try:
            answer = await self._storage.change_async(key, method, *args)
        except self._failures as error:
            return self._failing(error)
        if self._is_failing:
            self._working()
        return answer

    def _failing(self, error: Exception) -> None:
        if comes_from_a_handler(error):
            raise error
        if self._fail_closed:
            if isinstance(error, StorageUnavailable):
                raise error
            raise StorageUnavailable(f"The storage failed: {error}") from error
        if not self._is_failing:
            self._is_failing = True
            logger.warning(
                "the storage of limits fails (%s); requests go unlimited until it answers", error
            )

    def _working(self) -> None:
        self._is_failing = False
        logger.warning("the storage of limits answers again; requests are limited")

    # ---- before a request ----

    def _refuse(self, scope: Scope, answer: tuple[Any, ...]) -> NoReturn:
        """The refusal that reserve returned, as an error."""
        kind, wait_ns = answer[0], answer[1]
        retry_after = float("inf") if kind == "never" else wait_ns / 1e9
        if self._metrics is not None:
            self._metrics.record_wait(scope.endpoint, 0.0)
        raise RateLimitExceeded(endpoint=scope.key.partition("/#")[0], retry_after=retry_after)

    # ---- after a response ----

    def _learn(
        self,
        entry: Entry,
        costs: "dict[str, int] | None",
        headers: Any,
        status: int,
        method: str,
        url: str,
    ) -> None:
        """A response has come."""
        scope, resource, ticket, sent = entry
        if ticket is None:
            return
        if self._ledger_of is not None:
            ledger = self._ledger_of(scope.key) or self._prepared(scope)
            try:
                told = ledger.learn(ticket, headers, status, self._headers_map, sent, resource)
            except _UNREADABLE as error:  # a response is never lost over its headers
                ledger.observe(ticket, None, sent, self._clock())
                logger.debug("headers of %s cannot be read: %r", scope.endpoint, error)
            else:
                if told is not None:
                    self._notice(entry, told, method, url)
        else:
            told = self._told(entry, headers, status, method, url)
            if told or not Ledger.is_settled(ticket):
                self._tell(scope.key, "observe", ticket, told, sent, self._clock())
        if scope.lines:
            scope.stir()
        if costs is not None or self._metrics is not None:
            self._follow(scope, costs, status)

    def _told(self, entry: Entry, headers: Any, status: int, method: str, url: str) -> Any:
        """What a response says, for the ledger of a storage."""
        try:
            told = parse_headers(headers, status, None, self._headers_map)
        except _UNREADABLE as error:  # a response is never lost over its headers
            logger.debug("headers of %s cannot be read: %r", entry[0].endpoint, error)
            return None
        if told or told.ignored:
            self._notice(entry, told, method, url)
        return told

    def _notice(self, entry: Entry, told: Observation, method: str, url: str) -> None:
        """What is not for the ledger: values that make no sense, and which route uses what."""
        if told.ignored:
            self.ignored += told.ignored
            logger.debug("%s: %d values make no sense", entry[0].endpoint, told.ignored)
        for dimension in told.dimensions:
            if dimension.resource != entry[1]:  # not what was expected of this route
                try:
                    self._scopes.learn(method, url, dimension.resource)
                except ValueError as error:  # a URL that only its library can read
                    logger.debug("the route of %r cannot be learned: %s", url, error)
                break

    def learn_from_body(self, url: str, body: "bytes | str | Mapping[str, Any]") -> bool:
        """Learn what a GraphQL response says of its cost (Shopify's `throttleStatus`).

        body: the JSON, or what was made of it. Requests spend it by `cost={"cost": points}`.
        Sessions of requests do this by themselves for URLs that end in graphql or graphql.json.
        Return whether it said anything.
        """
        told = graphql_cost(body)
        if told is None:
            return False
        scope, _ = self._find("POST", url, None)
        if not scope.prepared:
            self._prepare(scope)
        now = self._clock()
        ticket = Ledger().reserve({"requests": 0}, now, 0)  # of nothing: it ends nothing
        self._tell(scope.key, "observe", ticket, told, now, now)
        if scope.lines:
            scope.stir()
        return True

    def _lose(self, entry: Entry, was_sent: bool) -> None:
        """No response has come."""
        scope, _, ticket, _ = entry
        if ticket is not None:
            self._tell(scope.key, "fail", ticket, was_sent, self._clock())
            if scope.lines:
                scope.stir()

    def _tell(self, key: str, method: str, *args: Any) -> None:
        """Like _change, for what comes after a request: its outcome is never lost over that."""
        try:
            self._change(key, method, *args)
        except StorageUnavailable as error:
            logger.warning("what a response said of its limits is lost: %s", error)

    async def _tell_async(self, key: str, method: str, *args: Any) -> None:
        try:
            await self._change_async(key, method, *args)
        except StorageUnavailable as error:
            logger.warning("what a response said of its limits is lost: %s", error)

    def _follow(self, scope: Scope, costs: "dict[str, int] | None", status: int) -> None:
        """Costs that nobody meters are told of once; requests are counted."""
        try:
            if costs is not None and not costs.keys() <= scope.warned:
                self._warn(scope, costs)
            if self._metrics is not None:
                found = self._status(scope.key)
                self._metrics.record_request(scope.endpoint, status, found)
        except (*_UNREADABLE, StorageUnavailable, RuntimeError) as error:
            logger.debug("following a request to %s failed: %r", scope.endpoint, error)

    def _warn(self, scope: Scope, costs: Iterable[str]) -> None:
        ledger = self._storage.look(scope.key)
        told = () if ledger is None else ledger.status(self._clock())[0]
        metered = {one[0] for one in told} | {REQUESTS}
        for name in costs:
            if name not in metered and name not in scope.warned:
                logger.warning(
                    "a request to %s costs %r, which has no limit there: it is not metered",
                    scope.endpoint,
                    name,
                )
        scope.warned.update(costs)


def _arguments(wanted: Preset) -> tuple[str, int, int, str]:
    return (wanted.dimension, wanted.limit, wanted.window_ns, wanted.source)


# ---- forks

_limiters: "WeakSet[LimiterBase]" = WeakSet()


def _after_fork_in_child() -> None:
    """Those who wait are threads and tasks of the parent: here the lines are empty."""
    for limiter in list(_limiters):
        for scope in limiter._scopes.known():
            scope.lines = {}


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork_in_child)

"""Rate and concurrency limits of tasks across all of Celery's workers (docs/celery.md).

    @app.task(base=RateLimitedTask, quota="10/s", key=lambda account: f"mail:{account}")
    def send(account): ...

Celery's own `rate_limit` holds for each worker alone; this one for all who share a store.

Two things decide when a task runs. Its place in line says when it is worth coming: a task books
one when it first arrives, and if that is later than `max_wait` it goes back to the broker until
then, so that no process of the worker sleeps. A line is a bucket that runs at the quota's rate and
has room for many: what is booked ahead is the wait. The quota itself says whether a task may start,
at the moment in which it would: however late, early or twice a task comes back, there are never too
many. So a backlog costs each task one trip back to the broker, not one for each time it would have
been too early.

A permit is asked for before the quota, which would be spent for nothing without one.
"""

import logging
import math
import random
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, ClassVar, cast

from headway._checks import positive_int
from headway._core import Quota, Throttled, per_duration, per_sec
from headway.constants import RateLimiterType
from headway.exceptions import DataError, SetUpError, StoreUnavailableError
from headway.limiters import MaxSleepExceededError, SyncSemaphore
from headway.store import from_any
from headway.types import AnyStore, QuotaLike

try:
    import celery  # type: ignore[import-untyped,unused-ignore]
    from celery.exceptions import Retry  # type: ignore[import-untyped,unused-ignore]
    from kombu.exceptions import OperationalError  # type: ignore[import-untyped,unused-ignore]
except ImportError as error:
    raise ImportError(
        'headway.contrib.celery needs Celery: pip install "headway[celery]"', name="celery"
    ) from error

__all__ = ["RateLimitedTask"]

logger = logging.getLogger("headway.contrib.celery")

LINE_PREFIX = "headway:celery-line"
PERMIT_PREFIX = "headway:celery"
HEADER = "headway"
"""Of the message of a task that was put back: what it need not do again."""
FARTHEST_S = 900.0
"""No place is booked farther ahead, and no task put back for longer. Brokers send a message again
that is unacknowledged for too long: Redis after an hour, RabbitMQ closes the channel after half of
one.
"""
EXPIRY_S = 60.0
"""Seconds after which the permit of a worker that was killed is free again."""
GUESSED_RUN_S = 0.25
"""How long a run takes where none has ended yet."""
LONGEST_RUN_S = 30.0
"""More than that is not booked for a run that waits for a permit: it may have ended by then."""
BACK_OFF_S = (1.0, 30.0)
"""While the store does not answer: at first, and at most."""


class _Line:
    """Places for one quota and key. The n-th that is booked is due when the n-th slot is."""

    def __init__(self, rules: tuple[Quota, ...], store: AnyStore) -> None:
        self._rules: list[tuple[Throttled, float]] = []
        for rule in rules:
            ahead = math.ceil(FARTHEST_S / rule.emission_interval)
            period, limit = rule.rate.period, rule.rate.limit
            wide = per_duration(period, limit, rule.burst + ahead)
            book = Throttled(using="gcra", quota=wide, store=store, key_prefix=LINE_PREFIX)
            self._rules.append((book, rule.burst * rule.emission_interval))

    def book(self, key: str, cost: int) -> tuple[float, bool]:
        """Seconds until the place is due, and true. Where all are taken: when to ask again."""
        wait = 0.0
        for number, (booking, burst_s) in enumerate(self._rules):
            result = booking.limit(f"{number}:{key}", cost)
            if not result:
                for taken, (other, _) in enumerate(self._rules[:number]):
                    other._settle(f"{taken}:{key}", 0, cost)
                return FARTHEST_S * random.uniform(0.5, 1.0), False
            wait = max(wait, result.state.reset_after - burst_s)
        return wait, True


class _Limits:
    """The limits of one task in one process: made there when it first runs."""

    def __init__(self, task: Any, store: AnyStore) -> None:
        self.store = store
        self.throttled: Throttled | None = None
        self._lines: dict[tuple[Quota, ...], _Line] = {}
        if task.quota is not None:
            self.throttled = Throttled(using=task.using, quota=task.quota, store=store)
        self._runs: Throttled | None = None
        if task.concurrency is not None:
            # Milliseconds that permits are busy with what was put back.
            ahead = task.concurrency * int(FARTHEST_S * 1000)
            self._runs = Throttled(
                using="gcra",
                quota=per_sec(task.concurrency * 1000, ahead),
                store=store,
                key_prefix=LINE_PREFIX,
            )
        self._run_s: float | None = None  # the mean of late

    def rules_for(self, key: str) -> tuple[Quota, ...]:
        """The rules of the quota: more than one where the quota is a list."""
        assert self.throttled is not None
        quota: Any = self.throttled.quota
        if callable(quota):
            quota = Throttled(quota=cast("QuotaLike", quota(key)), store="memory://").quota
        return quota if isinstance(quota, tuple) else (quota,)

    def most(self, key: str) -> int:
        """The highest cost that the quota of `key` ever admits."""
        windows = self.throttled is not None and "window" in self.throttled.using
        return min(rule.rate.limit if windows else rule.burst for rule in self.rules_for(key))

    def line_for(self, key: str) -> _Line:
        rules = self.rules_for(key)
        line = self._lines.get(rules)
        if line is None:
            if len(self._lines) >= 1000:  # a quota for each key: what is booked is in the store
                self._lines.clear()
            line = self._lines[rules] = _Line(rules, self.store)
        return line

    def until_a_permit(self, key: str) -> float:
        """Seconds until a permit is likely to be free for one more, by how long runs take here."""
        assert self._runs is not None
        run_s = GUESSED_RUN_S if self._run_s is None else self._run_s
        result = self._runs.limit(f"permits:{key}", max(1, round(run_s * 1000)))
        wait = result.state.reset_after if result else FARTHEST_S
        return min(wait, LONGEST_RUN_S) * random.uniform(0.9, 1.0)

    def ran(self, seconds: float) -> None:
        seconds = min(seconds, LONGEST_RUN_S)
        known = seconds if self._run_s is None else self._run_s
        self._run_s = known + 0.3 * (seconds - known)


class _Later(Exception):
    """A task may not run yet, but in so many seconds."""

    def __init__(self, seconds: float, why: str, placed: bool) -> None:
        super().__init__(why)
        self.seconds, self.why, self.placed = seconds, why, placed


class RateLimitedTask(celery.Task):  # type: ignore[misc,unused-ignore]
    """The base of tasks with limits that hold for all workers together.

    quota: "10/s", "10/s; 1000/h", or a function of the key. concurrency: so many of the tasks run
    at a time. key: whose limit it is, a text or a function of the task's arguments (None from it:
    no limit); the task's name by default. Tasks that give one key share its limit. cost: what a
    run takes of the quota, or a function of the arguments. store: a store or a URL; by default
    `headway_store` of the app's configuration, else the app's broker if that is Redis. using: the
    algorithm. max_wait: for how many seconds a process of the worker may be kept waiting; who has
    to wait longer goes back to the broker, and shows as RETRY meanwhile. That does not count as
    one of the task's own retries.

    A task that is called as a function is that function, without limits; one that is run by
    `apply()` waits in place. Raises `DataError` or `SetUpError` naming what cannot be used.
    """

    abstract = True

    quota: ClassVar[QuotaLike | Callable[[Any], QuotaLike] | None] = None
    concurrency: ClassVar[int | None] = None
    key: ClassVar[str | Callable[..., str | None] | None] = None
    cost: ClassVar[int | Callable[..., int]] = 1
    store: ClassVar[AnyStore | str | None] = None
    using: ClassVar[str | RateLimiterType | None] = None
    max_wait: ClassVar[float] = 0.1

    _limits: _Limits | None = None

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        for name in ("quota", "key", "cost"):  # functions given as options are not methods
            value = cls.__dict__.get(name)
            if callable(value):
                setattr(cls, name, staticmethod(value))
        _check(cls)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        request = self.request
        if request.called_directly or getattr(request, "headway_admitted", False):
            return super().__call__(*args, **kwargs)
        key, cost = self._key_and_cost(args, kwargs)
        if key is None or (self.quota is None and self.concurrency is None):
            return self.run(*args, **kwargs)
        with self._admitted(key, cost):
            request.headway_admitted = True
            return self.run(*args, **kwargs)

    def _key_and_cost(self, args: Any, kwargs: Any) -> tuple[str | None, int]:
        key = self.key(*args, **kwargs) if callable(self.key) else self.key or self.name
        if key is not None and (not isinstance(key, str) or not key):
            raise DataError(
                f"Invalid key: {key!r}, must be a text that is not empty, or None for no limit."
            )
        cost = self.cost(*args, **kwargs) if callable(self.cost) else self.cost
        return key, _check_cost(cost)

    @contextmanager
    def _admitted(self, key: str, cost: int) -> Iterator[None]:
        """Hold what the task needs to run, or put it back."""
        limits = self._limits
        if limits is None:
            limits = self._limits = _Limits(self, _store_of(self))
        if self.quota is not None:
            most = limits.most(key)
            if cost > most:
                raise DataError(f"Invalid cost: {cost}, the quota of {key!r} has at most {most}.")
        history = self._history()
        placed, failures = self.request.is_eager or history["placed"], history["failures"]
        while True:
            permit = None
            try:
                if not placed:
                    self._wait_for_its_place(limits, key, cost)
                permit = self._permit(limits, key)
                self._take(limits, key, cost)
                break
            except BaseException as error:
                if permit is not None:
                    permit.__exit__(None, None, None)
                if isinstance(error, _Later):
                    later = error
                elif isinstance(error, StoreUnavailableError) and not self.request.is_eager:
                    failures += 1
                    later = self._later_without_store(error, failures)
                else:
                    raise
            placed = later.placed
            self._put_back(later, failures)
        since = time.monotonic()
        try:
            yield
        finally:
            limits.ran(time.monotonic() - since)
            if permit is not None:
                permit.__exit__(None, None, None)

    def _wait_for_its_place(self, limits: _Limits, key: str, cost: int) -> None:
        if self.quota is None:
            return
        wait, placed = limits.line_for(key).book(key, cost)
        if wait > self.max_wait:
            raise _Later(wait, f"over the quota of {key!r}", placed)

    def _permit(self, limits: _Limits, key: str) -> SyncSemaphore | None:
        if self.concurrency is None:
            return None
        wait = 0.0 if self.request.is_eager else max(self.max_wait, 0.001)  # 0 is without end
        permit = SyncSemaphore(
            f"{PERMIT_PREFIX}:{key}", self.concurrency, wait, EXPIRY_S, limits.store
        )
        try:
            permit.__enter__()
        except MaxSleepExceededError:
            wait = limits.until_a_permit(key)
            raise _Later(wait, f"{self.concurrency} of {key!r} run already", True) from None
        return permit

    def _take(self, limits: _Limits, key: str, cost: int) -> None:
        if limits.throttled is None:
            return
        wait = math.inf if self.request.is_eager else self.max_wait or -1
        result = limits.throttled.limit(key, cost, wait)
        if not result:  # it came late, as others did; or somebody else uses the quota too
            wait, placed = limits.line_for(key).book(key, cost)
            wait = min(max(wait, result.state.retry_after), FARTHEST_S)
            raise _Later(wait, f"over the quota of {key!r}", placed)

    # Going back to the broker.

    def _history(self) -> dict[str, Any]:
        """What is known of a task that was put back. A retry of its own begins anew."""
        request = self.request
        found = (request.headers or {}).get(HEADER)
        if not isinstance(found, dict) or found.get("retries") != request.retries:
            return {"placed": False, "failures": 0}
        return found

    def _put_back(self, later: _Later, failures: int) -> None:
        """Send the task again, to come in so many seconds, and raise Retry, which ends this run.

        A broker that does not take it costs no task its life: it waits in this process for the
        broker, and returns when its turn has come before that.
        """
        request = self.request
        history = {"placed": later.placed, "failures": failures, "retries": request.retries}
        headers = {**(request.headers or {}), HEADER: history}
        until = time.monotonic() + later.seconds
        pause, most = BACK_OFF_S
        while True:
            rest = max(0.0, until - time.monotonic())
            signature: Any = self.signature_from_request(request, countdown=rest, headers=headers)
            try:
                signature.apply_async()
            except (OperationalError, OSError) as error:
                logger.warning(
                    "%s waits here, the broker does not take it back: %s", self.name, error
                )
            else:
                raise Retry(f"{later.why}: back in {rest:.3g} s", when=rest, sig=signature)
            rest = until - time.monotonic()
            if rest <= 0:
                return
            time.sleep(min(rest, pause))
            pause = min(2 * pause, most)

    def _later_without_store(self, error: StoreUnavailableError, failures: int) -> _Later:
        """A store that does not answer costs no task its life."""
        first, most = BACK_OFF_S
        wait = min(first * 2 ** (failures - 1), most) * random.uniform(0.5, 1.0)
        logger.warning("%s is put back for %.1f s: %s", self.name, wait, error)
        return _Later(wait, "its limits do not answer", False)


def _check(cls: type[RateLimitedTask]) -> None:
    """What can be known when the task is defined."""
    if cls.quota is not None:
        Throttled(using=cls.using, quota=cls.quota, store="memory://")
    if cls.concurrency is not None:
        try:
            positive_int("concurrency", cls.concurrency, 10**6)
        except ValueError as error:
            raise DataError(str(error)) from None
    if cls.key is not None and (not cls.key or not (isinstance(cls.key, str) or callable(cls.key))):
        raise DataError(
            f"Invalid key: {cls.key!r}, must be a text or a function of the task's arguments."
        )
    if not callable(cls.cost):
        _check_cost(cls.cost)
    wait = cls.max_wait
    if not isinstance(wait, (int, float)) or isinstance(wait, bool) or not 0 <= wait <= 60:
        raise DataError(f"Invalid max_wait: {wait!r}, must be seconds between 0 and 60.")


def _check_cost(cost: object) -> int:
    if not isinstance(cost, int) or isinstance(cost, bool) or cost < 0:
        raise DataError(
            f"Invalid cost: {cost}, must be an integer greater than or equal to 0, or a function "
            "of the task's arguments."
        )
    return cost


def _store_of(task: RateLimitedTask) -> AnyStore:
    conf = task.app.conf
    store = task.store or conf.get("headway_store")
    if store is None:
        broker = conf.broker_url
        if not isinstance(broker, str) or not broker.startswith(("redis://", "unix://")):
            raise SetUpError(
                f"{task.name} has no store that workers share: set app.conf.headway_store = "
                "'redis://localhost:6379/0', or store= of the task ('memory://' for limits of each "
                "process alone)."
            )
        store = broker
    return from_any(store)

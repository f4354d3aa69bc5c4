"""The table of limits behind every integration: from a request to a verdict.

    policy = Policy([Rule("100/minute"), Rule("5/minute", name="login", paths="/login")])
    verdict = policy.decide(facts)                      # or: await policy.decide_async(facts)

The way to a verdict is one generator, `_deciding`. It yields what has to be asked of a store; the
two drivers differ in nothing but whether they await the answer.

All rules that apply must admit. Permits of concurrency are asked for first and given back where
a rule denies. What was taken from buckets is given back where a later rule denies, so a denied
request consumes nothing. Fixed and sliding windows cannot give back: they are asked last, and where
there are several, looked at before the first of them is asked.
"""

import logging
import threading
from collections.abc import Callable, Generator, Iterable
from inspect import iscoroutinefunction
from typing import Any

from headway import _core
from headway._forks import open_after_fork
from headway.contrib._entries import Entry, Limits, order_of, rules_of
from headway.contrib._facts import Facts
from headway.contrib._headers import HEADERS, RESETS
from headway.contrib._held import Held
from headway.contrib._keys import (
    ClientAddress,
    KeyLike,
    checked_key,
    client_address,
    key_function,
)
from headway.contrib._paths import kept
from headway.contrib._rules import (
    Concurrency,
    Exempt,
    Exemptions,
    Quotas,
    Rule,
    RuleLike,
    checked_name,
    checked_switch,
    quotas_of,
)
from headway.contrib._verdict import Outcome, Verdict
from headway.exceptions import DataError, SetUpError, StoreUnavailableError
from headway.types import AnyStore

__all__ = [
    "Policy",
    "checked_on_limited",
    "checked_style",
    "refuse_coroutine",
    "rules_of",
    "store_of",
]

logger = logging.getLogger("headway.contrib")

ON_ERROR = ("allow", "deny", "raise")
_TIERS_MAX = 256
"""Answers of a quota callable that are kept."""
_AT_ONCE_S = 1e-6
"""The longest wait for a permit: semaphores take 0 for no end."""


Steps = Generator[tuple[Any, Any, int], Any, None]
_AWAIT, _PERMIT = "await", "permit"


class Policy:
    """A table of limits, and what becomes of requests that they deny.

    limits: a rule, a quota, or a list. Quotas alone make one rule, that all of them must admit.
    name: that of a rule without one; of several, "name:1" and so on. On one store, rules of one
    name and key share their counts, and so do policies that name nothing. key: who is limited where
    a rule does not say, `client_address()` by default.
    store: where the counts are; a MemoryStore of its own by default, so one for each process.
    headers: "both", "ietf" (RateLimit, RateLimit-Policy), "x" (X-RateLimit-*) or "none".
    reset: whether X-RateLimit-Reset is in seconds "after" now, or "at" a Unix time.
    dry_run: decide, log and count, but deny nothing and add no headers.
    on_error: what a request is when the store cannot answer: "deny" (503), "allow", or "raise".
    exempt: paths, and callables of the request, that no rule is for. awaits: whether
    `decide_async` is going to be used, or `decide`, which cannot have coroutine functions as
    callables and refuses them now, unless refuse_coroutines is false.
    """

    def __init__(
        self,
        limits: "RuleLike | Iterable[RuleLike]",
        *,
        key: KeyLike | None = None,
        store: object = None,
        headers: str = "both",
        reset: str = "after",
        dry_run: bool = False,
        on_error: str = "deny",
        exempt: "Exempt | Iterable[Exempt] | None" = None,
        awaits: bool = False,
        name: str = "default",
        refuse_coroutines: bool = True,
    ) -> None:
        self.headers, self.reset = checked_style(headers, reset)
        self.on_error = _one_of("on_error", on_error, ON_ERROR)
        self.awaits = awaits
        self.store = store_of(store)
        self.exempt = Exemptions(exempt)
        default = client_address() if key is None else key_function(key)
        rules = rules_of(limits, checked_name("name", name))
        dry_run = checked_switch("dry_run", dry_run)
        self.entries = [
            Entry(rule, rule.name or name_of, default, dry_run) for rule, name_of in rules
        ]
        names = [entry.name for entry in self.entries]
        for one in names:
            if names.count(one) > 1:
                raise SetUpError(
                    f"Invalid limits: two rules are named {one!r}, and would count together: give "
                    "each a name of its own, and one scope to both if that is meant."
                )
        self._down = False
        self._lock = open_after_fork(threading.Lock())
        for entry in self.entries:
            if isinstance(entry.rule, Concurrency):
                self._semaphore(entry.rule, f"{entry.prefix}set-up")  # refuses what has no permits
            elif entry.rule.quotas is not None:
                entry.limits = self._limits(entry, entry.rule.quotas)
        if refuse_coroutines and not awaits:
            for function in self._functions():
                refuse_coroutine("callable", function)
        self._applying = self._table()
        self._only = self._only_one()

    def applying(self, method: str, path: str) -> tuple[Entry, ...]:
        """The rules for a method and a path; those that cannot give back come last."""
        return self._applying(method, path)

    def counts(self) -> dict[str, dict[str, int]]:
        """For each rule how many it denied, would have denied in a dry run, and could not decide.

        Those are of this process, since it started.
        """
        with self._lock:
            return {entry.name: dict(entry.counts) for entry in self.entries}

    def decide(self, facts: Facts, websocket: bool = False) -> Verdict:
        """The verdict on a request. Call its `release` when the response has ended.

        Raises StoreUnavailableError where on_error is "raise", DataError where a callable of the
        user's own returns what cannot be used.
        """
        verdict = Verdict(self.headers, self.reset)
        steps = self._deciding(facts, websocket, verdict)
        try:
            what, key, cost = next(steps)
            while True:
                try:
                    if what is _PERMIT:
                        answer = key.__enter__()
                    elif what is _AWAIT:
                        close = getattr(key, "close", None)
                        if close is not None:
                            close()
                        raise DataError(
                            f"Invalid callable: it returned {key!r}, which must be awaited; give "
                            "one that is not a coroutine function."
                        )
                    else:
                        answer = what.limit(key, cost)
                except Exception as error:
                    what, key, cost = steps.throw(error)
                else:
                    what, key, cost = steps.send(answer)
        except StopIteration:
            return verdict
        except BaseException:
            verdict.give_back()
            verdict.release()
            raise

    async def decide_async(self, facts: Facts, websocket: bool = False) -> Verdict:
        """The same, awaited: for a policy that was made with `awaits`."""
        verdict = Verdict(self.headers, self.reset)
        entry = self._only
        if entry is not None and entry.limits is not None:  # the usual case costs 1 us less so
            ask = Outcome(entry, entry.limits, entry.key(facts), entry.cost, None)
            try:
                ask.result = await entry.limits.limiter.limit(ask.key, ask.cost)
            except StoreUnavailableError as error:
                self._unavailable(ask, verdict, error)
            else:
                self._answered(ask, verdict)
            return verdict
        steps = self._deciding(facts, websocket, verdict)
        try:
            what, key, cost = next(steps)
            while True:
                try:
                    if what is _PERMIT:
                        answer = await key.__aenter__()
                    elif what is _AWAIT:
                        answer = await key
                    else:
                        answer = await what.limit(key, cost)
                except Exception as error:
                    what, key, cost = steps.throw(error)
                else:
                    what, key, cost = steps.send(answer)
        except StopIteration:
            return verdict
        except BaseException:
            verdict.give_back()
            await verdict.release_async()
            raise

    def _deciding(self, facts: Facts, websocket: bool, verdict: Verdict) -> Steps:
        for exempt in self.exempt.asked:
            answer = exempt(facts)
            if hasattr(answer, "__await__"):
                answer = yield _AWAIT, answer, 0
            if answer:
                return
        asks: list[Outcome] = []
        for entry in self._applying(facts.method, facts.path):
            rule = entry.rule
            exempted = False
            for exempt in rule.exempt.asked:
                exempted = exempt(facts)
                if hasattr(exempted, "__await__"):
                    exempted = yield _AWAIT, exempted, 0
                if exempted:
                    break
            if exempted:
                continue
            key = entry.key(facts)
            if type(key) is not str:
                if hasattr(key, "__await__"):
                    key = yield _AWAIT, key, 0
                if key is None:
                    continue
            key = checked_key(key, entry.key)
            if isinstance(rule, Concurrency):
                if rule.websockets if websocket else rule.requests:
                    yield from self._entering(rule, Outcome(entry, None, key, 1, None), verdict)
                    if verdict.status != 200:
                        break
                continue
            limits = entry.limits
            if limits is None:
                assert rule.quota_of is not None
                quota = rule.quota_of(facts)
                if hasattr(quota, "__await__"):
                    quota = yield _AWAIT, quota, 0
                if quota is None:
                    continue
                limits = self._limits(entry, quotas_of(quota))
            cost = rule.cost
            if rule.cost_of is not None:
                cost = rule.cost_of(facts)
                if hasattr(cost, "__await__"):
                    cost = yield _AWAIT, cost, 0
                if not isinstance(cost, int) or isinstance(cost, bool) or cost < 0:
                    raise DataError(
                        f"Invalid cost: {cost!r} of the rule {entry.name!r}, must be an integer "
                        "greater than or equal to 0."
                    )
            asks.append(Outcome(entry, limits, key, cost, None))
        else:
            if len(asks) > 1:
                yield from self._look_at_windows(asks)
            for at, ask in enumerate(asks, 1):
                assert ask.limits is not None
                try:
                    ask.result = yield ask.limits.limiter, ask.key, ask.cost
                except StoreUnavailableError as error:
                    self._unavailable(ask, verdict, error)
                else:
                    self._answered(ask, verdict)
                if verdict.status != 200:
                    if verdict.denied is ask:
                        yield from self._longest_wait(asks[at:], verdict)
                    break
        if verdict.status != 200:
            verdict.give_back()
            verdict.outcomes = [] if verdict.denied is None else [verdict.denied]

    def _answered(self, ask: Outcome, verdict: Verdict) -> None:
        if self._down:
            self._answers_again()
        if not ask.result:
            self._denied(ask, verdict)
            if verdict.denied is ask:
                verdict.outcomes = [ask]
            return
        verdict.taken.append(ask)
        if not ask.entry.dry_run:
            verdict.outcomes.append(ask)

    def _entering(self, rule: Concurrency, ask: Outcome, verdict: Verdict) -> Steps:
        """A permit, at once or not at all."""
        from headway.limiters import MaxSleepExceededError

        permit = self._semaphore(rule, ask.entry.prefix + ask.key)
        try:
            yield _PERMIT, permit, 1
        except MaxSleepExceededError:
            self._denied(ask, verdict)
        except StoreUnavailableError as error:
            self._unavailable(ask, verdict, error)
        else:
            if not verdict.permits:
                verdict.permits = Held()
            verdict.permits.append(permit)
            if self._down:
                self._answers_again()

    def _look_at_windows(self, asks: list[Outcome]) -> Steps:
        """Bring a window forward that is going to deny: what the others take would be lost."""
        windows = [ask for ask in asks if not ask.gives_back]
        if len(windows) < 2:
            return
        for ask in windows:
            assert ask.limits is not None
            try:
                result = yield ask.limits.limiter, ask.key, 0
            except StoreUnavailableError:
                return  # the one who asks will meet it too
            if result.state.remaining < ask.cost:
                asks.remove(ask)
                asks.insert(0, ask)
                return

    def _longest_wait(self, rest: list[Outcome], verdict: Verdict) -> Steps:
        """Of rules that would deny too, the one that is waited for longest is told."""
        for ask in rest:
            if ask.entry.dry_run:
                continue
            assert ask.limits is not None
            limiter = ask.limits.limiter
            try:
                look = yield limiter, ask.key, 0
                if look.state.remaining >= ask.cost:
                    continue
                ask.result = yield limiter, ask.key, ask.cost
            except StoreUnavailableError:
                return  # the denial stands
            if ask.result:  # it was free again between the two
                verdict.taken.append(ask)
                continue
            denied = verdict.denied
            assert denied is not None
            assert denied.result is not None
            if ask.result.state.retry_after > denied.result.state.retry_after:
                verdict.denied = ask

    def _denied(self, ask: Outcome, verdict: Verdict) -> None:
        entry = ask.entry
        with self._lock:
            entry.counts["dry_run" if entry.dry_run else "denied"] += 1
        if entry.dry_run:
            verdict.dry.append(ask)
            logger.info("Dry run: the rule %r would deny a request of %r.", entry.name, ask.key)
            return
        logger.debug("The rule %r denies a request of %r.", entry.name, ask.key)
        verdict.status = 429
        verdict.denied = ask

    def _unavailable(self, ask: Outcome, verdict: Verdict, error: StoreUnavailableError) -> None:
        with self._lock:
            ask.entry.counts["unavailable"] += 1
            first, self._down = not self._down, True
        policy = "allow" if ask.entry.dry_run else self.on_error
        if first:
            logger.warning(
                "The store of rate limits cannot answer, and on_error=%r says what becomes of "
                "requests until it does: %s",
                policy,
                error,
            )
        verdict.error = error
        if policy == "raise":
            raise error
        if policy == "deny":
            verdict.status = 503

    def _answers_again(self) -> None:
        with self._lock:
            again, self._down = self._down, False
        if again:
            logger.info("The store of rate limits answers again.")

    def _limits(self, entry: Entry, quotas: Quotas) -> Limits:
        found = entry.tiers.get(quotas)
        if found is None:
            assert isinstance(entry.rule, Rule)
            found = Limits(entry, entry.rule, quotas, self.store, self.awaits)
            if len(entry.tiers) >= _TIERS_MAX:
                entry.tiers.clear()
            entry.tiers[quotas] = found
        return found

    def _semaphore(self, rule: Concurrency, name: str) -> Any:
        from headway.limiters import AsyncSemaphore, SyncSemaphore

        kind = AsyncSemaphore if self.awaits else SyncSemaphore
        return kind(name, rule.limit, _AT_ONCE_S, rule.expiry, self.store)

    def _only_one(self) -> Entry | None:
        """The rule of a policy that has one for all requests, and nothing to ask but addresses."""
        entry = self.entries[0]
        plain = entry.rule.matches_all and not entry.rule.exempt.asked and entry.cost >= 0
        free = self.exempt.paths is None and not self.exempt.asked
        if len(self.entries) > 1 or not (plain and free and isinstance(entry.key, ClientAddress)):
            return None
        return entry

    def _functions(self) -> Iterable[Callable[[Any], Any]]:
        """The callables of the user's own that rules ask."""
        asked: list[Any] = [*self.exempt.asked]
        for entry in self.entries:
            asked += entry.rule.exempt.asked
            if isinstance(entry.rule, Rule):
                asked += (entry.rule.quota_of, entry.rule.cost_of)
            yield from entry.key.functions()
        for one in asked:
            if one is not None:
                yield one.function

    def _table(self) -> Callable[[str, str], tuple[Entry, ...]]:
        entries = sorted(self.entries, key=order_of)
        exempt = self.exempt.paths
        if exempt is None and all(entry.rule.matches_all for entry in entries):
            everything = tuple(entries)
            return lambda method, path: everything

        def applying(method: str, path: str) -> tuple[Entry, ...]:
            if exempt is not None and exempt.covers(path):
                return ()
            return tuple(entry for entry in entries if entry.rule.matches(method, path))

        return kept(applying, 4096)


def checked_style(headers: object, reset: object) -> tuple[str, str]:
    """How clients are told. Raises SetUpError."""
    return _one_of("headers", headers, HEADERS), _one_of("reset", reset, RESETS)


def _one_of(field: str, value: object, known: tuple[str, ...]) -> str:
    if value not in known:
        raise SetUpError(f"Invalid {field}: {value!r}, must be one of: {', '.join(known)}.")
    return str(value)


def refuse_coroutine(what: str, function: Any) -> None:
    """Raises SetUpError for a coroutine function, where nothing is there to await it."""
    if iscoroutinefunction(function) or iscoroutinefunction(getattr(function, "__call__", None)):  # noqa: B004
        raise SetUpError(
            f"Invalid {what}: {function!r} is a coroutine function, and this limit does not "
            "await: give a plain function, or make the view or endpoint a coroutine function."
        )


def checked_on_limited(value: Any) -> Any:
    """A callable that answers denials, or None. Raises SetUpError."""
    if value is None or callable(value):
        return value
    raise SetUpError(
        f"Invalid on_limited: {value!r}, must be a callable that takes the request and the "
        "verdict, or None."
    )


def store_of(store: object) -> AnyStore:
    """The store that a store or a URL stands for; None is one of its own. Raises SetUpError."""
    if store is None:
        return _core.MemoryStore()
    from headway.store import from_any

    return from_any(store)

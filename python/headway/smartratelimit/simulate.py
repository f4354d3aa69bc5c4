"""What a workload will meet: requests and budgets in, times and waits out. Nothing is sent.

    result = simulate([Budget("requests", 60, timedelta(minutes=1))], requests=200)
    result.wall_seconds    # 140.0

A budget is a bucket that starts full and fills evenly, which is how a configured limit is kept. It
is the core's own step (`headway.algorithms.step`) on a clock of whole nanoseconds, so nothing
drifts however long the run: 10^6 requests take two or three seconds.

Requests stand in one queue. The first of them takes the worker that is free soonest and the key
that can pay soonest, and if none can pay it waits at the head, so a wait is the time for which a
request kept the queue waiting.

It tells when the limiter holds a request back. It does not tell the server's 429s: these depend
on who else uses the key, on undocumented bursts, and on how good the estimates of cost are.
"""

import math
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import timedelta
from fractions import Fraction
from heapq import heappop, heappush

from headway._core import Quota, Rate, step
from headway.exceptions import DataError
from headway.smartratelimit._arguments import invalid, items, name, number, positive_number, whole
from headway.smartratelimit._windows import format_window
from headway.smartratelimit.exceptions import InvalidArgument

__all__ = [
    "DEFAULT_HORIZON",
    "Budget",
    "BudgetResult",
    "SimulationError",
    "SimulationResult",
    "simulate",
]

DEFAULT_HORIZON = 24 * 3600.0
"""Seconds of simulated time after which a run ends unfinished."""

_SECOND = 10**9
_COUNT_MAX = 10**9
_KEYS_MAX = 10**6
# The core's clock tells 146 years; a wait is no longer than a window, which is 10 at most.
_HORIZON_MAX = 100 * 365 * 86400.0
_LATENCY_MAX = 10 * 365 * 86400.0


class SimulationError(InvalidArgument):
    """A scenario that cannot be simulated, and what would make it one. A ValueError too."""


@dataclass
class Budget:
    """One limit, and what a request spends of it."""

    name: str
    limit: int
    window: timedelta
    cost: float = 1.0

    @property
    def refill_rate(self) -> float:
        """Units that come in a second."""
        return self.limit / self.window.total_seconds()

    @property
    def ceiling_rps(self) -> float:
        """Requests a second that it allows once the bucket is empty."""
        return math.inf if self.cost <= 0 else self.refill_rate / self.cost


@dataclass
class BudgetResult:
    """What one budget did."""

    name: str
    limit: int
    window: timedelta
    cost: float
    ceiling_rps: float
    """With all keys together."""
    achieved_per_window: float
    utilisation: float
    blocked: int
    """Requests that waited for this budget longest."""
    binding: bool
    """Whether no other has a lower ceiling; whether it held anything back is `blocked`."""


@dataclass
class SimulationResult:
    """What came of it."""

    requests: int
    workers: int
    keys: int
    wall_seconds: float
    """When the last request went out."""
    achieved_rps: float | None
    """None where all went out at once."""
    throttled: int
    total_wait_seconds: float
    budgets: list[BudgetResult]
    binding: str | None
    """The budget that held back most requests."""
    concurrency_ceiling_rps: float | None
    """Requests a second that the workers can do; None without latency."""
    burst_affected: bool
    """Whether the buckets that were full at first let more through than can be kept up."""
    completed: bool = True

    @property
    def throttled_fraction(self) -> float:
        """The share of requests that waited, 0.0 to 1.0."""
        return self.throttled / self.requests if self.requests else 0.0

    @property
    def mean_wait_seconds(self) -> float:
        """The mean wait of those that waited."""
        return self.total_wait_seconds / self.throttled if self.throttled else 0.0

    def budget(self, name: str) -> BudgetResult | None:
        """The result of one budget."""
        return next((found for found in self.budgets if found.name == name), None)


def simulate(
    budgets: Iterable[Budget],
    requests: int,
    workers: int = 1,
    keys: int = 1,
    latency: float = 0.0,
    horizon: float = DEFAULT_HORIZON,
) -> SimulationResult:
    """Send `requests` through `budgets` in virtual time.

    workers: requests under way at one time; `latency`: seconds that each is.
    keys: API keys, each with budgets of its own; a request takes the one that can pay soonest.
    horizon: seconds of simulated time after which it gives up; `completed` tells.
    SimulationError where the scenario makes no sense or no request could ever be sent.
    """
    try:
        whole("requests", requests, 1, _COUNT_MAX)
        whole("workers", workers, 1, _COUNT_MAX)
        whole("keys", keys, 1, _KEYS_MAX)
        latency_ns = round(number("latency", latency, _LATENCY_MAX, " of seconds") * _SECOND)
        until = _HORIZON_MAX if horizon == math.inf else horizon
        end_ns = round(positive_number("horizon", until, _HORIZON_MAX, " of seconds") * _SECOND)
        rules = [rule for rule in _rules(budgets) if rule.cost]
    except InvalidArgument as error:
        raise SimulationError(str(error)) from None

    accounts = [_Account(rules) for _ in range(keys)]
    payable = list(range(keys))  # a heap: keys that can pay now
    waiting: list[tuple[int, int]] = []  # a heap: the instant, and the key that can pay then
    under_way: deque[int] = deque()  # when each busy worker is free again, in order
    now = sent = throttled = waited = 0
    while sent < requests and now <= end_ns:
        if len(under_way) == workers:
            now = max(now, under_way.popleft())
        while waiting and waiting[0][0] <= now:
            heappush(payable, heappop(waiting)[1])
        if not payable:
            ready, key = heappop(waiting)
            culprit = accounts[key].culprit
            if culprit is not None:
                culprit.blocked += 1
            throttled += 1
            waited += ready - now
            now = ready
            payable.append(key)
        key = payable[0]
        ready = accounts[key].pay(now)
        if ready > now:
            heappop(payable)
            heappush(waiting, (ready, key))
        sent += 1
        if latency_ns:
            under_way.append(now + latency_ns)

    results = _results(rules, sent, keys, now)
    held = max(results, key=lambda result: result.blocked, default=None)
    return SimulationResult(
        requests=requests,
        workers=workers,
        keys=keys,
        wall_seconds=now / _SECOND,
        achieved_rps=sent * _SECOND / now if now else None,
        throttled=throttled,
        total_wait_seconds=waited / _SECOND,
        budgets=results,
        binding=held.name if held is not None and held.blocked else None,
        concurrency_ceiling_rps=workers / latency if latency > 0 else None,
        burst_affected=any(result.utilisation > 1 for result in results),
        completed=sent >= requests,
    )


class _Rule:
    """A budget in the core's terms. Its unit is the greatest that divides limit and cost."""

    def __init__(self, budget: Budget) -> None:
        name("budget name", budget.name)
        self.budget = budget
        number(f"cost of {budget.name!r}", budget.cost, 1e300)
        positive_number(f"limit of {budget.name!r}", budget.limit, 1e300)
        if not isinstance(budget.window, timedelta) or budget.window <= timedelta(0):
            invalid(f"window of {budget.name!r}", budget.window, "a timedelta above 0")
        self.limit_exact, self.cost_exact = _exact(budget.limit), _exact(budget.cost)
        if self.cost_exact > self.limit_exact:
            window = format_window(budget.window)
            raise InvalidArgument(
                f"A request costs {budget.cost:g} of {budget.name!r}, which never has more than "
                f"{budget.limit:g} per {window}: no request can ever be sent. Raise the limit or "
                "lower the cost."
            )
        unit = _greatest_unit(self.limit_exact, self.cost_exact)
        limit, self.cost = int(self.limit_exact / unit), int(self.cost_exact / unit)
        try:
            self.quota = Quota(Rate(budget.window, limit), limit)
        except (DataError, OverflowError) as error:
            raise InvalidArgument(
                f"Invalid budget {budget.name!r}: {limit} units of {float(unit):g} per "
                f"{format_window(budget.window)} are more than can be counted ({error})"
            ) from None
        self.blocked = 0

    @property
    def ceiling(self) -> Fraction:
        """Requests a nanosecond that one key allows."""
        return self.limit_exact / self.cost_exact / self.window_ns

    @property
    def window_ns(self) -> int:
        return self.budget.window // timedelta(microseconds=1) * 1000


class _Account:
    """What one key has left of each budget."""

    __slots__ = ("_states", "culprit")

    def __init__(self, rules: list[_Rule]) -> None:
        self._states: list[tuple[_Rule, bytes | None]] = [(rule, None) for rule in rules]
        self.culprit: _Rule | None = None  # whose wait is the longest

    def pay(self, now: int) -> int:
        """Pay for a request that can be paid; return the instant at which another can be."""
        longest = 0.0
        states = self._states
        for i, (rule, state) in enumerate(states):
            paid, result = step(state, rule.quota, rule.cost, now, using="gcra")
            if result.limited:
                raise AssertionError(f"{rule.budget.name} cannot pay at {now}")
            states[i] = rule, paid
            _, result = step(paid, rule.quota, rule.cost, now, using="gcra")
            if result.limited:
                wait = result.state.retry_after
                if wait > longest:
                    longest, self.culprit = wait, rule
        wait_ns = longest * _SECOND
        # Seconds as a float tell the nanosecond up to 26 days; later it is better to be late.
        return now + round(wait_ns) + int(wait_ns * 4.5e-16)


def _rules(budgets: object) -> list[_Rule]:
    found: dict[str, _Rule] = {}
    for budget in items("budgets", budgets, "a list of Budget"):
        if not isinstance(budget, Budget):
            invalid("budget", budget, "a Budget")
        if budget.name in found:
            invalid("budget", budget, "the only one of its name")
        found[budget.name] = _Rule(budget)
    if not found:
        invalid("budgets", budgets, "a list of at least one Budget")
    return list(found.values())


def _results(rules: list[_Rule], sent: int, keys: int, now: int) -> list[BudgetResult]:
    tightest = min((rule.ceiling for rule in rules), default=Fraction(0))
    found = []
    for rule in rules:
        # At least one window: what a burst spends in no time is a share of a window all the same.
        windows = Fraction(max(now, rule.window_ns), rule.window_ns)
        achieved = sent * rule.cost_exact / windows
        found.append(
            BudgetResult(
                name=rule.budget.name,
                limit=rule.budget.limit,
                window=rule.budget.window,
                cost=rule.budget.cost,
                ceiling_rps=float(rule.ceiling * keys * _SECOND),
                achieved_per_window=float(achieved),
                utilisation=float(achieved / keys / rule.limit_exact),
                blocked=rule.blocked,
                binding=rule.ceiling == tightest,
            )
        )
    return found


def _exact(value: float) -> Fraction:
    """0.1 is a tenth: what was written, not the float next to it."""
    return Fraction(repr(value)) if isinstance(value, float) else Fraction(value)


def _greatest_unit(a: Fraction, b: Fraction) -> Fraction:
    """The greatest number of which both are multiples."""
    common = math.lcm(a.denominator, b.denominator)
    return Fraction(math.gcd(int(a * common), int(b * common)), common)

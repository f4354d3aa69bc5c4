"""Random lives of one line, step by step beside a model that fits on a page.

Tasks join, give up, run into a timeout or lose their event loop, in any order, while the clock
moves and others ask without waiting. The model is the contract: a bucket in exact rationals and a
list. After every step the same waiters must have been served, in the same order, and no interval
may have seen more than the quota. At the end the clock goes far ahead: everybody who is left must
have been served and the bucket be full, so no token was lost.
"""

from __future__ import annotations

import asyncio
import gc
import logging
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any

import pytest
from hypothesis import Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from task_lines import turns

from effort import rounds
from headway import MemoryStore, VirtualClock
from headway.asyncio import Throttled

START_NS = 10**18
SECOND = 10**9
PERIOD_S = 30
"""Long beside the steps of the clock, so that lines grow."""
ROUNDING_NS = 1
"""What a promise may be off after somebody has left the line; see store_lines.c, project_without.
Nobody is ever served at another instant for it.
"""


@dataclass
class Waiter:
    """One task as the model sees it."""

    name: int
    cost: int
    deadline: int
    loop: int
    task: Any = None


@dataclass
class Model:
    """A bucket and a list: the head is served when its cost fits, and nobody overtakes."""

    limit: int
    burst: int
    now: int = START_NS
    arrival: Fraction = Fraction(START_NS)
    line: list[Waiter] = field(default_factory=list)
    served: list[int] = field(default_factory=list)
    log: list[tuple[int, int]] = field(default_factory=list)
    """(instant, cost) of all that was admitted since the last reset."""
    last: int = START_NS
    """Up to where the line has been looked at."""

    @property
    def interval(self) -> Fraction:
        return Fraction(PERIOD_S * SECOND, self.limit)

    def fits_at(self, arrival: Fraction, cost: int, now: int) -> int:
        """The first whole nanosecond, from `now` on, at which the cost fits."""
        due = max(Fraction(now), arrival) + (cost - self.burst) * self.interval
        return max(now, -((-due.numerator) // due.denominator))

    def take(self, cost: int, now: int) -> None:
        self.arrival = max(Fraction(now), self.arrival) + cost * self.interval
        self.log.append((now, cost))

    def promise(self, cost: int) -> int:
        """When a newcomer would be served, behind everybody."""
        arrival, now = self.arrival, self.now
        for waiter in [*self.line, None]:
            wanted = cost if waiter is None else waiter.cost
            now = self.fits_at(arrival, wanted, now)
            arrival = max(Fraction(now), arrival) + wanted * self.interval
        return now

    def serve(self) -> list[Waiter]:
        """Serves whom the clock allows, each at the instant at which it was due."""
        done = []
        at = self.last
        while self.line:
            due = self.fits_at(self.arrival, self.line[0].cost, at)
            if due > self.now:
                break
            at = due
            waiter = self.line.pop(0)
            self.take(waiter.cost, due)
            self.served.append(waiter.name)
            done.append(waiter)
        self.last = self.now
        return done


class LineMachine(RuleBasedStateMachine):
    """Two event loops, one key."""

    @initialize(limit=st.integers(1, 7), burst=st.integers(1, 6))
    def begin(self, limit: int, burst: int) -> None:
        logging.getLogger("asyncio").disabled = True
        self.model = Model(limit, burst)
        self.clock = VirtualClock(now_ns=START_NS)
        self.store = MemoryStore(clock=self.clock)
        self.throttle = Throttled(
            "key", using="gcra", quota=f"{limit}/{PERIOD_S}s burst {burst}", store=self.store
        )
        self.loops = [asyncio.new_event_loop() for _ in range(2)]
        self.loop_of: dict[int, int] = {}
        self.served: list[int] = []
        self.left_behind: list[Any] = []
        self.count = 0
        self.ask(burst)

    def run_all(self) -> None:
        """Both loops do what is ready, as often as one may give the other something to do."""
        for _ in range(2):
            for loop in self.loops:
                loop.run_until_complete(turns(8))

    async def wait(self, waiter: Waiter, seconds: float) -> bool:
        result = await self.throttle.limit("key", waiter.cost, seconds)
        if result:
            self.served.append(waiter.name)
        return bool(result)

    def step(self) -> None:
        """Model and limiter go on, and the limiter must have served the model's waiters."""
        done = self.model.serve()
        self.run_all()
        for waiter in done:
            assert waiter.task.done(), f"{waiter} was not served when due"
            assert waiter.task.result() is True

    @rule(
        costs=st.lists(st.integers(1, 3), min_size=1, max_size=4),
        loop=st.integers(0, 1),
        seconds=st.sampled_from([1, 20, 300, 10_000, 10_000]),
    )
    def join(self, costs: list[int], loop: int, seconds: int) -> None:
        """Some come: each is admitted at once, denied at once, or in line."""
        for cost in costs:
            self.join_one(cost, loop, seconds)

    def join_one(self, cost: int, loop: int, seconds: int) -> None:
        model = self.model
        waiter = Waiter(self.count, cost, model.now + seconds * SECOND, loop)
        self.loop_of[waiter.name] = loop
        self.count += 1
        promised = model.promise(cost) if cost <= model.burst else None
        if promised is not None and abs(promised - waiter.deadline) <= ROUNDING_NS:
            return
        denied = promised is None or promised > waiter.deadline
        waiter.task = self.loops[loop].create_task(self.wait(waiter, seconds))
        if not denied:
            model.line.append(waiter)
        self.step()
        if denied:
            assert waiter.task.done(), "a wait known to be too long was begun"
            assert waiter.task.result() is False

    @rule(cost=st.integers(0, 6))
    def ask(self, cost: int) -> None:
        """A call that does not wait, and does not overtake either."""
        model = self.model
        fits = model.fits_at(model.arrival, cost, model.now) == model.now
        allowed = cost == 0 or (cost <= model.burst and fits and not model.line)
        answer = self.loops[0].run_until_complete(self.throttle.limit("key", cost))
        assert bool(answer) is allowed
        if allowed and cost:
            model.take(cost, model.now)
        elif not allowed and cost <= model.burst:
            told = round(answer.state.retry_after * SECOND)
            assert abs(told - (model.promise(cost) - model.now)) <= ROUNDING_NS

    @precondition(lambda self: self.model.line)
    @rule(data=st.data())
    def cancel(self, data: st.DataObject) -> None:
        """Somebody in line gives up."""
        waiter = data.draw(st.sampled_from(self.model.line))
        self.model.line.remove(waiter)
        waiter.task.cancel()
        self.step()
        assert waiter.task.cancelled()

    @precondition(lambda self: self.model.line)
    @rule(loop=st.integers(0, 1))
    def run_into_a_timeout(self, loop: int) -> None:
        """Somebody waits under a timeout of asyncio, a millisecond of real time, and leaves.

        There is a line and the clock stands, so it cannot be served meanwhile, however late it is.
        """

        async def hurried() -> None:
            with pytest.raises(asyncio.TimeoutError):
                await asyncio.wait_for(self.throttle.limit("key", 1, 1e6), 0.001)

        self.loops[loop].run_until_complete(hurried())
        self.step()

    @precondition(lambda self: self.model.line)
    @rule()
    def cancel_who_is_just_served(self) -> None:
        """The head is served and cancelled in one turn of its loop: the token goes to the next."""
        model = self.model
        head = model.line[0]
        due = model.fits_at(model.arrival, head.cost, model.now)
        self.clock.set(due)
        model.line.pop(0)
        model.now = model.last = due
        head.task.cancel()
        self.step()
        assert head.task.cancelled()

    @rule(tenths=st.integers(1, 150))
    def advance(self, tenths: int) -> None:
        """Time passes."""
        self.model.now += tenths * SECOND // 10
        self.clock.set(self.model.now)
        self.step()

    @rule(ns=st.integers(1, 10 * SECOND))
    def advance_oddly(self, ns: int) -> None:
        """Time passes, and not in a round figure."""
        self.model.now += ns
        self.clock.advance(ns=ns)
        self.step()

    @precondition(lambda self: self.model.line)
    @rule(ns=st.sampled_from([-1, 0]))
    def advance_to_the_instant(self, ns: int) -> None:
        """To when the head is due, or a nanosecond before."""
        model = self.model
        due = model.fits_at(model.arrival, model.line[0].cost, model.now) + ns
        model.now = max(model.now, due)
        self.clock.set(model.now)
        self.step()

    @precondition(lambda self: len(self.model.line) > 2)
    @rule()
    def reset(self) -> None:
        """The key is as good as new, and those who wait profit."""
        self.model.arrival = Fraction(self.model.now)
        self.model.log.clear()
        self.loops[0].run_until_complete(self.throttle.reset("key"))
        self.step()

    @precondition(lambda self: len(self.model.line) > 1)
    @rule(which=st.integers(0, 1))
    def close_a_loop(self, which: int) -> None:
        """An event loop ends under its waiters, and another takes its number."""
        gone = [waiter for waiter in self.model.line if waiter.loop == which]
        self.left_behind += [waiter.task for waiter in gone]  # referenced, as a user may do
        self.model.line = [waiter for waiter in self.model.line if waiter.loop != which]
        self.loops[which].close()
        self.loops[which] = asyncio.new_event_loop()
        self.step()

    def of_loop(self, names: list[int], loop: int) -> list[int]:
        return [name for name in names if self.loop_of[name] == loop]

    @invariant()
    def the_same_were_served(self) -> None:
        if hasattr(self, "model"):
            # Of two loops that have served somebody in one step, either may note it first.
            for loop in range(2):
                assert self.of_loop(self.served, loop) == self.of_loop(self.model.served, loop)

    @invariant()
    def nobody_got_more_than_the_quota(self) -> None:
        if not hasattr(self, "model"):
            return
        model = self.model
        for first, (since, _) in enumerate(model.log):
            total = 0
            for instant, cost in model.log[first:]:
                total += cost
                assert total <= model.burst + (instant - since) / model.interval

    def teardown(self) -> None:
        if not hasattr(self, "model"):
            return
        try:
            self.model.now += 10**6 * SECOND
            self.clock.set(self.model.now)
            self.step()
            assert self.model.line == []
            self.the_same_were_served()
            full = self.loops[0].run_until_complete(self.throttle.peek("key"))
            assert full.remaining == self.model.burst
        finally:
            for loop in self.loops:
                loop.close()
            self.left_behind.clear()
            gc.collect()
            logging.getLogger("asyncio").disabled = False


# A failure is shown as found: to shrink it takes longer than a test may, and ends in a timeout.
LineMachine.TestCase.settings = settings(
    max_examples=rounds(30, 150),
    stateful_step_count=30,
    phases=[Phase.explicit, Phase.reuse, Phase.generate],
)
TestLineMachine = LineMachine.TestCase

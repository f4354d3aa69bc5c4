"""A semaphore held against a model, step by step: tasks of two event loops come, leave, are
cancelled, run out of patience, die with a permit in hand, lose their loop; time moves on.

Leases begin and end on whole seconds and patience ends on half ones, so that no two things happen
at one instant in an order that nobody has promised.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from hypothesis import Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from semaphore_model import Model

from effort import rounds
from headway import MemoryStore, VirtualClock
from headway.limiters import AsyncSemaphore, MaxSleepExceededError

LOOPS = 2
PATIENCE = [0, 0.5, 4.5, 12.5]
EXPIRY = [3, 10]


class Actor:
    """A client of the semaphore: a task that holds a permit until told how to end."""

    def __init__(self, number: int, loop: int) -> None:
        self.number = number
        self.loop = loop
        self.ending = asyncio.Event()
        self.dies = False
        self.then: Callable[[], object] = int
        self.task: asyncio.Task[None]

    async def live(self, semaphore: AsyncSemaphore, entered: list[int], refused: set[int]) -> None:
        try:
            await semaphore.__aenter__()
        except MaxSleepExceededError:
            refused.add(self.number)
            return
        entered.append(self.number)
        try:
            await self.ending.wait()
        finally:
            if not self.dies:
                await semaphore.__aexit__(None, None, None)
                self.then()


class Semaphores(RuleBasedStateMachine):
    """The real thing beside the model; every rule is done to both."""

    @initialize(capacity=st.integers(1, 3))
    def begin(self, capacity: int) -> None:
        self.clock = VirtualClock(now_ns=10**18)
        store = MemoryStore(clock=self.clock)
        self.semaphores = {
            (patience, expiry): AsyncSemaphore("one", capacity, patience, expiry, store)
            for patience in PATIENCE
            for expiry in EXPIRY
        }
        self.pool = next(iter(self.semaphores.values()))._pool
        self.model = Model(capacity)
        self.actors: list[Actor] = []
        self.entered: list[int] = []
        self.refused: set[int] = set()
        self.loops = [asyncio.new_event_loop() for _ in range(LOOPS)]

    def teardown(self) -> None:
        for actor in getattr(self, "actors", []):
            actor.dies = True  # nothing is to be given back by a coroutine that is thrown away
            actor.task._log_destroy_pending = False  # type: ignore[attr-defined]
        for loop in getattr(self, "loops", []):
            loop.close()

    def run_loops(self) -> None:
        """Lets every task go as far as it can."""
        for _ in range(2):
            for loop in self.loops:
                loop.run_until_complete(_turns())

    def chosen(self, numbers: list[int], choice: int) -> Actor:
        return self.actors[numbers[choice % len(numbers)]]

    @rule(
        several=st.lists(
            st.tuples(
                st.integers(0, LOOPS - 1), st.sampled_from(PATIENCE), st.sampled_from(EXPIRY)
            ),
            min_size=1,
            max_size=4,
        )
    )
    def acquire(self, several: list[tuple[int, float, float]]) -> None:
        for loop, patience, expiry in several:
            self.acquire_one(loop, patience, expiry)

    def acquire_one(self, loop: int, patience: float, expiry: float) -> None:
        actor = Actor(len(self.actors), loop)
        self.actors.append(actor)
        semaphore = self.semaphores[patience, expiry]
        actor.task = self.loops[loop].create_task(actor.live(semaphore, self.entered, self.refused))
        self.run_loops()
        self.model.acquire(actor.number, expiry, patience)

    @precondition(lambda self: self.model.inside)
    @rule(choice=st.integers(0, 99))
    def release(self, choice: int) -> None:
        actor = self.chosen(self.model.inside, choice)
        actor.ending.set()
        self.run_loops()
        self.model.release(actor.number)

    @precondition(lambda self: self.model.inside)
    @rule(choice=st.integers(0, 99))
    def cancel_a_holder(self, choice: int) -> None:
        actor = self.chosen(self.model.inside, choice)
        actor.task.cancel()
        self.run_loops()
        self.model.release(actor.number)

    @precondition(lambda self: self.model.line)
    @rule(choice=st.integers(0, 99))
    def cancel_a_waiter(self, choice: int) -> None:
        actor = self.chosen(self.model.waiting, choice)
        actor.task.cancel()
        self.run_loops()
        self.model.leave_line(actor.number)

    @precondition(lambda self: self.model.inside and self.model.line)
    @rule(choice=st.integers(0, 99))
    def cancel_the_next_in_the_turn_in_which_it_gets_the_permit(self, choice: int) -> None:
        actor = self.chosen(self.model.inside, choice)
        actor.then = self.actors[self.model.waiting[0]].task.cancel
        actor.ending.set()
        self.run_loops()
        self.model.hand_over_to_a_cancelled(actor.number)

    @precondition(lambda self: self.model.inside)
    @rule(choice=st.integers(0, 99))
    def die(self, choice: int) -> None:
        """The task ends without having left the block."""
        actor = self.chosen(self.model.inside, choice)
        actor.dies = True
        actor.ending.set()
        self.run_loops()
        self.model.die(actor.number)

    @precondition(lambda self: len(self.model.line) > 2)
    @rule(loop=st.integers(0, LOOPS - 1))
    def close_a_loop(self, loop: int) -> None:
        """Its waiters leave the line at once; its holders are gone. Another takes its place."""
        self.loops[loop].close()
        gone = [actor for actor in self.actors if actor.loop == loop]
        for actor in gone:
            actor.loop, actor.dies = -1, True
        self.loops[loop] = asyncio.new_event_loop()
        self.run_loops()
        for actor in gone:
            self.model.die(actor.number)
        for actor in gone:
            self.model.leave_line(actor.number)

    @rule(seconds=st.integers(1, 25))
    def advance(self, seconds: int) -> None:
        """From one instant at which something may happen to the next."""
        before = self.model.now
        for instant in self.model.advance(seconds):
            self.clock.advance(instant - before)
            before = instant
            self.run_loops()

    @invariant()
    def never_more_living_holders_than_permits(self) -> None:
        if hasattr(self, "model"):
            inside = [
                actor.number
                for actor in self.actors
                if actor.number in self.entered and not actor.dies and not actor.task.done()
            ]
            assert len(inside) <= self.model.capacity
            assert inside == self.model.inside

    @invariant()
    def they_agree(self) -> None:
        if hasattr(self, "model"):
            # Permits are given in order. Tasks of one loop go on in that order; which of two
            # loops has its turn first is not ours to say.
            assert sorted(self.entered) == sorted(self.model.entered)
            for home in {actor.task.get_loop() for actor in self.actors}:
                own = {actor.number for actor in self.actors if actor.task.get_loop() is home}
                ours = [number for number in self.entered if number in own]
                assert ours == [number for number in self.model.entered if number in own]
            assert self.refused == self.model.refused
            assert self.pool.held == self.model.held
            assert self.pool.waiting == len(self.model.line)


async def _turns() -> None:
    for _ in range(6):
        await asyncio.sleep(0)


TestSemaphores = Semaphores.TestCase
# Without shrinking: a failure is short enough to read, and shrinking one takes minutes.
TestSemaphores.settings = settings(
    max_examples=rounds(30, 150),
    stateful_step_count=50,
    phases=[Phase.explicit, Phase.reuse, Phase.generate],
)

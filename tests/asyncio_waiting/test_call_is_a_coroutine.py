"""A call does what a native coroutine does, at every stage and from inside its own callbacks.

Two things are driven side by side: a Call, and an `async def` that runs the same callbacks, is
suspended at the same points and ends in the same way. Whatever is done to both has the same
outcome: what is yielded or returned, the types of what is raised and of its cause, and what is
said by warnings and by `sys.unraisablehook` when they are dropped.
"""

from __future__ import annotations

import asyncio
import dataclasses
import gc
import sys
import warnings
import weakref
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import headway._atomic
from headway import AtomicStore, MemoryStore, VirtualClock
from headway.asyncio import Throttled

Outcome = tuple[str, Any]


class Custom(Exception):
    """What is thrown in."""


class Other(Exception):
    """What is raised by what runs inside."""


class Sleep:
    """What is awaited: it yields itself until it is over, as a wait in line does."""

    def __init__(self) -> None:
        self.over = False

    def __await__(self) -> Generator[Any, Any, None]:
        while not self.over:
            yield self


class OwnStore(AtomicStore):
    """Keeps nothing. What is asked of it is answered by the coroutine of the plan."""

    def __init__(self, driven: Driven) -> None:
        self.driven = driven

    def update(self, key: bytes, step: Callable[[Any], Any]) -> Any:
        return step(None)[1]


# ---- what is done


async def _awaits(made: Any) -> Any:
    return await made


def await_it(driven: Driven) -> Any:
    outer = _awaits(driven.made)
    driven.outers.append(outer)
    return outer.send(None)


ACTS: dict[str, Callable[[Driven], Any]] = {
    "next": lambda driven: driven.made.send(None),
    "send a value": lambda driven: driven.made.send(1),
    "throw an instance": lambda driven: driven.made.throw(Custom("thrown")),
    "throw a class": lambda driven: driven.made.throw(Custom),
    "throw GeneratorExit": lambda driven: driven.made.throw(GeneratorExit()),
    "throw StopIteration": lambda driven: driven.made.throw(StopIteration(3)),
    "throw CancelledError": lambda driven: driven.made.throw(asyncio.CancelledError()),
    "throw a number": lambda driven: driven.made.throw(1),
    "throw a class and a value": lambda driven: driven.made.throw(Custom, "value"),
    "throw an instance and a value": lambda driven: driven.made.throw(Custom(), "value"),
    "throw without a traceback": lambda driven: driven.made.throw(Custom, None, 1),
    "close": lambda driven: driven.made.close(),
    "await": await_it,
    "collect": lambda driven: (gc.collect(), None)[1],
    "ask whether it runs": lambda driven: driven.made.cr_running or None,
}
ON_THROW = ("raise", "return", "sleep on", "raise another", "raise StopIteration")
VALUES: dict[str, Any] = {
    "None": None,
    "a number": 7,
    "a tuple": (1, 2),
    "an empty tuple": (),
    "an exception": Custom("value"),
}


@dataclasses.dataclass(frozen=True)
class Plan:
    """What happens in both of them."""

    suspends: str = "in line"
    """"not at all", "in line" (on a TaskWait), or "in a coroutine" to which it delegates."""
    inside: str | None = None
    """What is done to it by the callback that it runs first."""
    inside_raises: type[BaseException] | None = None
    further_inside: str | None = None
    """What is done to it by the coroutine to which it delegates."""
    on_throw: str = "raise"
    value: str = "a number"


class Driven:
    """A Call, or its twin, and what the acts inside of it had as outcomes."""

    def __init__(self, plan: Plan, twin: bool) -> None:
        self.plan = plan
        self.outers: list[Any] = []
        self.inside: list[Outcome] = []
        self.begun = False
        self.sleep = Sleep()
        self.clock = VirtualClock(now_ns=10**18)
        self.made: Any = self._twin() if twin else self._call()

    # -- the two

    def _call(self) -> Any:
        store: Any
        if self.plan.suspends == "in a coroutine":
            store = OwnStore(self)
        else:
            store = MemoryStore(clock=self.clock)
        if self.plan.suspends == "in line":
            used_up = Throttled(quota="1/s burst 1", using="gcra", store=store)
            assert outcome(lambda: used_up.limit("k").send(None))[0] == "returned"
        return Throttled(quota=self._quota, using="gcra", store=store, timeout=1e6).limit("k")

    async def _twin(self) -> Any:
        self._quota("k")
        if self.plan.suspends == "in a coroutine":
            return await self.script()
        if self.plan.suspends == "in line":
            await self.sleep
        return "a result"

    # -- what runs inside of them

    def _quota(self, key: str) -> str:
        self.begun = True
        self._act_inside(self.plan.inside)
        if self.plan.inside_raises is not None:
            raise self.plan.inside_raises("of the callback")
        return "1/s burst 1"

    def _act_inside(self, name: str | None) -> None:
        if name is not None:
            self.inside.append(outcome(lambda: ACTS[name](self)))

    async def script(self) -> Any:
        self._act_inside(self.plan.further_inside)
        while not self.sleep.over:
            try:
                await self.sleep
            except BaseException:
                self._act_inside(self.plan.further_inside)
                if self.plan.on_throw == "raise":
                    raise
                if self.plan.on_throw == "raise another":
                    raise Other("instead") from None
                if self.plan.on_throw == "raise StopIteration":
                    raise StopIteration(5) from None
                if self.plan.on_throw == "return":
                    break
        return VALUES[self.plan.value]

    # -- from outside

    def act(self, name: str, loop: asyncio.AbstractEventLoop) -> tuple[Outcome, list[Outcome]]:
        before = len(self.inside)
        if name == "end what it waits for":
            self.clock.advance(1)
            self.sleep.over = True
            loop.run_until_complete(asyncio.sleep(0.001))
            done: Outcome = ("gave", None)
        else:
            asyncio._set_running_loop(loop)
            try:
                done = outcome(lambda: ACTS[name](self))
            finally:
                asyncio._set_running_loop(None)
        return done, self.inside[before:]


async def of_the_plan(store: OwnStore, step: object) -> Any:
    """Stands for headway._atomic.limit_async, to which a Call delegates."""
    return await store.driven.script()


def outcome(act: Callable[[], Any]) -> Outcome:
    """What an operation did, in terms that a Call and its twin share."""
    try:
        value = act()
    except StopIteration as end:
        plain = isinstance(end.value, (tuple, int, BaseException, type(None)))
        return "returned", end.value if plain else "a result"
    except BaseException as error:
        cause = error.__cause__
        return "raised", (type(error).__name__, None if cause is None else type(cause).__name__)
    return "gave", value if value is None or value is True else "what it sleeps on"


@contextmanager
def complaints() -> Iterator[list[str]]:
    """What is said where nothing can be raised."""
    said: list[str] = []
    hook = sys.unraisablehook
    sys.unraisablehook = lambda what: said.append(f"unraisable {what.exc_type.__name__}")
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            yield said
        said += ["never awaited" for one in caught if "never awaited" in str(one.message)]
    finally:
        sys.unraisablehook = hook


# ---- the tests

ANY_ACT = st.sampled_from([*ACTS, "end what it waits for"])
INSIDE = st.none() | st.sampled_from([name for name in ACTS if name != "collect"])
PLANS = st.builds(
    Plan,
    suspends=st.sampled_from(["not at all", "in line", "in a coroutine"]),
    inside=INSIDE,
    inside_raises=st.sampled_from([None, None, None, Custom, StopIteration, KeyboardInterrupt]),
    further_inside=INSIDE,
    on_throw=st.sampled_from(ON_THROW),
    value=st.sampled_from(list(VALUES)),
)


@pytest.fixture
def loop(monkeypatch: pytest.MonkeyPatch) -> Iterator[asyncio.AbstractEventLoop]:
    monkeypatch.setattr(headway._atomic, "limit_async", of_the_plan)
    made = asyncio.new_event_loop()
    gc.collect()
    gc.freeze()  # what is there already is not looked through again at each collection
    yield made
    gc.unfreeze()
    made.close()


def compare(plan: Plan, acts: list[str], loop: asyncio.AbstractEventLoop) -> None:
    """Does all of it to both, then drops both, which the collector must find."""
    both = {"call": Driven(plan, twin=False), "twin": Driven(plan, twin=True)}
    done: dict[str, Any] = {}
    said: dict[str, list[str]] = {}
    for number, name in enumerate(acts):
        for who in both:
            with complaints() as said[who]:
                done[who] = both[who].act(name, loop)
        assert done["call"] == done["twin"], f"act {number + 1}, {name}"
        assert said["call"] == said["twin"], f"act {number + 1}, {name}"
    gone = {who: weakref.ref(driven) for who, driven in both.items()}
    for who in ("call", "twin"):
        with complaints() as said[who]:
            del both[who]
            gc.collect()
        assert gone[who]() is None, f"{who}: a cycle through it is not collected"
    assert said["call"] == said["twin"], "when they were dropped"


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(plan=PLANS, acts=st.lists(ANY_ACT, max_size=7))
def test_whatever_is_done_to_it_has_the_outcome_that_a_coroutine_has(
    plan: Plan, acts: list[str], loop: asyncio.AbstractEventLoop
) -> None:
    compare(plan, acts, loop)


@pytest.mark.parametrize("suspends", ["not at all", "in line", "in a coroutine"])
@pytest.mark.parametrize("act", ACTS)
def test_from_inside_of_it(act: str, suspends: str, loop: asyncio.AbstractEventLoop) -> None:
    acts = ["next", "next", "end what it waits for", "next", "next"]
    compare(Plan(suspends, inside=act, further_inside=act), acts, loop)


@pytest.mark.parametrize("suspends", ["in line", "in a coroutine"])
@pytest.mark.parametrize("act", ACTS)
@pytest.mark.parametrize("stage", ["fresh", "suspended", "over", "done"])
def test_at_each_stage(
    act: str, stage: str, suspends: str, loop: asyncio.AbstractEventLoop
) -> None:
    before = {
        "fresh": [],
        "suspended": ["next"],
        "over": ["next", "end what it waits for"],
        "done": ["next", "end what it waits for", "next"],
    }[stage]
    for on_throw in ON_THROW:
        compare(Plan(suspends, on_throw=on_throw), [*before, act, act, "next"], loop)


@pytest.mark.parametrize("value", VALUES)
@pytest.mark.parametrize("act", ["next", "throw a class"])
def test_whatever_it_returns(value: str, act: str, loop: asyncio.AbstractEventLoop) -> None:
    plan = Plan("in a coroutine", on_throw="return", value=value)
    compare(plan, ["next", act, "end what it waits for", "next"], loop)


@pytest.mark.parametrize("ask", ["limit", "peek", "reset"])
def test_a_task_written_in_python_can_run_it(ask: str) -> None:
    """It resumes by the method `send`, asyncio's own task by the send slot."""

    async def main() -> None:
        throttle = Throttled(quota="10/s")
        await asyncio.tasks._PyTask(getattr(throttle, ask)("k"))  # type: ignore[attr-defined]

    asyncio.run(main())

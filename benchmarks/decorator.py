"""decorator: what does a decorator add to a function, and a context manager to a block?

The function is empty, so what the decorated one takes beyond the plain one is what the decorator
adds. asyncio has questions of its own: `await` and `async_with`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from benchmarks.contenders import NEVER_DENIES, count, has, headway_limiter, pyrate_limiter_
from benchmarks.harness import (
    BASELINE,
    HEADWAY,
    PEER,
    Contender,
    Settings,
    Timing,
    find,
    spread,
    spread_of_ratios,
    time_in_turn,
)
from benchmarks.report import Report, Row, Section, Target, rows_of

NAME = "decorator"
BOUND = 1.8
PLAIN = "an empty function"
BLOCK = "an empty context manager"


class EmptyBlock:
    """A context manager in Python that does nothing."""

    def __enter__(self) -> None:
        return None

    def __exit__(self, *exc: object) -> None:
        return None


def empty() -> None:
    """The function that is decorated."""


def headway_throttle() -> Any:
    """A Throttled of headway with a key."""
    return headway_limiter("token_bucket", key="k")


def throttled_throttle() -> Any:
    """A Throttled of throttled-py with a key."""
    import throttled

    quota = throttled.rate_limiter.per_sec(NEVER_DENIES)
    return throttled.Throttled(key="k", quota=quota, store=throttled.MemoryStore())


def pyrate_decorated() -> Mapping[str, Any]:
    """An empty function under pyrate-limiter's decorator."""
    limiter = pyrate_limiter_("state")
    return {"f": limiter.as_decorator(name="k")(empty), "close": limiter.close}


def blocks_and_functions() -> list[Contender]:
    """What is timed with the common loop."""
    block = "with block:\n    pass"
    found = [
        count(),
        Contender(PLAIN, BASELINE, "f()", lambda: {"f": empty}),
        Contender(BLOCK, BASELINE, block, lambda: {"block": EmptyBlock()}),
    ]
    if has("headway"):
        found.append(
            Contender("headway decorator", HEADWAY, "f()", lambda: {"f": headway_throttle()(empty)})
        )
        found.append(
            Contender(
                "headway context manager", HEADWAY, block, lambda: {"block": headway_throttle()}
            )
        )
    if has("throttled-py"):
        found.append(
            Contender(
                "throttled-py decorator", PEER, "f()", lambda: {"f": throttled_throttle()(empty)}
            )
        )
        found.append(
            Contender(
                "throttled-py context manager", PEER, block, lambda: {"block": throttled_throttle()}
            )
        )
    if has("pyrate-limiter"):
        found.append(Contender("pyrate-limiter decorator", PEER, "f()", pyrate_decorated))
    return found


def run(settings: Settings) -> Report:
    """Measures and reports."""
    timings = time_in_turn(blocks_and_functions(), settings)
    base, plain = timings[0], timings[1]
    report = Report(
        NAME,
        "What a decorator and a context manager add",
        "Nanoseconds a call, the loop included. What a decorator adds is the decorated empty "
        "function minus the empty function of the same round, in units of `d[key] += 1`.",
        [Section("Empty function and block", "ns", rows_of(timings, base), "`d[key] += 1`")],
    )
    added = [_added(t, plain, base) for t in timings if t.contender.label.endswith("decorator")]
    report.sections.insert(
        0,
        Section(
            "Added by the decorator", "ns", added, "`d[key] += 1`", plot_ratio=True, limit=BOUND
        ),
    )
    if has("headway"):
        ours = find(timings, "headway decorator")
        ratio = _added(ours, plain, base).ratio
        assert ratio is not None
        report.targets.append(Target("the decorator adds", ratio, BOUND, "x `d[key] += 1`"))
    return report


def _added(decorated: Timing, plain: Timing, base: Timing) -> Row:
    extra = [d - p for d, p in zip(decorated.rounds_ns, plain.rounds_ns, strict=True)]
    contender = decorated.contender
    return Row(
        contender.label, contender.kind, spread(extra), spread_of_ratios(extra, base.rounds_ns)
    )

"""memory: what does one admitted call cost, in memory, on one thread?

`limit("k")` of each algorithm against `d[key] += 1`, and against the same algorithm of
throttled-py. The cost of calling anything at all is shown beside them: an empty builtin, an empty
function and a reading of the clock are a part that no limiter can go below.
"""

from __future__ import annotations

import time

from benchmarks.contenders import ALGORITHMS, allowed_calls, count, empty_loop, has, headway_limiter
from benchmarks.harness import (
    BASELINE,
    HEADWAY,
    Contender,
    Settings,
    find,
    spread,
    spread_of_ratios,
    time_in_turn,
)
from benchmarks.report import Report, Section, Target, rows_of

NAME = "memory"
COUNT_BOUND = 1.6
PEER_BOUND = 45.0


def floor_of_calls() -> list[Contender]:
    """What calling costs, whatever is called."""

    def empty() -> None:
        pass

    return [
        Contender("len(())", BASELINE, "f(())", lambda: {"f": len}),
        Contender("an empty function", BASELINE, "f()", lambda: {"f": empty}),
        Contender("time.monotonic_ns()", BASELINE, "f()", lambda: {"f": time.monotonic_ns}),
    ]


def with_state() -> list[Contender]:
    """A call whose result is looked into: the state object is made when it is read."""
    if not has("headway"):
        return []
    return [
        Contender(
            "headway token_bucket, .state.remaining read",
            HEADWAY,
            'limit("k").state.remaining',
            lambda: {"limit": headway_limiter("token_bucket").limit},
            "the state is made when it is read",
        )
    ]


def run(settings: Settings) -> Report:
    """Measures and reports."""
    contenders = [empty_loop(), count(), *floor_of_calls(), *with_state(), *allowed_calls()]
    timings = time_in_turn(contenders, settings)
    base = timings[1]
    report = Report(
        NAME,
        "One admitted call in memory, one thread",
        "Nanoseconds a call, the loop included; ratios to `d[key] += 1` of the same round.",
        [
            Section(
                "One admitted call",
                "ns",
                rows_of(timings, base),
                "`d[key] += 1`",
                plot_ratio=True,
                limit=COUNT_BOUND,
            )
        ],
    )
    loop = timings[0]
    for using in ALGORITHMS if has("headway") else ():
        ours = find(timings, f"headway {using}")
        ratios = spread_of_ratios(ours.rounds_ns, base.rounds_ns)
        report.targets.append(
            Target(f'limit("k"), {using}', ratios, COUNT_BOUND, "x `d[key] += 1`")
        )
        if has("throttled-py"):
            theirs = find(timings, f"throttled-py {using}")
            times = spread_of_ratios(theirs.rounds_ns, ours.rounds_ns)
            report.targets.append(
                Target(
                    f"{using} against throttled-py", times, PEER_BOUND, "x faster", at_least=True
                )
            )
    for using in ALGORITHMS if has("headway") else ():
        ours = find(timings, f"headway {using}")
        net = [
            (mine - empty) / (unit - empty)
            for mine, unit, empty in zip(
                ours.rounds_ns, base.rounds_ns, loop.rounds_ns, strict=True
            )
        ]
        report.notes.append(
            f"{using}, the loop subtracted on both sides: {spread(net).median:.2f} x `d[key] += 1`"
        )
    return report

"""redis_tasks: 1, 16 and 200 tasks of asyncio ask for the same key on a server.

headway has one connection for each event loop, and writes once a turn of the loop.
throttled.asyncio is given a pool of 256 connections, since its default of 100 raises "Too many
connections" at 200 tasks, and all of them are open before the first round.
"""

from __future__ import annotations

import asyncio

from benchmarks.contenders import has
from benchmarks.harness import Settings
from benchmarks.redis_contenders import headway_tasks, throttled_tasks
from benchmarks.redis_harness import Runner, measure
from benchmarks.redis_server import placed, running
from benchmarks.report import Report, Section, Target

NAME = "redis_tasks"
TASKS = (1, 16, 200)
BOUNDS = {1: 1.4, 200: 6.0}
BATCH_SECONDS = 0.6


def run(settings: Settings) -> Report:
    """Measures and reports."""
    seconds = BATCH_SECONDS * (1.0 if settings.scale == 1.0 else 0.3)
    report = Report(
        NAME,
        "Tasks of asyncio on one key on Redis",
        "Thousand decisions a second of all tasks together, and microseconds of the client's CPU "
        "for each; ratios are formed round by round.",
    )
    loops: list[asyncio.AbstractEventLoop] = []
    with running() as server, placed(server, "apart") as sentence:
        report.notes.append(f"Redis {server.version} on loopback. {sentence}")
        for tasks in TASKS:
            runners: list[Runner] = []
            makers = [headway_tasks, *([throttled_tasks] if has("throttled-py") else [])]
            for maker in makers:
                loops.append(asyncio.new_event_loop())
                runners.append(maker(server, loops[-1], tasks))
                if has("uvloop"):
                    import uvloop

                    loops.append(uvloop.new_event_loop())
                    on_uvloop = maker(server, loops[-1], tasks)
                    on_uvloop.label += ", uvloop"
                    runners.append(on_uvloop)
            measure(runners, seconds, settings, tasks)
            _tell(report, tasks, runners)
            for runner in runners:
                runner.close()
        for loop in loops:
            _end(loop)
    return report


def _tell(report: Report, tasks: int, runners: list[Runner]) -> None:
    name = f"{tasks} task{'s' if tasks > 1 else ''}"
    report.sections += [
        Section(
            f"{name}: decisions a second",
            "thousand decisions a second",
            [runner.rate_row() for runner in runners],
            short="k/s",
            more_is_better=True,
        ),
        Section(
            f"{name}: the client's CPU for each", "µs", [runner.cpu_row() for runner in runners]
        ),
    ]
    by_label = {runner.label: runner for runner in runners}
    ours, theirs = by_label["headway gcra"], by_label.get("throttled.asyncio gcra")
    if theirs is not None and tasks in BOUNDS:
        report.targets.append(
            Target(
                f"{name}: decisions a second",
                ours.times_faster(theirs),
                BOUNDS[tasks],
                "x throttled.asyncio's",
                at_least=True,
            )
        )


def _end(loop: asyncio.AbstractEventLoop) -> None:
    """Closes a loop after what its connections still have to say to it."""
    loop.run_until_complete(asyncio.sleep(0))
    loop.close()

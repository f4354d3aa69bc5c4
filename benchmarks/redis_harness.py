"""Timing in turn, for what asks a server: wall time and the client's CPU time a decision.

A runner makes so many decisions and says how long that took, and how much processor time of the
client's process (user and system, all of its threads); the server's is not in it. Runners keep
their connections from round to round: they are opened, and warmed, before the first round.
"""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass, field
from itertools import repeat
from time import perf_counter_ns, process_time_ns
from typing import Any

from benchmarks.harness import Names, Settings, Spread, compile_loop, spread, spread_of_ratios
from benchmarks.report import Row
from benchmarks.threads import together

Took = tuple[int, int]
"""Nanoseconds by the wall, and of the client's CPU."""


@dataclass
class Runner:
    """One contender: `run(count)` makes about that many decisions and says what that took."""

    label: str
    kind: str
    run: Callable[[int], Took]
    close: Callable[[], object] = lambda: None
    note: str = ""
    wall: list[float] = field(default_factory=list)
    cpu: list[float] = field(default_factory=list)
    """Nanoseconds a decision, round by round."""

    def rate_row(self) -> Row:
        """Decisions a second, in thousands."""
        return Row(self.label, self.kind, spread([1e6 / ns for ns in self.wall]), note=self.note)

    def cpu_row(self) -> Row:
        """Microseconds of the client's CPU a decision."""
        return Row(self.label, self.kind, spread(self.cpu).scaled(1e-3))

    def times_slower(self, other: Runner) -> Spread:
        """The time that it takes in units of the other's, round by round."""
        return spread_of_ratios(self.wall, other.wall)

    def times_faster(self, other: Runner) -> Spread:
        """Its decisions a second in units of the other's, round by round."""
        return spread_of_ratios(other.wall, self.wall)

    def times_the_cpu(self, other: Runner) -> Spread:
        """Its CPU time in units of the other's, round by round."""
        return spread_of_ratios(self.cpu, other.cpu)


def measure(runners: Sequence[Runner], seconds: float, settings: Settings, multiple: int) -> None:
    """Runs all in turn, round by round, after a warm-up; counts are multiples of `multiple`."""
    counts = []
    for runner in runners:
        trial = 20 * multiple if multiple >= 100 else 1_600
        runner.run(trial)  # opens the connections, loads the scripts
        wall, _ = runner.run(trial)
        counts.append(max(multiple, int(trial * seconds * 1e9 / wall) // multiple * multiple))
    for number in range(settings.rounds + 1):
        for runner, count in zip(runners, counts, strict=True):
            wall, cpu = runner.run(count)
            if number > 0:  # the first round is the warm-up
                runner.wall.append(wall / count)
                runner.cpu.append(cpu / count)
        gc.collect()


def one_thread(statement: str, names: Names) -> Callable[[int], Took]:
    """Runs a statement in a loop, as `harness.py` does."""
    loop = compile_loop(statement, names.keys())

    def run(count: int) -> Took:
        gc.disable()
        try:
            cpu = process_time_ns()
            wall = loop(count, perf_counter_ns, repeat, **names)
            return wall, process_time_ns() - cpu
        finally:
            gc.enable()

    return run


def many_threads(statement: str, names: Names, threads: int) -> Callable[[int], Took]:
    """Runs a statement in that many threads, as `threads.py` does."""
    loop = compile_loop(statement, names.keys())

    def run(count: int) -> Took:
        cpu = process_time_ns()
        wall = together(loop, names, threads, count // threads)
        return wall, process_time_ns() - cpu

    return run


def many_tasks(
    loop: asyncio.AbstractEventLoop, limit: Callable[[str], Coroutine[Any, Any, Any]], tasks: int
) -> Callable[[int], Took]:
    """Awaits `limit("k")` in that many tasks of a loop, which stays theirs from run to run."""

    async def work(calls: int) -> None:
        for _ in repeat(None, calls):
            await limit("k")

    async def all_of_them(calls: int) -> Took:
        cpu, wall = process_time_ns(), perf_counter_ns()
        await asyncio.gather(*(work(calls) for _ in range(tasks)))
        return perf_counter_ns() - wall, process_time_ns() - cpu

    def run(count: int) -> Took:
        gc.disable()
        try:
            return loop.run_until_complete(all_of_them(max(1, count // tasks)))
        finally:
            gc.enable()

    return run

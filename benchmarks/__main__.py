"""The command line: ``python -m benchmarks [QUESTION ...]``.

Writes a table to the terminal, and for each question a page, the raw figures and a picture to
``benchmarks/results/``.
"""

from __future__ import annotations

import argparse
import importlib
import os
import sys
import time
from dataclasses import replace

from benchmarks import contenders, report
from benchmarks.harness import Settings
from benchmarks.machine import describe

# The module of each question. Quiet ones first, so that none runs in the heat of another.
QUESTIONS = {
    "memory": "memory",
    "decorator": "decorator",
    "denial": "denial",
    "floods": "floods",
    "token_bucket": "token_bucket",
    "headers": "headers",
    "smartratelimit": "smartratelimit",
    "middleware": "middleware",
    "shared_memory": "shared_memory",
    "service": "service",
    "await": "async_limit",
    "async_with": "async_with",
    "wakeup": "wakeup",
    "core": "core",
    "threads": "threads",
    "free_threaded": "free_threaded",
    "redis": "redis_one",
    "redis_threads": "redis_threads",
    "redis_tasks": "redis_tasks",
    "redis_lease": "redis_lease",
    "import": "import_time",
    "keys": "keys",
    "crowd": "crowd",
    "replay": "replay",
}


BUSY = 1.5
"""A load average from which on a run says that its figures are doubtful."""


def main(argv: list[str] | None = None) -> int:
    """Runs the questions that are named, or all; 0 when each could be asked."""
    options = _parse(argv)
    settings = Settings(rounds=5, batch_seconds=0.01, scale=0.02) if options.quick else Settings()
    if options.rounds:
        settings = Settings(
            options.rounds, settings.batch_seconds, settings.warm_calls, settings.scale
        )
    machine = describe()
    print(machine.line())
    for sentence in contenders.missing():
        print(sentence)
    reports, failed = [], []
    for name in options.questions or list(QUESTIONS):
        started = time.monotonic()
        machine = replace(machine, load=os.getloadavg()[0])
        if machine.load > BUSY:
            print(f"\n{name}: load average {machine.load:.2f}: others are at work here")
        try:
            module = importlib.import_module(f"benchmarks.{QUESTIONS[name]}")
            found = module.run(settings)
        except Exception as error:
            failed.append(name)
            print(f"\n{name}: could not be asked: {type(error).__name__}: {error}", file=sys.stderr)
            if options.strict:
                raise
            continue
        reports.append(found)
        print(report.text(found))
        print(f"({time.monotonic() - started:.0f} s, load average {os.getloadavg()[0]:.2f})")
        if not options.quick:
            report.write(found, machine)
            _draw(found)
    print("\nAll targets of this run, those that were missed first")
    print(report.columns(report.target_table(reports)))
    if not options.quick:
        report.write_index(list(QUESTIONS), machine)
    return 1 if failed else 0


def _draw(found: report.Report) -> None:
    try:
        from benchmarks import plot
    except ImportError:
        print("matplotlib is not installed: no picture")
        return
    plot.draw(found)


def _parse(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("questions", nargs="*", metavar="QUESTION", help=", ".join(QUESTIONS))
    parser.add_argument(
        "--rounds", type=int, default=0, help="rounds of every comparison, at least 5"
    )
    parser.add_argument(
        "--quick", action="store_true", help="a trial: short, small, writes no results"
    )
    parser.add_argument(
        "--strict", action="store_true", help="stop with a traceback at the first failure"
    )
    options = parser.parse_args(argv)
    unknown = [name for name in options.questions if name not in QUESTIONS]
    if unknown:
        parser.error(f"unknown question {unknown[0]!r}; known: {', '.join(QUESTIONS)}")
    if options.rounds and options.rounds < 5:
        parser.error(f"--rounds {options.rounds}: at least 5")
    return options


if __name__ == "__main__":
    sys.exit(main())

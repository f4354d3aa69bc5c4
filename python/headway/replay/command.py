"""`headway replay`: the arguments, the loop over the requests, and the exit code.

Exit codes: 0 done; 1 done, but an input could be read in part only (a gzip file that was cut off);
2 an argument or an input cannot be used, nothing was printed; 130 interrupted by Ctrl-C, what was
seen until then is printed; 141 whoever read the output went away.
"""

from __future__ import annotations

import argparse
import gc
import json
import re
import sys
from collections.abc import Sequence
from typing import NamedTuple

from headway.replay.access_log import FIELDS, LinePattern, Stamps
from headway.replay.arguments import HELP, add_arguments
from headway.replay.blocks import LogFile, UnreadableLog
from headway.replay.demand import Demand, Schedules
from headway.replay.lane import Lane
from headway.replay.progress import Progress
from headway.replay.report import (
    SCHEMA,
    Calendar,
    Report,
    file_report,
    log_report,
    offer_reports,
    quota_report,
)
from headway.replay.requests import MOST_COST, Selection, Source, merged, timed
from headway.replay.show import show, warn
from headway.replay.stopping import Stop
from headway.replay.suggest import Suggestions, suggest

__all__ = ["HELP", "BadArgument", "Replay", "add_arguments", "run"]

DONE, PARTLY, UNUSABLE, INTERRUPTED = 0, 1, 2, 130


class BadArgument(Exception):
    """An argument that cannot be used: which one, and why."""

    def __init__(self, argument: str, why: str) -> None:
        super().__init__(f"argument {argument}: {why}")


class Replay(NamedTuple):
    """What a replay has gathered."""

    sources: Sequence[Source]
    demand: Demand
    lanes: Sequence[Lane]
    schedules: Schedules | None
    interrupted: bool


def run(args: argparse.Namespace) -> int:
    """Does what `headway replay` was asked for; returns the exit code."""
    collecting = gc.isenabled()
    gc.disable()  # a million tuples and no cycles: the collector would only look at them, for 0.3 s
    try:
        return _run(args)
    except (BadArgument, UnreadableLog) as error:
        warn(str(error))
        return UNUSABLE
    finally:
        if collecting:
            gc.enable()


def _run(args: argparse.Namespace) -> int:
    selection = Selection(
        by=fields_of(args.by),
        size_is_cost=args.cost == "bytes",
        statuses=None if args.status is None else statuses_of(args.status),
        path_prefix=None if args.path is None else args.path.encode("utf-8", "surrogateescape"),
    )
    cost = cost_of(args.cost)
    if args.top < 0:
        raise BadArgument("--top", f"{args.top} should be 0 or more")
    if args.plot is not None:
        _check_plot(args.plot)
    lanes = _lanes(args.quota or [], args.using, cost)
    stamps = Stamps()
    sources = _sources(args.files, selection, stamps)
    try:
        replay = _replay(sources, lanes, spread=args.spread, progress=args.progress)
    finally:
        for source in sources:
            source.file.close()
    suggestions = None
    if replay.schedules is not None:
        try:
            suggestions = suggest(replay.schedules, using=args.using, cost=cost)
        except KeyboardInterrupt:
            replay = replay._replace(interrupted=True)
    calendar = Calendar(stamps.offset)
    report = _report(args, selection, replay, suggestions, calendar)
    if args.plot is not None:
        _plot(args.plot, report, replay, suggestions, stamps.offset)
    if args.json:
        sys.stdout.write(json.dumps(report.as_json(), indent=2) + "\n")
        sys.stdout.flush()
    else:
        show(report, sys.stdout)
    if replay.interrupted:
        return INTERRUPTED
    return DONE if report.complete else PARTLY


def _replay(
    sources: Sequence[Source], lanes: Sequence[Lane], *, spread: bool, progress: bool
) -> Replay:
    demand = Demand()
    schedules = None if lanes else Schedules()
    with Stop() as stop, Progress(sources, wanted=progress) as shown:
        batches = stop.until(merged(source.batches() for source in sources))
        for requests in timed(batches, spread=spread):
            demand.add(requests)
            if schedules is not None:
                schedules.add(requests)
            for lane in lanes:
                lane.run(requests)
            shown.tick()
    demand.finish()
    return Replay(sources, demand, lanes, schedules, stop.requested)


def _report(
    args: argparse.Namespace,
    selection: Selection,
    replay: Replay,
    suggestions: Suggestions | None,
    calendar: Calendar,
) -> Report:
    demand = replay.demand
    return Report(
        schema=SCHEMA,
        by=" ".join(selection.by),
        using=args.using,
        cost="bytes" if selection.size_is_cost else cost_of(args.cost),
        spread=args.spread,
        interrupted=replay.interrupted,
        files=[file_report(source) for source in replay.sources],
        log=log_report(demand, calendar),
        quotas=[quota_report(lane, demand, calendar, args.top) for lane in replay.lanes],
        suggestions=[*offer_reports(suggestions, demand)],
        denying_nobody=None if suggestions is None else suggestions.denying_nobody,
    )


def _lanes(quotas: Sequence[str], using: str, cost: int) -> list[Lane]:
    from headway._core import ALGORITHMS
    from headway.exceptions import DataError

    if using not in ALGORITHMS:
        raise BadArgument("--using", f"{using!r} should be one of {', '.join(ALGORITHMS)}")
    lanes = []
    for quota in quotas:
        try:
            lanes.append(Lane(quota, using=using, cost=cost))
        except DataError as error:
            raise BadArgument("--quota", str(error)) from error
    return lanes


def _sources(names: Sequence[str], selection: Selection, stamps: Stamps) -> list[Source]:
    if names.count("-") > 1:
        raise BadArgument("FILE", "- (standard input) can be read once only")
    pattern = LinePattern(selection.fields())
    return [Source(LogFile(name), selection, pattern, stamps) for name in names]


def _check_plot(path: str) -> None:
    from headway.replay.plot import PlotError, check

    try:
        check(path)
    except PlotError as error:
        raise BadArgument("--plot", str(error)) from error


def _plot(
    path: str,
    report: Report,
    replay: Replay,
    suggestions: Suggestions | None,
    offset: int | None,
) -> None:
    from headway.replay.plot import PlotError, plot

    try:
        plot(path, report, replay.demand, replay.lanes, suggestions, offset)
    except PlotError as error:
        raise BadArgument("--plot", str(error)) from error


def fields_of(text: str) -> tuple[str, ...]:
    """The fields of `--by`: names joined by a space, `+` or `,`."""
    names = tuple(re.split(r"[\s+,]+", text.strip().lower()))
    for name in names:
        if name not in FIELDS:
            raise BadArgument(
                "--by",
                f"{name!r} in {text!r} is no field of an access log: "
                f"join any of {', '.join(FIELDS)} by + or a space",
            )
    if len(set(names)) < len(names):
        raise BadArgument("--by", f"{text!r} names a field twice")
    return names


def statuses_of(text: str) -> frozenset[bytes]:
    """The statuses of `--status`: `404`, `4xx`, or several joined by commas."""
    found: set[bytes] = set()
    for part in text.lower().split(","):
        part = part.strip()
        if not re.fullmatch(r"[1-9](?:[0-9]{2}|xx)", part, re.ASCII):
            raise BadArgument("--status", f"{part!r} should be a status (404) or a class (4xx)")
        if part.endswith("xx"):
            found |= {b"%s%02d" % (part[:1].encode(), rest) for rest in range(100)}
        else:
            found.add(part.encode())
    return frozenset(found)


def cost_of(text: str) -> int:
    """The fixed cost of a request by `--cost`; 1 where the cost is the bytes sent."""
    if text == "bytes":
        return 1
    if not re.fullmatch("[0-9]{1,13}", text, re.ASCII) or not 1 <= int(text) <= MOST_COST:
        raise BadArgument("--cost", f"{text!r} should be 'bytes' or a number from 1 to {MOST_COST}")
    return int(text)

"""The picture of a replay: admitted against denied over time, and the clients limited most.

Without a quota: the demand over time, and for each limit the share of clients that it would deny.
Needs matplotlib, the extra `replay`.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from datetime import datetime, timedelta, timezone
from typing import TYPE_CHECKING, Any

from headway.replay.demand import Demand
from headway.replay.lane import Lane
from headway.replay.report import Report, printable
from headway.replay.suggest import Suggestions
from headway.replay.timeline import Timeline

if TYPE_CHECKING:
    from matplotlib.axes import Axes

MOST_BINS = 400
ADMITTED, DENIED = "#4c9f70", "#d1495b"
TOP = 10


class PlotError(Exception):
    """The plot cannot be made. The text is for the user."""


def check(path: str) -> None:
    """Raises `PlotError` now for what would fail after a long replay."""
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise PlotError(
            "a plot needs matplotlib, which is in the extra 'replay': pip install 'headway[replay]'"
        ) from error
    known = Figure().canvas.get_supported_filetypes()
    ending = os.path.splitext(path)[1].lstrip(".").lower()
    if ending not in known:
        raise PlotError(f"{path!r} should end in one of .{', .'.join(sorted(known))}")
    folder = os.path.dirname(path) or "."
    if not os.path.isdir(folder):
        raise PlotError(f"{path!r} cannot be written: there is no folder {folder!r}")


def plot(
    path: str,
    report: Report,
    demand: Demand,
    lanes: Sequence[Lane],
    suggestions: Suggestions | None,
    offset: int | None,
) -> None:
    """Writes the picture to `path`. Raises `PlotError` when it cannot be written."""
    from matplotlib.figure import Figure

    zone = timezone(timedelta(seconds=offset or 0))
    rows = max(1, len(lanes))
    figure = Figure(figsize=(13, 3.6 * rows + 0.6), layout="constrained")
    axes = figure.subplots(rows, 2, squeeze=False, width_ratios=(2, 1))
    figure.suptitle(
        f"{report.log.requests:,} requests of {report.log.clients:,} clients (by {report.by})"
    )
    if lanes:
        for number, lane in enumerate(lanes):
            _over_time(axes[number][0], demand.timeline, lane.timeline, zone)
            axes[number][0].set_title(f"{lane.quota} ({lane.using}): {lane.denied:,} denied")
            _most_limited(axes[number][1], lane, demand)
    else:
        _over_time(axes[0][0], demand.timeline, Timeline(), zone)
        axes[0][0].set_title("requests")
        _shares(axes[0][1], suggestions)
    try:
        figure.savefig(path, dpi=120)
    except OSError as error:
        raise PlotError(f"{path!r} cannot be written: {error.strerror or error}") from error


def _over_time(axes: Axes, requests: Timeline, denials: Timeline, zone: timezone) -> None:
    import matplotlib.dates

    dates: Any = matplotlib.dates  # its types are missing in part
    asked = requests.widened_to_fit(MOST_BINS)
    denied = denials.widened_to_fit(MOST_BINS)
    width = max(asked.width, denied.width)
    for timeline in (asked, denied):
        if timeline.width != width:
            timeline.widen(width)
    if asked.bins:
        bins = range(min(asked.bins), max(asked.bins) + 1)
        edges: list[Any] = [
            datetime.fromtimestamp(where * width, zone) for where in (*bins, bins[-1] + 1)
        ]
        lost = [denied.bins.get(where, 0) for where in bins]
        total = [asked.bins.get(where, 0) for where in bins]
        kept = [a - b for a, b in zip(total, lost, strict=True)]
        axes.stairs(kept, edges, fill=True, color=ADMITTED, label="admitted")
        if denied.bins:
            axes.stairs(total, edges, baseline=kept, fill=True, color=DENIED, label="denied")
            axes.legend(loc="upper left")
        ticks = dates.AutoDateLocator(tz=zone)
        axes.xaxis.set_major_locator(ticks)
        axes.xaxis.set_major_formatter(dates.ConciseDateFormatter(ticks, tz=zone))
    axes.set_ylabel(f"requests in {width} s" if width > 1 else "requests per second")
    axes.set_ylim(bottom=0)


def _most_limited(axes: Axes, lane: Lane, demand: Demand) -> None:
    top = lane.most_limited(TOP)
    denied = [lane.clients[key].count for key in top]
    admitted = [demand.clients[key] - count for key, count in zip(top, denied, strict=True)]
    places = range(len(top))
    axes.barh(places, admitted, color=ADMITTED)
    axes.barh(places, denied, left=admitted, color=DENIED)
    axes.set_yticks(places, [_name(printable(key)) for key in top])
    axes.invert_yaxis()
    axes.set_title("clients limited most" if top else "no client was limited")
    axes.set_xlabel("requests")


def _name(text: str) -> str:
    # A dollar sign would start a formula.
    return (text if len(text) <= 28 else text[:27] + "…").replace("$", r"\$")


def _shares(axes: Axes, suggestions: Suggestions | None) -> None:
    if suggestions is not None:
        for unit, limits in suggestions.limits.items():
            count = len(limits)
            left_out = [100 * (count - rank) / count for rank in range(1, count + 1)]
            axes.step(limits, left_out, where="post", label=f"N/{unit}")
        axes.set_xscale("log")
        axes.legend()
    axes.set_title("share of clients that a limit denies")
    axes.set_xlabel("limit N")
    axes.set_ylabel("% of clients")
    axes.set_ylim(0, 100)

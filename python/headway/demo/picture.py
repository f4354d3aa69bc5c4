"""The picture: for each key, admitted requests over time against the most that its quota allows.

The quota's line is what a client would get that never stops asking from its first request on. A
client over its limit climbs along it; a client below stays under it, and is denied nothing.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from headway.demo.recorder import Arrival
from headway.demo.reference import SECOND_NS
from headway.demo.report import Row, reference_for

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.ticker import Locator

ENDINGS = (".png", ".svg", ".pdf")
COLUMNS = 3
STEPS = 1500  # resolution of the quota's line

ADMITTED = "#1b6ca8"
LINE = "#333333"
DENIED = "#d1495b"
AFTER = "#eeeeee"


class Span(NamedTuple):
    """When the clients called, on the limiter's clock."""

    start_ns: int
    stop_ns: int


def check_path(path: Path) -> None:
    """Make the picture's folder. Errors: ValueError for an unknown ending; OSError."""
    if path.suffix.lower() not in ENDINGS:
        raise ValueError(f"--plot {path}: must end in {', '.join(ENDINGS)}")
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.is_dir():
        raise IsADirectoryError(f"--plot {path} is a directory")
    if not os.access(path if path.exists() else path.parent, os.W_OK):
        raise PermissionError(f"--plot {path} cannot be written")


def draw(
    path: Path, arrivals: Mapping[str, Sequence[Arrival]], rows: Sequence[Row], span: Span
) -> None:
    """Write the picture: a panel for each row; time zero is the start of the span."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    last_ns = max((a.after_ns or 0 for key in arrivals for a in arrivals[key]), default=0)
    end_ns = max(last_ns, span.stop_ns)
    height = -(-len(rows) // COLUMNS)
    figure = Figure(figsize=(4.2 * COLUMNS, 2.9 * height + 1.2), dpi=120, layout="constrained")
    FigureCanvasAgg(figure)
    grid = figure.subplots(height, COLUMNS, squeeze=False, sharex=True)
    places = list(grid.flat)
    for axes, row in zip(places, rows, strict=False):
        _panel(axes, row, arrivals.get(row.key, ()), span, end_ns)
    for axes in places[len(rows) :]:
        axes.set_visible(False)
    for axes in grid[:, 0]:
        axes.set_ylabel("requests admitted")
    for axes in grid[-1]:
        axes.set_xlabel("seconds")
    _title_and_legend(figure, rows)
    figure.savefig(path)


def _title_and_legend(figure: Figure, rows: Sequence[Row]) -> None:
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    agree = sum(row.agrees for row in rows)
    figure.suptitle(
        f"headway demo: {agree} of {len(rows)} keys admitted exactly what their quota allows\n",
        fontsize=15,
        fontweight="bold",
    )
    admitted = Line2D([], [], color=ADMITTED, linewidth=2.2, label="admitted so far")
    most = Line2D([], [], color=LINE, linewidth=1.2, linestyle="--", label="the quota's line")
    denied = Line2D([], [], color=DENIED, linestyle="", marker="|", markersize=9, label="denied")
    stopped = Patch(color=AFTER, label="clients have stopped")
    figure.legend(
        handles=[admitted, most, denied, stopped],
        loc="outside lower center",
        ncols=4,
        frameon=False,
    )


def _panel(axes: Axes, row: Row, arrivals: Sequence[Arrival], span: Span, end_ns: int) -> None:
    def seconds(time_ns: int) -> float:
        return (time_ns - span.start_ns) / SECOND_NS

    style: dict[str, Any]
    end = seconds(end_ns)
    if arrivals:
        times, most = _quota_line(row, min(a.before_ns for a in arrivals), end_ns)
        style = {"color": LINE, "linewidth": 1.2, "linestyle": "--", "zorder": 2}
        axes.step([seconds(at) for at in times], most, where="post", **style)

    admitted = sorted(seconds(a.after_ns) for a in arrivals if a.after_ns and a.admitted)
    steps = range(len(admitted) + 1)
    style = {"color": ADMITTED, "linewidth": 2.2, "zorder": 3}
    axes.step([0.0, *admitted, end], [*steps, len(admitted)], where="post", **style)

    denied = [seconds(a.after_ns) for a in arrivals if a.after_ns and not a.admitted]
    style = {"color": DENIED, "markersize": 9, "alpha": 0.45, "zorder": 1}
    low = axes.get_xaxis_transform()  # x in seconds, y as a share of the panel's height
    axes.plot(denied, [0.045] * len(denied), "|", transform=low, **style)

    axes.axvspan(seconds(span.stop_ns), 1.01 * end, color=AFTER, linewidth=0, zorder=0)
    axes.set_title(row.key.replace(":", "  "), loc="left", fontweight="bold", fontsize=11)
    quota = f"{row.route.quota}, {row.route.using.replace('_', ' ')}"
    axes.set_title(quota, loc="right", fontsize=9, color=LINE)
    verdict = f"{row.admitted:,} admitted, exact {row.exact}\n{row.denied:,} denied"
    color = ADMITTED if row.agrees else DENIED
    axes.text(0.03, 0.96, verdict, transform=axes.transAxes, va="top", fontsize=9, color=color)
    axes.set_xlim(0, 1.01 * end)
    top = axes.get_ylim()[1]
    axes.set_ylim(-0.13 * top, 1.12 * top)
    axes.yaxis.set_major_locator(_whole_numbers())
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)


def _quota_line(row: Row, first_ns: int, end_ns: int) -> tuple[Sequence[int], list[int]]:
    """Times, and how much a client that never stops asking has been admitted by then."""
    reference = reference_for(row.route, timeout=None)
    times = range(first_ns, end_ns + 1, max(1, (end_ns - first_ns) // STEPS))
    admitted, line = 0, []
    for at in times:
        while reference.arrive(at) is not None:
            admitted += 1
        line.append(admitted)
    return times, line


def _whole_numbers() -> Locator:
    from matplotlib.ticker import MaxNLocator

    class FromZero(MaxNLocator):
        """Whole numbers, none of them below zero, where the marks of the denied are."""

        def tick_values(self, vmin: float, vmax: float) -> Sequence[float]:
            return [tick for tick in super().tick_values(vmin, vmax) if tick >= 0]

    return FromZero(nbins=6, integer=True, steps=[1, 2, 5, 10])

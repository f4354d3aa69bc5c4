"""Pictures of the reports: one PNG a report, one panel a section, horizontal bars with their
values written out.

The three kinds of contender differ in colour and in hatching, so that the picture can be read
without seeing colours (the colours are Okabe and Ito's, which colour-blind readers can tell
apart). The axis is logarithmic where the figures span more than a factor of 20. A thin line on a
bar runs from the smallest to the largest round.
"""

from __future__ import annotations

import matplotlib

matplotlib.use("Agg")

from pathlib import Path

import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.patches import Patch

from benchmarks.harness import BASELINE, HEADWAY, PEER, Spread
from benchmarks.report import RESULTS, Report, Section, number

COLOURS = {HEADWAY: "#D55E00", PEER: "#56B4E9", BASELINE: "#999999"}
HATCHES = {HEADWAY: "", PEER: "///", BASELINE: "..."}
NAMES = {HEADWAY: "headway", PEER: "other libraries", BASELINE: "for comparison"}
LOG_FROM = 20.0


def draw(report: Report) -> Path | None:
    """Draws `report` to results/{name}.png; None where it has nothing to draw."""
    sections = [section for section in report.sections if section.rows]
    if not sections:
        return None
    heights = [0.34 * len(section.rows) + 1.15 for section in sections]
    figure, axes = plt.subplots(
        len(sections),
        1,
        figsize=(10, sum(heights) + 1.1),
        height_ratios=heights,
        squeeze=False,
        layout="constrained",
    )
    for panel, section in zip(axes[:, 0], sections, strict=True):
        _panel(panel, section, titled=len(sections) > 1)
    engine = figure.get_layout_engine()
    if isinstance(engine, ConstrainedLayoutEngine):
        engine.set(w_pad=0.15, h_pad=0.1)
    figure.suptitle(report.title, fontsize=14, fontweight="bold")
    kinds = [
        k for k in (HEADWAY, PEER, BASELINE) if any(r.kind == k for s in sections for r in s.rows)
    ]
    figure.legend(
        handles=[
            Patch(facecolor=COLOURS[k], hatch=HATCHES[k], edgecolor="white", label=NAMES[k])
            for k in kinds
        ],
        loc="outside lower center",
        ncols=len(kinds),
        frameon=False,
    )
    path = RESULTS / f"{report.name}.png"
    figure.savefig(path, dpi=130)
    plt.close(figure)
    return path


def _panel(axes: Axes, section: Section, titled: bool) -> None:
    rows = [row for row in section.rows if not section.plot_ratio or row.ratio is not None]
    values: list[Spread] = [
        row.ratio if section.plot_ratio and row.ratio is not None else row.value for row in rows
    ]
    medians = [value.median for value in values]
    smallest = min((m for m in medians if m > 0), default=1.0)
    logarithmic = max(medians) / smallest > LOG_FROM
    places = range(len(rows))
    axes.barh(
        places,
        medians,
        color=[COLOURS[row.kind] for row in rows],
        hatch=[HATCHES[row.kind] for row in rows],
        edgecolor="white",
        height=0.72,
        zorder=2,
    )
    for place, value in zip(places, values, strict=True):
        axes.plot([value.low, value.high], [place, place], color="black", linewidth=1.2, zorder=3)
    ends = [value.high for value in values]
    if section.limit is not None:  # the line of what was promised is always seen
        ends.append(section.limit)
    if logarithmic:
        axes.set_xscale("log")
        axes.set_xlim(smallest / 2, max(ends) * 2.2)
        axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
    else:
        axes.set_xlim(0, max(ends) * 1.16)
    suffix = "x" if section.plot_ratio else f" {section.short or section.unit}"
    for place, value in zip(places, values, strict=True):
        axes.annotate(
            f"{number(value.median)}{suffix}",
            (value.high, place),
            xytext=(5, 0),
            textcoords="offset points",
            va="center",
            fontsize=9,
            zorder=4,
            bbox={"facecolor": "white", "edgecolor": "none", "pad": 1.0},
        )
    if section.limit is not None:
        sense = "at least" if section.more_is_better else "at most"
        axes.axvline(section.limit, color="#0072B2", linestyle="--", linewidth=1.2, zorder=1)
        axes.annotate(
            f"promised: {sense} {number(section.limit)}{suffix}",
            (section.limit, 1),
            xycoords=("data", "axes fraction"),
            xytext=(4, 3),
            textcoords="offset points",
            color="#0072B2",
            fontsize=9,
            ha="left",
            va="bottom",
        )
    axes.set_yticks(list(places), [row.label for row in rows], fontsize=9.5)
    axes.invert_yaxis()
    axes.margins(y=0.02)
    axes.grid(axis="x", color="#dddddd", zorder=0)
    axes.spines[["top", "right"]].set_visible(False)
    base = section.base.replace("`", "")
    what = f"in units of {base}" if section.plot_ratio else section.unit
    scale = ", logarithmic" if logarithmic else ""
    better = "more is better" if section.more_is_better else "less is better"
    axes.set_xlabel(f"{what} ({better}{scale})", fontsize=9.5)
    title = section.title if titled else " "
    axes.set_title(title, fontsize=11, loc="left", pad=18 if section.limit is not None else 6)

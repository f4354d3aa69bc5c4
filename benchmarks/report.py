"""What a benchmark found: a title, tables, targets with a verdict; and how that becomes text,
Markdown and JSON.

A report has sections. A section is one table in one unit, whose rows may also be given as ratios
to one of them; it is drawn as one panel of a picture (`plot.py`). A target is a number that was
promised, and what was measured against it.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

from benchmarks.harness import BASELINE, HEADWAY, Spread, Timing, spread_of_ratios
from benchmarks.machine import Machine

RESULTS = Path(__file__).parent / "results"


@dataclass(frozen=True)
class Row:
    """One contender: its figure, and the same as a ratio to the section's base."""

    label: str
    kind: str
    value: Spread
    ratio: Spread | None = None
    note: str = ""


@dataclass(frozen=True)
class Section:
    """One table, one panel of the picture."""

    title: str
    unit: str
    rows: list[Row]
    base: str = ""
    """What a ratio of 1 stands for."""
    short: str = ""
    """The unit as it is written behind a bar, where the unit itself is long."""
    plot_ratio: bool = False
    """Draw the ratios rather than the values."""
    more_is_better: bool = False
    limit: float | None = None
    """A line across the panel: what was promised, in the unit that is drawn."""


@dataclass(frozen=True)
class Target:
    """A promise and what became of it. A median decides."""

    what: str
    measured: Spread
    bound: float
    unit: str
    at_least: bool = False

    @property
    def met(self) -> bool:
        """Whether the median keeps the promise."""
        if self.at_least:
            return self.measured.median >= self.bound
        return self.measured.median <= self.bound


@dataclass
class Report:
    """All that one question found."""

    name: str
    title: str
    method: str
    sections: list[Section] = field(default_factory=list)
    targets: list[Target] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    @property
    def all_met(self) -> bool:
        """Whether every target of this report is met."""
        return all(target.met for target in self.targets)


def rows_of(timings: Iterable[Timing], base: Timing) -> list[Row]:
    """Rows in nanoseconds, with ratios to `base` formed round by round."""
    return [
        Row(
            timing.contender.label,
            timing.contender.kind,
            timing.ns,
            spread_of_ratios(timing.rounds_ns, base.rounds_ns),
            timing.contender.note,
        )
        for timing in timings
    ]


def number(value: float) -> str:
    """Three significant digits, thousands with commas, no exponents."""
    if value == 0:
        return "0"
    size = abs(value)
    if size >= 1000:
        return f"{value:,.0f}"
    if size >= 100:
        return f"{value:.0f}"
    if size >= 10:
        return f"{value:.1f}"
    return f"{value:.2f}" if size >= 0.1 else f"{value:.2g}"


def figure(value: Spread) -> str:
    """A figure as it is printed: median [low to high]."""
    return f"{number(value.median)} [{number(value.low)} to {number(value.high)}]"


def text(report: Report) -> str:
    """The report for a terminal."""
    lines = ["", report.title, "=" * len(report.title), report.method]
    for section in report.sections:
        lines += ["", f"{section.title} ({section.unit})"]
        lines += _columns(_table(section))
    if report.targets:
        lines += ["", "Targets"]
        lines += _columns([_target_cells(target) for target in _worst_first(report.targets)])
    lines += ["", *(f"- {note}" for note in report.notes)] if report.notes else []
    return "\n".join(lines)


def markdown(report: Report, machine: Machine) -> str:
    """The report as a page, the targets that were missed first."""
    lines = [f"# {report.title}", "", report.method, "", f"Machine: {machine.line()}", ""]
    if report.targets:
        lines += ["| target | promised | measured | met |", "| --- | --- | --- | --- |"]
        lines += ["| " + " | ".join(_target_cells(t)) + " |" for t in _worst_first(report.targets)]
        lines.append("")
    for section in report.sections:
        head, *body = _table(section)
        lines += [f"## {section.title}", "", "| " + " | ".join(head) + " |"]
        lines += ["|" + " --- |" * len(head), *("| " + " | ".join(row) + " |" for row in body), ""]
    lines += [f"- {note}" for note in report.notes]
    return "\n".join(lines).rstrip() + "\n"


def write(report: Report, machine: Machine) -> None:
    """Writes results/{name}.json and .md. The picture is made by `plot.draw`."""
    RESULTS.mkdir(exist_ok=True)
    data = {"machine": asdict(machine), **asdict(report)}
    for target, plain in zip(report.targets, data["targets"], strict=True):
        plain["met"] = target.met
    (RESULTS / f"{report.name}.json").write_text(json.dumps(data, indent=1) + "\n")
    (RESULTS / f"{report.name}.md").write_text(markdown(report, machine))


def read(name: str) -> Report | None:
    """The report that a former run wrote, or None."""
    path = RESULTS / f"{name}.json"
    if not path.exists():
        return None
    data = json.loads(path.read_text())
    sections = []
    for plain in data["sections"]:
        rows = [_row(row) for row in plain.pop("rows")]
        sections.append(Section(rows=rows, **plain))
    targets = [
        Target(t["what"], Spread(*t["measured"]), t["bound"], t["unit"], t["at_least"])
        for t in data["targets"]
    ]
    return Report(data["name"], data["title"], data["method"], sections, targets, data["notes"])


def write_index(names: Iterable[str], machine: Machine) -> None:
    """Writes results/README.md: all targets, from this run and former ones, the missed first."""
    reports = [found for name in names if (found := read(name)) is not None]
    head, *body = target_table(reports)
    lines = [
        "# Results",
        "",
        "Written by `python -m benchmarks`. [How it is measured](../README.md).",
        f"The last run was on: {machine.line()}.",
        "",
        "| " + " | ".join(head) + " |",
        "|" + " --- |" * len(head),
        *("| " + " | ".join(row) + " |" for row in body),
        "",
        *(f"- [{found.title}]({found.name}.md) ([picture]({found.name}.png))" for found in reports),
    ]
    (RESULTS / "README.md").write_text("\n".join(lines) + "\n")


def _row(plain: dict[str, object]) -> Row:
    value, ratio = plain["value"], plain["ratio"]
    assert isinstance(value, list)
    return Row(
        str(plain["label"]),
        str(plain["kind"]),
        Spread(*value),
        Spread(*ratio) if isinstance(ratio, list) else None,
        str(plain["note"]),
    )


def target_table(reports: Sequence[Report]) -> list[list[str]]:
    """Head and rows of the table of all targets, the missed ones first."""
    cells = [
        [report.name, *_target_cells(target)]
        for met in (False, True)
        for report in reports
        for target in report.targets
        if target.met is met
    ]
    return [["question", "target", "promised", "measured", "met"], *cells]


def columns(table: list[list[str]]) -> str:
    """A table as aligned text."""
    return "\n".join(_columns(table))


def _worst_first(targets: Iterable[Target]) -> list[Target]:
    return sorted(targets, key=lambda target: target.met)


def _target_cells(target: Target) -> list[str]:
    sign = ">=" if target.at_least else "<="
    return [
        target.what,
        f"{sign} {number(target.bound)} {target.unit}",
        f"{figure(target.measured)} {target.unit}",
        "yes" if target.met else "NO",
    ]


def _table(section: Section) -> list[list[str]]:
    with_ratio = any(row.ratio is not None for row in section.rows)
    with_note = any(row.note for row in section.rows)
    head = ["contender", section.unit]
    if with_ratio:
        head.append(f"in units of {section.base}")
    if with_note:
        head.append("note")
    table = [head]
    for row in section.rows:
        name = f"`{row.label}`" if row.kind == BASELINE else row.label
        cells = [f"**{name}**" if row.kind == HEADWAY else name, figure(row.value)]
        if with_ratio:
            cells.append(figure(row.ratio) if row.ratio is not None else "")
        if with_note:
            cells.append(row.note)
        table.append(cells)
    return table


def _columns(table: list[list[str]]) -> list[str]:
    plain = [[cell.replace("*", "").replace("`", "") for cell in row] for row in table]
    widths = [max(len(cell) for cell in column) for column in zip(*plain, strict=True)]
    return [
        "  "
        + "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in plain
    ]

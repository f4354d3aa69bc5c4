"""Rows as text: aligned columns for a pipe, and a table with colours and bars for a terminal.

No meaning is in a colour alone: what is red is also a number. Names of keys come from anybody, so
control characters are escaped before they reach a terminal.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from headway._snapshot import KeyActivity
from headway.commands.output import columns, duration, plain
from headway.top.rates import Moment, Row

if TYPE_CHECKING:
    from rich.table import Table
    from rich.text import Text

__all__ = ["BAR", "rich_table", "summary", "text_table"]

BAR = 10
"""Cells of the bar of what remains."""
UNKNOWN = "-"
_TEXT = ("key", "quota", "algorithm", "admitted", "denied", "remaining", "waiting", "reset in")
_TEXT_NUMBERS = (3, 4, 5, 6, 7)


def text_table(rows: Sequence[Row]) -> list[str]:
    """Lines of aligned columns: counts since the counting began."""
    lines: list[tuple[str, ...]] = [_TEXT]
    for row in rows:
        key = row.key
        lines.append(
            (
                _shortened(plain(key.key), 60),
                plain(_quota(key)),
                plain(key.algorithm),
                _count(key.admitted),
                _count(key.denied),
                UNKNOWN if key.remaining is None else f"{key.remaining:,} of {key.limit:,}",
                f"{key.waiting:,}",
                _reset(key),
            )
        )
    return columns(lines, _TEXT_NUMBERS)


def summary(moment: Moment, *, totals: bool = True) -> str:
    """All keys in a line; `totals`: what they did since the counting began, too."""
    seen = moment.snapshot
    parts = [f"{seen.total:,} {'key' if seen.total == 1 else 'keys'}"]
    if moment.admitted_rate is not None and moment.denied_rate is not None:
        rates = (_rate(moment.admitted_rate), _rate(moment.denied_rate))
        parts.append(f"{rates[0]} admitted/s, {rates[1]} denied/s")
    if totals:
        parts.append(f"{seen.admitted:,} admitted, {seen.denied:,} denied in all")
    return "   ".join(parts)


def rich_table(rows: Sequence[Row], sort: str, width: int) -> Table:
    """The rows for a terminal of `width` columns; narrow ones lose the least important columns."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    table = Table(box=box.SIMPLE_HEAD, expand=True, pad_edge=False, padding=0, show_edge=False)
    some, wide, wider, widest = width >= 50, width >= 76, width >= 100, width >= 130

    def column(name: str, sorts: str = "", **options: object) -> None:
        arrow = " ▼" if sorts == sort else ""
        header = Text(name + arrow, style="bold reverse" if arrow else "bold")
        table.add_column(header, no_wrap=True, overflow="ellipsis", **options)  # type: ignore[arg-type]

    column("key", "key", ratio=3, min_width=8)
    if wide:
        column("quota", ratio=2, min_width=8)
    if wider:
        column("algorithm")
    if some:
        column("admitted/s", "admitted", justify="right")
    column("denied/s", "denied", justify="right")
    column("remaining" if wide else "left", "remaining", justify="left" if wide else "right")
    if some:
        column("wait", "waiting", justify="right")
    if widest:
        column("admitted", justify="right")
        column("denied", justify="right")
    if wide:
        column("reset in", justify="right")
    for row in rows:
        key = row.key
        cells = [Text(plain(key.key), style="bold" if row.denied_rate else "")]
        if wide:
            cells.append(Text(plain(_quota(key)), style="cyan"))
        if wider:
            cells.append(Text(plain(key.algorithm), style="dim"))
        if some:
            style = "green" if row.admitted_rate else "dim"
            cells.append(Text(_rate(row.admitted_rate), style=style))
        cells += [
            Text(_rate(row.denied_rate), style="bold red" if row.denied_rate else "dim"),
            _remaining(key, bar=wide),
        ]
        if some:
            cells.append(Text(f"{key.waiting:,}" if key.waiting else "", style="yellow"))
        if widest:
            cells += [
                Text(_count(key.admitted), style="dim"),
                Text(_count(key.denied), style="red" if key.denied else "dim"),
            ]
        if wide:
            cells.append(Text(_reset(key), style="dim"))
        table.add_row(*cells)
    return table


def _remaining(key: KeyActivity, bar: bool) -> Text:
    from rich.text import Text

    if key.remaining is None or not key.limit:
        return Text(UNKNOWN, style="dim")
    share = min(max(key.remaining / key.limit, 0.0), 1.0)
    style = "red" if share < 0.1 else "yellow" if share < 0.5 else "green"
    number = f"{key.remaining:,}"
    if not bar:
        return Text(number, style=style)
    full = int(share * BAR + 0.5) or (1 if key.remaining else 0)
    return Text.assemble(("█" * full, style), ("░" * (BAR - full), "dim"), " ", number)


def _quota(key: KeyActivity) -> str:
    if key.quota or key.limit is None:
        return key.quota
    return f"limit {key.limit:,}"


def _reset(key: KeyActivity) -> str:
    return duration(key.reset_after) if key.reset_after > 0 else ""


def _count(count: int | None) -> str:
    return UNKNOWN if count is None else f"{count:,}"


def _rate(per_second: float | None) -> str:
    if per_second is None:
        return UNKNOWN
    return f"{per_second:,.0f}" if per_second >= 100 or not per_second else f"{per_second:.1f}"


def _shortened(text: str, most: int) -> str:
    return text if len(text) <= most else f"{text[: most - 1]}…"

"""What the demo shows while it runs: a live table on a terminal, plain lines anywhere else.

Both know two things: `update(rows, elapsed)` while requests come in, and leaving the `with` block.
The final table is printed by the same code, so a log file of a build reads like the terminal.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Protocol, TextIO

from headway.demo.report import Row

if TYPE_CHECKING:
    from rich.table import Table
    from typing_extensions import Self

COLUMNS = ("key", "quota", "admitted", "exact", "denied", "wait")
NUMBERS = frozenset({"admitted", "exact", "denied"})


class Screen(Protocol):
    """Where the rows are shown."""

    interval: float
    """Seconds between two updates."""

    def __enter__(self) -> Self: ...
    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc_val: BaseException | None,
        exc_tb: TracebackType | None,
    ) -> None: ...
    def update(self, rows: Sequence[Row], elapsed: float) -> None:
        """Show these rows; `elapsed` in seconds since the clients started."""


def screen_for(url: str, seconds: float, *, plain: bool, silent: bool) -> Screen:
    """The screen that fits: silent for `--json`, plain for `--plain` or without a terminal."""
    if silent:
        return SilentScreen()
    if plain or not sys.stdout.isatty():
        return PlainScreen(url, seconds)
    return LiveScreen(url, seconds)


class SilentScreen:
    """Shows nothing: standard output belongs to the JSON report."""

    interval = 1.0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc_val: BaseException | None,
        exc_tb: TracebackType | None,
    ) -> None:
        return

    def update(self, rows: Sequence[Row], elapsed: float) -> None:
        """Show nothing."""


class PlainScreen(SilentScreen):
    """One line a second, and the table at the end."""

    def __init__(self, url: str, seconds: float, out: TextIO | None = None) -> None:
        self._url = url
        self._seconds = seconds
        self._out = out or sys.stdout
        self._rows: Sequence[Row] = ()

    def __enter__(self) -> Self:
        self._print(f"headway demo: {self._url}, {self._seconds:g} s, clients are calling")
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc_val: BaseException | None,
        exc_tb: TracebackType | None,
    ) -> None:
        if exc_type is None:
            self._print(plain_table(self._rows))

    def update(self, rows: Sequence[Row], elapsed: float) -> None:
        """Print the totals of this moment."""
        final = bool(rows) and elapsed >= self._seconds
        self._rows = rows
        if elapsed and not final:
            admitted = sum(row.admitted for row in rows)
            denied = sum(row.denied for row in rows)
            self._print(f"{elapsed:5.1f} s  {admitted:6,} admitted  {denied:6,} denied")

    def _print(self, text: str) -> None:
        print(text, file=self._out, flush=True)


class LiveScreen:
    """A table that stays in place and counts."""

    interval = 0.125

    def __init__(self, url: str, seconds: float) -> None:
        from rich.live import Live

        self._url = url
        self._seconds = seconds
        self._live = Live(auto_refresh=False, redirect_stdout=False, redirect_stderr=False)

    def __enter__(self) -> Self:
        self._live.start()
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc_val: BaseException | None,
        exc_tb: TracebackType | None,
    ) -> None:
        self._live.stop()

    def update(self, rows: Sequence[Row], elapsed: float) -> None:
        """Redraw the table."""
        wide = self._live.console.width >= 100
        title = (
            f"headway demo   {self._url}   {min(elapsed, self._seconds):.1f} of {self._seconds:g} s"
        )
        self._live.update(_rich_table(rows, title, wide=wide), refresh=True)


def plain_table(rows: Sequence[Row]) -> str:
    """The rows as aligned text."""
    lines = [COLUMNS, *(_cells(row) for row in rows)]
    widths = [max(len(line[i]) for line in lines) for i in range(len(COLUMNS))]
    return "\n".join(
        "  ".join(
            text.rjust(width) if name in NUMBERS else text.ljust(width)
            for name, text, width in zip(COLUMNS, line, widths, strict=True)
        ).rstrip()
        for line in lines
    )


def _cells(row: Row) -> tuple[str, ...]:
    return (
        row.key,
        f"{row.route.quota} {row.route.using}",
        f"{row.admitted:,}",
        str(row.exact),
        f"{row.denied:,}",
        row.wait,
    )


def _rich_table(rows: Sequence[Row], title: str, *, wide: bool) -> Table:
    from rich import box
    from rich.table import Table
    from rich.text import Text

    table = Table(title=title, title_justify="left", title_style="bold", box=box.SIMPLE_HEAD)
    for name in COLUMNS:
        table.add_column(name, justify="right" if name in NUMBERS else "left", no_wrap=True)
    previous = None
    for row in rows:
        if previous is not None and previous != row.route:
            table.add_section()
        previous = row.route
        key, quota, admitted, exact, denied, wait = _cells(row)
        table.add_row(
            Text(key),
            Text(quota if wide else row.route.quota, style="cyan"),
            Text(admitted, style="bold green" if row.agrees else "bold red"),
            Text(exact, style="green" if row.agrees else "red"),
            Text(denied, style="yellow" if row.denied else "dim"),
            Text(wait, style="" if row.longest_wait else "dim"),
        )
    return table

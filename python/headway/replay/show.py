"""A report for people: sentences and tables, by rich on a terminal, as plain text elsewhere."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import TextIO

from headway.replay.report import ClientReport, FileReport, OfferReport, QuotaReport, Report

WIDEST = 60  # of a client's name in a table, in characters
UNITS = {"s": "per second", "m": "per minute", "h": "per hour"}


@dataclass
class Sheet:
    """A table: the first column is text, the others stand to the right."""

    title: str
    columns: Sequence[str]
    rows: list[Sequence[str]] = field(default_factory=list)
    dispensable: Sequence[Sequence[int]] = ()
    """Groups of columns that a narrow terminal does without, the first to go first."""

    def widths(self) -> list[int]:
        """How wide each column is, in characters."""
        return [max(map(len, column)) for column in zip(self.columns, *self.rows, strict=True)]

    def fitted(self, width: int) -> Sheet:
        """This table without what has to go for lines of `width` characters."""
        widths, gone = self.widths(), set[int]()
        for columns in self.dispensable:
            if sum(w + 3 for i, w in enumerate(widths) if i not in gone) < width:
                break
            gone.update(columns)
        keep = [i for i in range(len(widths)) if i not in gone]
        rows: list[Sequence[str]] = [[row[i] for i in keep] for row in self.rows]
        return Sheet(self.title, [self.columns[i] for i in keep], rows)


def show(report: Report, out: TextIO) -> None:
    """Prints `report`. Raises what writing to `out` raises."""
    parts = list(_parts(report))
    if out.isatty():
        try:
            _show_rich(parts, out)
            return
        except ImportError:
            pass
    for before, part in zip([None, *parts], parts, strict=False):
        if before is not None and not (isinstance(before, str) and isinstance(part, str)):
            out.write("\n")  # around a table
        out.write((part if isinstance(part, str) else _plain(part)) + "\n")
    out.flush()


def _parts(report: Report) -> Iterator[str | Sheet]:
    log = report.log
    if not log.requests:
        yield "No requests to replay."
    else:
        yield (
            f"{log.requests:,} requests of {log.clients:,} clients (by {report.by}), "
            f"{_range(log.first, log.last)} {_offset(log.first)}; "
            f"at most {log.peak_per_second:,} in a second, {log.peak_per_minute:,} in a minute."
        )
        yield from (_verdict(quota, log.clients) for quota in report.quotas)
        if len(report.quotas) > 1:
            yield _comparison(report.quotas)
        for quota in report.quotas:
            if quota.top:
                yield _top(quota)
        if report.suggestions:
            yield from _offers(report)
    yield from _notes(report)


def _verdict(quota: QuotaReport, clients: int) -> str:
    name = f"{quota.quota} ({quota.using})"
    if not quota.denied:
        return f"{name} would have denied nothing."
    return (
        f"{name} would have denied {quota.denied:,} requests ({_share(quota.denied_percent)}) of "
        f"{quota.clients_limited:,} clients ({_share(quota.clients_limited_percent)}), "
        f"{_range(quota.first_denied, quota.last_denied)}; "
        f"worst minute {_clock(quota.worst_minute)[:-3]} with {quota.worst_minute_denied:,}."
    )


def _comparison(quotas: Sequence[QuotaReport]) -> Sheet:
    sheet = Sheet(
        "Quotas side by side",
        ("quota", "denied", "of requests", "clients limited", "of clients", "worst minute"),
    )
    for quota in quotas:
        sheet.rows.append(
            (
                quota.quota,
                f"{quota.denied:,}",
                _share(quota.denied_percent),
                f"{quota.clients_limited:,}",
                _share(quota.clients_limited_percent),
                f"{quota.worst_minute_denied:,}",
            )
        )
    return sheet


def _top(quota: QuotaReport) -> Sheet:
    one_day = len({time[:10] for c in quota.top for time in (c.first_denied, c.last_denied)}) == 1
    start = 11 if one_day else 5

    def row(c: ClientReport) -> Sequence[str]:
        return (
            c.client if len(c.client) <= WIDEST else c.client[: WIDEST - 1] + "…",
            f"{c.requests:,}",
            f"{c.denied:,}",
            _share(c.denied_percent),
            f"{c.longest_run:,}",
            f"{c.peak_per_second:,}",
            f"{c.peak_per_minute:,}",
            _clock(c.first_denied)[start:],
            _clock(c.last_denied)[start:],
            f"{_clock(c.worst_minute)[start:-3]} ({c.worst_minute_denied:,})",
        )

    columns = (
        *("client", "requests", "denied", "share", "longest run"),
        *("peak/s", "peak/min", "first denied", "last denied", "worst minute"),
    )
    title = f"Most limited by {quota.quota} ({quota.using})"
    if quota.clients_limited > len(quota.top):
        title += f": {len(quota.top)} of {quota.clients_limited:,} clients"
    rows = [row(client) for client in quota.top]
    return Sheet(title, columns, rows, dispensable=((7,), (8,), (6,), (5,), (4,), (9,)))


def _offers(report: Report) -> Iterator[str | Sheet]:
    by_unit: dict[str, list[OfferReport]] = {}
    for offer in report.suggestions:
        by_unit.setdefault(offer.quota.rpartition("/")[2], []).append(offer)
    columns = ["leaves alone"]
    for unit in by_unit:
        columns += [UNITS[unit], "denies"]
    title = "Which limit should I set? The smallest quotas, and the clients / requests they deny"
    sheet = Sheet(f"{title} ({report.using})", columns, dispensable=(range(2, len(columns), 2),))
    for offers in zip(*by_unit.values(), strict=True):
        row = [f"{offers[0].percentile:g} % of clients"]
        for offer in offers:
            row += [offer.quota, _loss(offer)]
        sheet.rows.append(row)
    yield sheet
    yield f'Denies nobody in this log:  --quota "{report.denying_nobody}"'


def _loss(offer: OfferReport) -> str:
    if not offer.clients_denied:
        return "nobody"
    return f"{offer.clients_denied:,} / {_share(offer.requests_denied_percent)}"


def _notes(report: Report) -> Iterator[str]:
    if report.interrupted:
        yield "Interrupted: this is what was seen until then."
    if report.log.requests:
        how = (
            "spread evenly over it in order of appearance (--no-spread: all at its start)"
            if report.spread
            else "all at its start (--spread: evenly over it in order of appearance)"
        )
        yield f"Note: logs tell whole seconds; requests of one second were taken {how}."
    for file in report.files:
        yield from _file_notes(file)
    for quota in report.quotas:
        if quota.evictions:
            yield (
                f"Note: {quota.quota}: more clients at once than are kept apart; "
                f"{quota.evictions:,} were forgotten, so denials may be missing."
            )


def _file_notes(file: FileReport) -> Iterator[str]:
    name = file.name
    if file.damage:
        yield f"Note: {name}: {file.damage}; {file.lines:,} lines were read before that."
    if file.malformed:
        yield (
            f"Note: {name}: {file.malformed:,} of {file.lines:,} lines are malformed and were left "
            f"out; the first is line {file.first_malformed_line:,}: {file.first_malformed}"
        )
    if file.early:
        yield (
            f"Note: {name}: {file.early:,} lines are more than a day ahead of the next ones; their "
            "times are not believed, and they arrive with those around them."
        )
    if file.late:
        yield (
            f"Note: {name}: {file.late:,} lines were out of order (by up to "
            f"{file.late_by_seconds:,} s) and count as arriving with the line before."
        )
    if file.without_user:
        yield f"Note: {name}: {file.without_user:,} requests without a user were left alone."
    if file.filtered_out:
        yield f"Note: {name}: {file.filtered_out:,} requests were left out by --status or --path."
    if file.keys_cut:
        yield f"Note: {name}: {file.keys_cut:,} keys longer than 64 KiB were cut."


def _clock(iso: str | None) -> str:
    return "" if iso is None else iso[:10] + " " + iso[11:19]


def _range(first: str | None, last: str | None) -> str:
    """From one time to another, the date said once if it is the same."""
    start, end = _clock(first), _clock(last)
    return f"{start} to {end[11:] if end[:10] == start[:10] else end}"


def _offset(iso: str | None) -> str:
    return "" if iso is None else iso[19:]


def _share(value: float) -> str:
    if 0 < value < 0.1:
        return "<0.1 %"
    if 99.9 < value < 100:
        return ">99.9 %"
    return f"{value:.1f} %"


def _plain(sheet: Sheet) -> str:
    widths = sheet.widths()
    lines = [sheet.title]
    for number, row in enumerate([sheet.columns, *sheet.rows]):
        cells = [row[0].ljust(widths[0])]
        cells += [cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True)]
        lines.append("  ".join(cells).rstrip())
        if number == 0:
            lines.append("  ".join("-" * width for width in widths))
    return "\n".join(lines)


def _show_rich(parts: Sequence[str | Sheet], out: TextIO) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console = Console(file=out, highlight=False)
    for part in parts:
        if isinstance(part, str):
            console.print(Text(part))  # Text: what a log holds is never markup
            continue
        part = part.fitted(console.width)
        table = Table(title=Text(part.title, style="bold"), title_justify="left")
        for number, name in enumerate(part.columns):
            first = number == 0
            table.add_column(
                Text(name),
                justify="left" if first else "right",
                overflow="fold" if first else "ellipsis",
                style="cyan" if first else "",
            )
        for row in part.rows:
            table.add_row(*(Text(cell) for cell in row))
        console.print(table)


def warn(text: str) -> None:
    """Says `text` on standard error, on a line of its own."""
    sys.stderr.write(f"headway: {text}\n")

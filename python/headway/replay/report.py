"""The result of a replay as plain data: what `--json` prints, and what the tables are made of.

Field names are the JSON names. Times are ISO 8601 in the log's own offset; `worst_minute` is the
start of that minute. Shares are in percent.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import datetime, timedelta, timezone
from typing import Any

from headway.replay.demand import Demand
from headway.replay.lane import Lane
from headway.replay.requests import SECOND, Source
from headway.replay.suggest import Suggestions

SCHEMA = 1
"""Raised when a field of the JSON output changes its meaning or goes away."""


def percent(part: int, whole: int) -> float:
    """`part` of `whole` in percent, to four digits; 0 where there is nothing."""
    return round(100 * part / whole, 4) if whole else 0.0


@dataclass
class FileReport:
    """One input file."""

    name: str
    lines: int
    malformed: int
    first_malformed_line: int | None
    first_malformed: str | None
    early: int
    late: int
    late_by_seconds: int
    without_user: int
    filtered_out: int
    keys_cut: int
    damage: str | None


@dataclass
class LogReport:
    """All requests that were replayed."""

    requests: int
    clients: int
    first: str | None
    last: str | None
    peak_per_second: int
    peak_per_minute: int


@dataclass
class ClientReport:
    """One client that was limited."""

    client: str
    requests: int
    denied: int
    denied_percent: float
    longest_run: int
    peak_per_second: int
    peak_per_minute: int
    first_denied: str
    last_denied: str
    worst_minute: str
    worst_minute_denied: int


@dataclass
class QuotaReport:
    """What one quota would have done."""

    quota: str
    using: str
    requests: int
    denied: int
    denied_percent: float
    clients_limited: int
    clients_limited_percent: float
    first_denied: str | None
    last_denied: str | None
    worst_minute: str | None
    worst_minute_denied: int
    evictions: int
    top: list[ClientReport]


@dataclass
class OfferReport:
    """A quota to choose from."""

    quota: str
    percentile: float
    clients_denied: int
    clients_denied_percent: float
    requests_denied: int
    requests_denied_percent: float


@dataclass
class Report:
    """Everything there is to say. `quotas` or `suggestions` is empty, as the one or the other was
    asked for."""

    schema: int
    by: str
    using: str
    cost: int | str
    spread: bool
    interrupted: bool
    files: list[FileReport]
    log: LogReport
    quotas: list[QuotaReport]
    suggestions: list[OfferReport]
    denying_nobody: str | None

    def as_json(self) -> dict[str, Any]:
        """The report as what `json.dumps` takes."""
        return asdict(self)

    @property
    def complete(self) -> bool:
        """Whether all files were read to their end."""
        return not any(file.damage for file in self.files)


class Calendar:
    """Writes instants in the log's own offset from UTC."""

    def __init__(self, offset: int | None) -> None:
        self._zone = timezone(timedelta(seconds=offset or 0))

    def second(self, second: int) -> str:
        """A second since the Unix epoch."""
        return datetime.fromtimestamp(second, self._zone).isoformat()

    def instant(self, ns: int | None) -> str | None:
        """Nanoseconds since the Unix epoch, to the second."""
        return None if ns is None else self.second(ns // SECOND)

    def minute(self, minute: int | None) -> str | None:
        """The start of a minute since the Unix epoch."""
        return None if minute is None else self.second(60 * minute)


def printable(key: bytes) -> str:
    """A key as text that is safe to print: no control characters, whatever a client sent."""
    text = key.decode("utf-8", "backslashreplace")
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)


def file_report(source: Source) -> FileReport:
    """What was met while reading one file."""
    line, text = source.first_malformed or (None, None)
    return FileReport(
        name=source.file.name,
        lines=source.lines,
        malformed=source.malformed,
        first_malformed_line=line,
        first_malformed=text if text is None else printable(text.encode()),
        early=source.early,
        late=source.late,
        late_by_seconds=source.latest_by,
        without_user=source.anonymous,
        filtered_out=source.left_out,
        keys_cut=source.cut_keys,
        damage=source.file.damage,
    )


def log_report(demand: Demand, calendar: Calendar) -> LogReport:
    """The log as a whole."""
    return LogReport(
        requests=demand.requests,
        clients=len(demand.clients),
        first=calendar.instant(demand.first_ns),
        last=calendar.instant(demand.last_ns),
        peak_per_second=demand.peak_per_second,
        peak_per_minute=demand.peak_per_minute,
    )


def quota_report(lane: Lane, demand: Demand, calendar: Calendar, top: int) -> QuotaReport:
    """What a quota did, with its `top` clients."""
    clients = lane.clients.values()
    return QuotaReport(
        quota=lane.quota,
        using=lane.using,
        requests=lane.requests,
        denied=lane.denied,
        denied_percent=percent(lane.denied, lane.requests),
        clients_limited=len(clients),
        clients_limited_percent=percent(len(clients), len(demand.clients)),
        first_denied=calendar.instant(min((c.first_ns for c in clients), default=None)),
        last_denied=calendar.instant(max((c.last_ns for c in clients), default=None)),
        worst_minute=calendar.minute(lane.minutes.interval),
        worst_minute_denied=lane.minutes.count,
        evictions=lane.evictions,
        top=[_client_report(key, lane, demand, calendar) for key in lane.most_limited(top)],
    )


def _client_report(key: bytes, lane: Lane, demand: Demand, calendar: Calendar) -> ClientReport:
    denials = lane.clients[key]
    requests = demand.clients[key]
    return ClientReport(
        client=printable(key),
        requests=requests,
        denied=denials.count,
        denied_percent=percent(denials.count, requests),
        longest_run=denials.longest_run,
        peak_per_second=demand.peak_second(key),
        peak_per_minute=demand.peak_minute(key),
        first_denied=calendar.instant(denials.first_ns) or "",
        last_denied=calendar.instant(denials.last_ns) or "",
        worst_minute=calendar.minute(denials.worst_minute) or "",
        worst_minute_denied=denials.worst_minute_count,
    )


def offer_reports(suggestions: Suggestions | None, demand: Demand) -> Sequence[OfferReport]:
    """The quotas to choose from, by period and percentile."""
    if suggestions is None:
        return []
    return [
        OfferReport(
            quota=offer.quota,
            percentile=offer.percentile,
            clients_denied=offer.clients_denied,
            clients_denied_percent=percent(offer.clients_denied, suggestions.clients),
            requests_denied=offer.requests_denied,
            requests_denied_percent=percent(offer.requests_denied, demand.requests),
        )
        for offers in suggestions.offers.values()
        for offer in offers
    ]

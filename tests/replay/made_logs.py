"""Lines of access logs, and what the command made of them: shared by the tests of this folder."""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from typing import Any

EPOCH = datetime(2024, 3, 1, 12, 0, 0, tzinfo=timezone.utc)
"""The second that `log_line` counts from: the start of a minute, an hour and no day."""

BASE = int(EPOCH.timestamp())


def log_line(
    second: float = 0,
    ip: str = "192.0.2.1",
    *,
    user: str = "-",
    request: str = "GET / HTTP/1.1",
    status: int = 200,
    size: str = "512",
    agent: str | None = None,
    offset_hours: float = 0,
) -> str:
    """A line in common format, or in combined format where there is a user agent."""
    zone = timezone(timedelta(hours=offset_hours))
    when = (EPOCH + timedelta(seconds=second)).astimezone(zone)
    stamp = when.strftime("%d/%b/%Y:%H:%M:%S %z")
    line = f'{ip} - {user} [{stamp}] "{request}" {status} {size}'
    return line if agent is None else f'{line} "-" "{agent}"'


@dataclass
class Outcome:
    """What the command did."""

    code: int
    out: str
    err: str

    @property
    def report(self) -> Any:
        """The output of --json."""
        return json.loads(self.out)

"""What a run brought to light: the verdict, as data for `--json` and as the closing lines."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from headway.commands.output import program
from headway.demo.report import Row

NEXT_QUOTA = "10/s burst 20"


@dataclass(frozen=True)
class Outcome:
    """A finished run. `statuses` and `errors` are what the clients saw."""

    url: str
    seconds: float
    rows: Sequence[Row]
    statuses: Mapping[int, int]
    errors: Sequence[str]
    log: Path
    log_lines: int
    plot: Path

    @property
    def admitted(self) -> int:
        """Requests admitted, all keys together."""
        return sum(row.admitted for row in self.rows)

    @property
    def denied(self) -> int:
        """Requests denied, all keys together."""
        return sum(row.denied for row in self.rows)

    @property
    def told_alike(self) -> bool:
        """Whether the clients saw as many 200 and 429 as the limiters decided, and nothing else."""
        decided = {200: self.admitted, 429: self.denied}
        return dict(self.statuses) == {status: n for status, n in decided.items() if n}

    @property
    def ok(self) -> bool:
        """Whether every key agrees with its exact number and no request went wrong."""
        return all(row.agrees for row in self.rows) and self.told_alike and not self.errors

    @property
    def next_command(self) -> str:
        """What to try with the log, as this folder's shell takes it."""
        return f'{program()} replay {shlex.quote(str(self.log))} --quota "{NEXT_QUOTA}"'

    def to_json(self) -> dict[str, Any]:
        """The run as plain data."""
        return {
            "ok": self.ok,
            "seconds": self.seconds,
            "url": self.url,
            "requests": self.admitted + self.denied,
            "admitted": self.admitted,
            "denied": self.denied,
            "keys": [row.to_json() for row in self.rows],
            "statuses": {str(status): n for status, n in sorted(self.statuses.items())},
            "errors": list(self.errors),
            "log": str(self.log),
            "log_lines": self.log_lines,
            "plot": str(self.plot),
            "next": self.next_command,
        }

    def summary(self) -> str:
        """The closing lines: the verdict, the files, and what to try next."""
        return "\n".join(
            [
                *self._verdict(),
                "",
                f"picture  {self.plot}",
                f"log      {self.log}  ({self.log_lines:,} lines, combined format)",
                f"next     {self.next_command}",
            ]
        )

    def _verdict(self) -> list[str]:
        lines = [
            f"{row.key}: {row.admitted:,} admitted, exact {row.exact}: not what the quota allows"
            for row in self.rows
            if not row.agrees
        ]
        if not lines:
            lines = [
                f"admitted == exact for each of {len(self.rows)} keys: {self.admitted:,} of "
                f"{self.admitted + self.denied:,} requests.",
                "The exact numbers come from the arrival times alone, in fractions.",
            ]
        if self.errors:
            lines.append(f"{len(self.errors)} requests failed, the first: {self.errors[0]}")
        elif not self.told_alike:
            lines.append(f"The clients saw other answers than were decided: {self.statuses}")
        return lines

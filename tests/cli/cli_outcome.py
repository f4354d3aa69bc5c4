"""What a run of the program left behind."""

from __future__ import annotations

import json
from typing import Any, NamedTuple


class Outcome(NamedTuple):
    """Its exit code, and what it printed."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        """Standard output, which must be JSON and nothing else."""
        return json.loads(self.out)

    def is_refused(self, code: int, *parts: str) -> None:
        """Checks that it said one line, on standard error, with these parts; and the code."""
        assert (self.code, self.out) == (code, ""), self
        assert self.err.endswith("\n"), self.err
        assert self.err.count("\n") == 1, self.err
        assert self.err.startswith("headway"), self.err
        for part in parts:
            assert part in self.err

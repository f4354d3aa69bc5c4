"""How far a replay is, on standard error, if that is a terminal.

With rich: a bar, the lines read and the time left. Without: one line that is written over. The
position is that of the bytes taken from the files, so a compressed log needs no size of its own.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from contextlib import AbstractContextManager
from types import TracebackType
from typing import Any

from headway.replay.requests import Source

REFRESH = 0.1  # seconds between two updates


class Progress(AbstractContextManager["Progress"]):
    """Shows the progress of `sources` while its block runs; `tick()` as often as you like."""

    def __init__(self, sources: Sequence[Source], *, wanted: bool = True) -> None:
        self._sources = sources
        sizes = [source.file.size for source in sources]
        known = [size for size in sizes if size is not None]
        self._total = sum(known) if len(known) == len(sizes) else None
        self._shown = wanted and sys.stderr is not None and sys.stderr.isatty()
        self._next = 0.0
        self._bar: Any = None
        self._task: Any = None

    def __enter__(self) -> Progress:
        if self._shown:
            try:
                self._start_rich()
            except ImportError:
                self._bar = None
        return self

    def tick(self) -> None:
        """Brings the display up to date, if it is time."""
        if not self._shown:
            return
        now = time.monotonic()
        if now >= self._next:
            self._next = now + REFRESH
            self._draw()

    def _draw(self) -> None:
        done = sum(source.file.bytes_read for source in self._sources)
        lines = sum(source.lines for source in self._sources)
        if self._bar is not None:
            self._bar.update(self._task, completed=done, lines=f"{lines:,}")
            self._bar.refresh()
            return
        share = f"{100 * done // self._total:3d} %" if self._total else f"{done >> 20:,} MiB"
        sys.stderr.write(f"\rreplaying: {share}, {lines:,} lines")
        sys.stderr.flush()

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if not self._shown:
            return
        self._draw()
        if self._bar is not None:
            self._bar.stop()
        else:
            sys.stderr.write("\r\033[K")
            sys.stderr.flush()

    def _start_rich(self) -> None:
        from rich.console import Console
        from rich.progress import (
            BarColumn,
            DownloadColumn,
            TextColumn,
            TimeRemainingColumn,
        )
        from rich.progress import (
            Progress as RichProgress,
        )

        self._bar = RichProgress(
            TextColumn("replaying"),
            BarColumn(),
            DownloadColumn(),
            TextColumn("{task.fields[lines]} lines"),
            TimeRemainingColumn(),
            console=Console(stderr=True),
            transient=True,
            auto_refresh=False,  # no thread: what is drawn is drawn by tick()
        )
        self._task = self._bar.add_task("replaying", total=self._total, lines="0")
        self._bar.start()

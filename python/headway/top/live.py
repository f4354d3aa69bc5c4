"""The screen of `headway top`: a thread fetches, the main thread reads keys and draws.

A server that is slow delays the numbers and never the keys: the thread puts what it has fetched, or
why it could not, where the drawing finds it. Typing filters what is on the screen at once, and the
source from the next snapshot on.
"""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from types import FrameType
from typing import TYPE_CHECKING

from headway._snapshot import SORTS
from headway.commands.output import plain
from headway.commands.parser import Refused
from headway.exceptions import BaseThrottledError
from headway.top.keyboard import Keyboard
from headway.top.rates import Moment, Rates, Row
from headway.top.sources import NamedSource
from headway.top.table import rich_table, summary

if TYPE_CHECKING:
    from rich.console import Console, RenderableType

__all__ = ["Screen", "show"]

AT_LEAST = 300
"""Keys that are fetched, so that those who are denied fastest are among them."""
STEADY = 3.0
"""Seconds over which rates are taken."""
LOOK = 0.1
"""Seconds after which the main thread looks for a new snapshot or another size."""
_LETTERS = {"d": "denied", "a": "admitted", "w": "waiting", "r": "remaining", "n": "recent"}
_LETTERS |= {"k": "key"}
HELP = "sort: d a w r n k or < >   / filter   p pause   ↑↓ scroll   q quit"
HELP_NARROW = "dawrnk sort  / filter  p pause  q quit"


@dataclass
class Screen:
    """What is shown: all that keys change."""

    sort: str = "denied"
    search: str = ""
    limit: int = AT_LEAST
    typing: bool = False
    """Keys go to the filter."""
    paused: bool = False
    first: int = 0
    """How many rows are scrolled away."""
    left: bool = False
    page: int = field(default=10, repr=False)

    def press(self, key: str) -> None:
        """React to a key of the keyboard."""
        if self.typing:
            self._type(key)
        elif key in ("q", "Q"):
            self.left = True
        elif key in _LETTERS:
            self.sort, self.first = _LETTERS[key], 0
        elif key in "<>":
            step = 1 if key == ">" else -1
            self.sort, self.first = SORTS[(SORTS.index(self.sort) + step) % len(SORTS)], 0
        elif key == "/":
            self.typing = True
        elif key in ("p", " "):
            self.paused = not self.paused
        elif key == "escape":
            self.search, self.first = "", 0
        else:
            steps = {"up": -1, "down": 1, "pageup": -self.page, "pagedown": self.page}
            steps |= {"home": -self.first, "end": self.limit}
            self.first = max(0, self.first + steps.get(key, 0))

    def _type(self, key: str) -> None:
        if key == "enter":
            self.typing = False
        elif key == "escape":
            self.typing, self.search = False, ""
        elif key == "backspace":
            self.search = self.search[:-1]
        elif key == "\x15":  # Ctrl-U
            self.search = ""
        elif key.isprintable() and len(key) == 1:
            self.search += key
        self.first = 0


class Fetcher:
    """The thread that asks the source, again after `interval` seconds or when the wish changes."""

    def __init__(self, source: NamedSource, interval: float) -> None:
        self._source = source
        self._interval = interval
        self._rates = Rates(STEADY)
        self._changed = threading.Event()
        self._wish: tuple[str, str, int] | None = None
        self._ended = False
        self.moment: Moment | None = None
        self.error: str | None = None
        self.number = 0
        """Grows with each answer."""
        self._thread = threading.Thread(target=self._fetch, name="headway-top", daemon=True)

    def wish(self, screen: Screen) -> None:
        """Say what to ask for; nothing while it is paused."""
        wish = None if screen.paused else (screen.search, screen.sort, screen.limit)
        if wish != self._wish:
            self._wish = wish
            self._changed.set()
        if not self._thread.is_alive():
            self._thread.start()

    def end(self) -> None:
        """Ask no more."""
        self._ended = True
        self._changed.set()

    def _fetch(self) -> None:
        while not self._ended:
            wish = self._wish
            if wish is not None:
                try:
                    moment = self._rates.take(self._source.snapshot(*wish))
                except (BaseThrottledError, Refused) as error:
                    self.error = str(error)
                except Exception as error:  # the screen must say so, whatever it is
                    self.error = f"{type(error).__name__}: {error}"
                else:
                    self.moment, self.error = moment, None
                self.number += 1
            self._changed.wait(self._interval)
            self._changed.clear()


def show(source: NamedSource, interval: float, screen: Screen) -> None:
    """Show it until somebody quits. Standard input and output are a terminal."""
    from rich.console import Console
    from rich.live import Live

    console = Console()
    fetcher = Fetcher(source, interval)
    with Keyboard() as keyboard, _signals() as asked:
        live = Live(console=console, screen=True, auto_refresh=False, redirect_stderr=False)
        with live:
            drawn: object = None
            while not screen.left:
                fetcher.wish(screen)
                state = (fetcher.number, str(screen), console.size, int(time.time()))
                if state != drawn:
                    live.update(_drawn(console, source, fetcher, screen), refresh=True)
                    drawn = state
                try:
                    for key in keyboard.keys(LOOK):
                        screen.press(key)
                except EOFError:
                    break
                if asked.pop("stop", False):
                    live.stop()
                    keyboard.__exit__(None, None, None)
                    os.kill(os.getpid(), signal.SIGSTOP)  # until the shell says "fg"
                    keyboard.__enter__()
                    live.start()
                    drawn = None
        fetcher.end()


@contextlib.contextmanager
def _signals() -> Iterator[dict[str, bool]]:
    """Leave the terminal as it was on SIGTERM and SIGHUP too, and when stopped by Ctrl-Z."""
    asked: dict[str, bool] = {}

    def leave(number: int, frame: FrameType | None) -> None:
        raise SystemExit(128 + number)

    def stop(number: int, frame: FrameType | None) -> None:
        asked["stop"] = True

    wanted = {signal.SIGTERM: leave, signal.SIGHUP: leave, signal.SIGTSTP: stop}
    before = {number: signal.signal(number, handler) for number, handler in wanted.items()}
    try:
        yield asked
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _drawn(
    console: Console, source: NamedSource, fetcher: Fetcher, screen: Screen
) -> RenderableType:
    from rich.console import Group
    from rich.text import Text

    width, height = console.size
    moment, error = fetcher.moment, fetcher.error
    clock = time.strftime("%H:%M:%S", time.localtime(moment.snapshot.now if moment else None))
    head = Text.assemble(("headway top", "bold"), "  ", (plain(source.name), "cyan"), f"  {clock}")
    if screen.paused:
        head.append("  PAUSED", "bold yellow")
    lines = [head]
    if moment is not None:
        lines.append(Text(summary(moment, totals=width >= 90)))
    elif error is None:
        lines.append(Text("asking…", style="dim"))
    if error is not None:
        lines.append(Text(f"no answer: {plain(error)}", style="bold red"))
    elif source.note and moment is not None:
        lines.append(Text(source.note, style="yellow"))
    if screen.typing or screen.search:
        cursor = ("▏", "blink") if screen.typing else ("  (Esc clears)", "dim")
        lines.append(Text.assemble(("filter: ", "bold"), screen.search, cursor))
    for line in lines:
        line.no_wrap, line.overflow = True, "ellipsis"
    screen.page = max(1, height - len(lines) - 4)
    rows = moment.chosen(screen.search, screen.sort) if moment is not None else []
    screen.first = max(0, min(screen.first, len(rows) - screen.page))
    shown = rows[screen.first : screen.first + screen.page]
    table = rich_table(shown, screen.sort, width)
    blank = Text("\n" * (screen.page - max(len(shown), 1)))
    middle = [blank] if shown else [Text(_nothing(moment, screen), style="dim"), blank]
    foot = Text(_foot(rows, shown, screen, width), style="reverse", no_wrap=True)
    foot.truncate(width, pad=True)
    return Group(*lines, table, *middle, foot)


def _nothing(moment: Moment | None, screen: Screen) -> str:
    if moment is None:
        return ""
    return f"no key contains {plain(screen.search)!r}" if screen.search else "no key yet"


def _foot(rows: list[Row], shown: list[Row], screen: Screen, width: int) -> str:
    help_text = HELP if width >= 90 else HELP_NARROW
    if screen.typing:
        help_text = "type to filter   Enter keep   Esc clear"
    place = f"{screen.first + 1}-{screen.first + len(shown)} of {len(rows)}" if shown else ""
    return f" {help_text}{place.rjust(max(0, width - len(help_text) - 2))}"

"""argparse, whose complaints are one line, and what a subcommand raises to be refused.

A complaint reads `headway peek: argument --using: 'fast', must be one of … (usage: headway peek
--help)`: who says it, which argument, its value, and what would do.
"""

from __future__ import annotations

import argparse
import sys
from typing import Any, NoReturn

__all__ = ["Missing", "Parser", "Refused", "bounded", "seconds"]


class Refused(Exception):
    """An argument that cannot be used; the message names it, its value and what would do."""


class Missing(Exception):
    """Something has to be installed; the message says how."""


class Parser(argparse.ArgumentParser):
    """Parsers of subcommands of its own (`limits status`) are of the same kind."""

    def __init__(self, **options: Any) -> None:
        options.setdefault("formatter_class", argparse.RawDescriptionHelpFormatter)
        super().__init__(**options)

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: {_one_line(message)} (usage: {self.prog} --help)\n")

    def _print_message(self, message: str, file: Any = None) -> None:
        # argparse's own swallows a reader that went away.
        stream = file or sys.stderr
        if message and stream is not None:
            try:
                stream.write(message)
            except UnicodeEncodeError:  # a help text has a few characters that ASCII has not
                encoding = stream.encoding or "ascii"
                text = message.replace("…", "...").replace("–", "-")
                stream.write(text.encode(encoding, "backslashreplace").decode(encoding))


def _one_line(text: str) -> str:
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)


class bounded:
    """A type for `add_argument`: a whole number between two others."""

    def __init__(self, least: int, most: int) -> None:
        self.least, self.most = least, most

    def __call__(self, text: str) -> int:
        """The number that `text` is."""
        digits = text.isascii() and text.isdigit() and len(text) < 19
        if digits and self.least <= int(text) <= self.most:
            return int(text)
        raise argparse.ArgumentTypeError(
            f"{text!r}, must be a whole number from {self.least} to {self.most}"
        )


class seconds:
    """A type for `add_argument`: a number of seconds between two others."""

    def __init__(self, least: float, most: float) -> None:
        self.least, self.most = least, most

    def __call__(self, text: str) -> float:
        """The seconds that `text` is."""
        try:
            value = float(text)
        except ValueError:
            value = float("nan")
        if self.least <= value <= self.most:
            return value
        raise argparse.ArgumentTypeError(
            f"{text!r}, must be {self.least:g} to {self.most:g} seconds"
        )

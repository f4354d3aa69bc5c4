"""Keys of a terminal, one at a time and without an echo, until the `with` block is left.

A key is the character that was typed, or a name: "enter", "escape", "backspace", "up", "down",
"pageup", "pagedown", "home", "end". What is typed while nobody asks is not lost.
"""

from __future__ import annotations

import codecs
import os
import select
import sys
import termios
import tty
from types import TracebackType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from typing_extensions import Self

__all__ = ["Keyboard"]

_SEQUENCES = {
    "\x1b[A": "up",
    "\x1b[B": "down",
    "\x1bOA": "up",
    "\x1bOB": "down",
    "\x1b[5~": "pageup",
    "\x1b[6~": "pagedown",
    "\x1b[H": "home",
    "\x1b[F": "end",
    "\x1b[1~": "home",
    "\x1b[4~": "end",
    "\x1bOH": "home",
    "\x1bOF": "end",
}
_CHARACTERS = {"\r": "enter", "\n": "enter", "\x7f": "backspace", "\x08": "backspace"}


class Keyboard:
    """Standard input, which must be a terminal."""

    def __init__(self) -> None:
        self._fd = sys.stdin.fileno()
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._before: list[int | list[bytes | int]] | None = None
        self._gone = False

    def __enter__(self) -> Self:
        self._before = termios.tcgetattr(self._fd)
        tty.setcbreak(self._fd, termios.TCSANOW)
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc_val: BaseException | None,
        exc_tb: TracebackType | None,
    ) -> None:
        if self._before is not None:
            termios.tcsetattr(self._fd, termios.TCSADRAIN, self._before)

    def keys(self, timeout: float) -> list[str]:
        """What was typed, as soon as something is; empty after `timeout` seconds.

        Raises EOFError when the terminal has gone.
        """
        ready, _, _ = select.select([self._fd], [], [], timeout)
        if not ready:
            return []
        try:
            read = os.read(self._fd, 1024)
        except OSError as error:
            raise EOFError from error
        if not read:
            raise EOFError
        return list(_split(self._decoder.decode(read)))


def _split(text: str) -> list[str]:
    keys, at = [], 0
    while at < len(text):
        if text[at] != "\x1b":
            keys.append(_CHARACTERS.get(text[at], text[at]))
            at += 1
            continue
        # A terminal writes a sequence in one piece, so an escape that stands alone was typed.
        end = at + 1
        if end < len(text) and text[end] in "[O":
            end += 1
            while end < len(text) and not "@" <= text[end] <= "~":
                end += 1
            end += 1
            name = _SEQUENCES.get(text[at:end])
            if name is not None:
                keys.append(name)
        else:
            keys.append("escape")
        at = end
    return keys

"""A terminal that a test looks at: a program in a pty, and what pyte has drawn of it."""

from __future__ import annotations

import contextlib
import fcntl
import os
import pty
import select
import signal
import struct
import sys
import termios
import time
from collections.abc import Callable, Mapping, Sequence
from types import TracebackType

import pyte

import process_guard

DEADLINE_S = 20.0


class Terminal:
    """`with Terminal(["-m", "headway.top", url]) as terminal:` runs Python with these arguments."""

    def __init__(
        self,
        arguments: Sequence[str],
        columns: int = 100,
        lines: int = 20,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        self.screen = pyte.Screen(columns, lines)
        self._stream = pyte.ByteStream(self.screen)
        self._main, other = pty.openpty()
        self._resize(columns, lines)
        self.before = termios.tcgetattr(self._main)
        self.raw = b""
        self.process = process_guard.start(
            [sys.executable, *arguments],
            stdin=other,
            stdout=other,
            stderr=other,
            env=os.environ | {"TERM": "xterm-256color"} | dict(environment or {}),
            preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),
        )
        os.close(other)

    def __enter__(self) -> Terminal:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        process_guard.end(self.process)
        os.close(self._main)

    @property
    def lines(self) -> list[str]:
        return [line.rstrip() for line in self.screen.display]

    @property
    def text(self) -> str:
        return "\n".join(self.lines)

    @property
    def settings(self) -> list[object]:
        """Of the terminal: whether it echoes, and all else that a program may change."""
        return termios.tcgetattr(self._main)

    def type(self, text: str) -> None:
        os.write(self._main, text.encode())

    def resize(self, columns: int, lines: int) -> None:
        self.screen.resize(lines, columns)
        self._resize(columns, lines)
        os.killpg(self.process.pid, signal.SIGWINCH)

    def _resize(self, columns: int, lines: int) -> None:
        size = struct.pack("HHHH", lines, columns, 0, 0)
        fcntl.ioctl(self._main, termios.TIOCSWINSZ, size)

    def read(self, seconds: float) -> None:
        """Draw what the program writes, until it has been silent for so long."""
        with contextlib.suppress(OSError):  # it has ended
            while select.select([self._main], [], [], seconds)[0]:
                data = os.read(self._main, 65536)
                self.raw += data
                self._stream.feed(data)

    def until(self, condition: Callable[[Terminal], object], what: str) -> None:
        """Wait until the screen shows something."""
        deadline = time.monotonic() + DEADLINE_S
        while not condition(self):
            assert time.monotonic() < deadline, f"never: {what}\n{self.text}"
            self.read(0.05)

    def shows(self, text: str) -> None:
        self.until(lambda terminal: text in terminal.text, f"the screen shows {text!r}")

    def ends(self) -> int:
        """Wait until the program ends; its exit code."""
        self.until(lambda terminal: terminal.process.poll() is not None, "it ends")
        self.read(0.05)
        code = self.process.returncode
        assert isinstance(code, int)
        return code

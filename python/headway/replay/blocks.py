"""Bytes of a log file as blocks of whole lines: plain, gzip or standard input.

Gzip is told by its first two bytes, not by the file's name, and is inflated here rather than by
the `gzip` module so that a file that was cut off still yields everything up to the cut. Several
members in one file (logs that were appended compressed) are read one after another.

Memory is bounded whatever the file holds: a block is about a mebibyte, and a line longer than
`LONGEST_LINE` is dropped and replaced by a line that no format accepts, so that it is counted and
line numbers stay right.
"""

from __future__ import annotations

import os
import sys
import zlib
from collections.abc import Iterator
from io import BufferedReader
from typing import cast

BLOCK = 1 << 20
LONGEST_LINE = 1 << 20
OVERLONG = b"(a line longer than 1 MiB)\n"

_MAGIC_BYTES = 6
_GZIP = b"\x1f\x8b"
_OTHERS = {b"\xfd7zXZ": "xz", b"\x28\xb5\x2f\xfd": "zstd", b"BZh": "bzip2"}


class UnreadableLog(Exception):
    """A file that cannot be opened, or is of a kind that is not read. The text is for the user."""


class LogFile:
    """One input: `blocks()` yields its lines, the attributes tell how far it got and what is wrong.

    `-` is standard input. Raises `UnreadableLog` when the file cannot be opened.
    """

    def __init__(self, name: str) -> None:
        self.name = "standard input" if name == "-" else name
        self.bytes_read = 0
        """Bytes taken from the file itself, compressed or not: what a progress bar shows."""
        self.damage: str | None = None
        """Why reading stopped before the end of the file, if it did."""
        self._file: BufferedReader
        if name == "-":
            if sys.stdin is None:
                raise UnreadableLog("cannot read standard input: it is closed")
            self._file = cast(BufferedReader, sys.stdin.buffer)
            self.size: int | None = None
            return
        try:
            self._file = open(name, "rb")  # noqa: SIM115 - closed when its blocks end
            status = os.fstat(self._file.fileno())
        except OSError as error:
            raise UnreadableLog(f"cannot read {name!r}: {error.strerror or error}") from error
        self.size = status.st_size or None

    def blocks(self) -> Iterator[bytes]:
        """Blocks of whole lines, each ending in a newline, in the order of the file."""
        rest: list[bytes] = []  # the pieces of a line whose newline has not come yet
        length, dropping = 0, False
        for piece in self._inflated():
            if dropping:
                end = piece.find(b"\n") + 1
                if not end:
                    continue
                piece, dropping = OVERLONG + piece[end:], False
            cut = piece.rfind(b"\n") + 1
            if cut:
                yield b"".join((*rest, piece[:cut])) if rest else piece[:cut]
                rest, length = [], 0
            if cut < len(piece):
                rest.append(piece[cut:])
                length += len(rest[-1])
                if length > LONGEST_LINE:
                    rest, length, dropping = [], 0, True
        if dropping:
            yield OVERLONG
        elif rest:
            yield b"".join((*rest, b"\n"))

    def close(self) -> None:
        """Closes the file; standard input is left to whoever opened it."""
        if self.name != "standard input":
            self._file.close()

    def _raw(self) -> Iterator[bytes]:
        try:
            # read1: what a pipe holds now, so that Ctrl-C loses nothing that has arrived.
            while piece := self._file.read1(BLOCK):
                self.bytes_read += len(piece)
                yield piece
        except OSError as error:
            if not self.bytes_read:
                raise UnreadableLog(
                    f"cannot read {self.name!r}: {error.strerror or error}"
                ) from error
            self.damage = f"reading failed: {error.strerror or error}"
        finally:
            self.close()

    def _inflated(self) -> Iterator[bytes]:
        pieces = self._raw()
        first = b""
        for piece in pieces:  # a pipe may hold one byte at first
            first += piece
            if len(first) >= _MAGIC_BYTES:
                break
        for magic, kind in _OTHERS.items():
            if first.startswith(magic):
                raise UnreadableLog(
                    f"{self.name!r} is compressed with {kind}, which is not read: "
                    f"decompress it into a pipe and replay -"
                )
        if not first.startswith(_GZIP):
            yield first
            yield from pieces
            return
        member = zlib.decompressobj(wbits=31)
        data = first
        while True:
            try:
                text = member.decompress(data, BLOCK)
            except zlib.error as error:
                self.damage = f"the gzip data is damaged ({error})"
                return
            if text:
                yield text
            if member.eof:
                data = member.unused_data.lstrip(b"\0") or next(pieces, b"").lstrip(b"\0")
                if not data:
                    return
                member = zlib.decompressobj(wbits=31)  # appended members follow each other
                continue
            data = member.unconsumed_tail or (b"" if text else next(pieces, b""))
            if not data and not text:
                self.damage = "the gzip data ends too early: the file was cut off"
                return

"""The file of a SQLiteStore as the file system sees it: who may read it, and which file it is.

No function here opens a file that exists. To close any descriptor of a file ends all POSIX locks
that the process has on it, and SQLite locks its files by these.
"""

import os
from contextlib import suppress
from pathlib import Path

__all__ = ["identity_of", "make_private", "remove_left_behind"]


def identity_of(path: str) -> tuple[int, int] | None:
    """Device and inode of the file that `path` names; None where there is none, or in memory."""
    try:
        found = os.stat(path) if path != ":memory:" else None
    except OSError:
        return None
    return None if found is None else (found.st_dev, found.st_ino)


def make_private(path: str) -> bool:
    """Make the file, if there is none, so that only its user may read it: it holds keys.

    SQLite gives its other files (-wal, -shm) the permissions of this one. What there is keeps its
    permissions. Return whether it was made. Raises OSError.
    """
    if path == ":memory:" or os.path.exists(path):
        return False
    with suppress(FileExistsError):
        flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | getattr(os, "O_CLOEXEC", 0)
        os.close(os.open(Path(path).resolve(), flags, 0o600))
        return True
    return False


def remove_left_behind(path: str) -> None:
    """Remove a file that was made a moment ago, and the -wal and -shm of a deleted one beside it.

    SQLite cannot use the new file while a process that has the deleted one open keeps these; that
    process looks once a second of its work which file the path names.
    """
    for ending in ("", "-wal", "-shm"):
        with suppress(OSError):
            os.unlink(path + ending)

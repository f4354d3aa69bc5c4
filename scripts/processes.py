"""Runs a command, and ends every process that it started when it is over.

A test may start servers in sessions and process groups of their own, and those may start more.
On Linux this process makes itself the reaper of its orphans (prctl PR_SET_CHILD_SUBREAPER), so all
of them stay its descendants and are found in /proc, whatever group they are in. Elsewhere only the
command's own process group is ended.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PR_SET_CHILD_SUBREAPER = 36
# A process that was asked to end by SIGTERM has this long before it gets SIGKILL.
GRACE_SECONDS = 3.0
# The status of a command that was ended because it ran too long; timeout(1) has the same.
TOO_LONG = 124
GDB_SECONDS = 30.0


def adopt_orphans() -> None:
    """Makes orphaned descendants children of this process. Does nothing where prctl is missing."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def run(
    command: Sequence[str | Path],
    *,
    show: bool = False,
    env: Mapping[str, str] | None = None,
    limit: float | None = None,
) -> tuple[int, str]:
    """Runs a command in a process group of its own and returns its status and its output.

    `show` prints the output as it comes. Whatever the command leaves running is ended, also where
    this is left by an exception, as Ctrl-C raises one. A command that runs longer than `limit`
    seconds is ended: its status is TOO_LONG, and the output says where each thread of it was.
    """
    process = subprocess.Popen(
        command,
        cwd=ROOT,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=True,
        env={**os.environ, **(env or {})},
    )
    lines: list[str] = []

    def read() -> None:
        assert process.stdout is not None
        for raw in process.stdout:
            lines.append(raw.decode(errors="replace"))
            if show:
                print(end=lines[-1], flush=True)

    # The command's end is waited for, not that of its output: a server that it has left running
    # may hold the pipe open, until it is ended here.
    reader = threading.Thread(target=read)
    reader.start()
    stuck = ""
    try:
        process.wait(limit)
    except subprocess.TimeoutExpired:
        stuck = f"ended, since it still ran after {limit:.0f} s:\n{state_of(descendants())}"
    finally:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGTERM)
        end_descendants()
        reader.join()
    return TOO_LONG if stuck else process.returncode, "".join(lines) + stuck


def state_of(pids: Sequence[int]) -> str:
    """What each thread of these processes does: by gdb where that is installed, else the system
    call in which the kernel has it.
    """
    found: list[str] = []
    for pid in pids:
        with contextlib.suppress(OSError):
            command = Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ")
            found.append(f"process {pid}: {command.decode(errors='replace')}")
        if shutil.which("gdb"):
            gdb = ["gdb", "-q", "-batch", "-p", str(pid), "-ex", "thread apply all bt"]
            with contextlib.suppress(OSError, subprocess.TimeoutExpired):
                done = subprocess.run(gdb, capture_output=True, timeout=GDB_SECONDS, check=False)
                found.append(done.stdout.decode(errors="replace"))
            continue
        for thread in sorted(Path(f"/proc/{pid}/task").glob("*")):
            with contextlib.suppress(OSError):
                state = (thread / "stat").read_text().rpartition(")")[2].split()[0]
                call = (thread / "syscall").read_text().strip()
                found.append(f"    thread {thread.name}: state {state}, system call {call}")
    return "\n".join(found) + "\n"


def end_descendants() -> None:
    """Ends every descendant: SIGTERM, a short grace, then SIGKILL until none is left."""
    _signal_all(signal.SIGTERM)
    deadline = time.monotonic() + GRACE_SECONDS
    while _any_lives() and time.monotonic() < deadline:
        time.sleep(0.02)
    while _any_lives():
        _signal_all(signal.SIGKILL)
        time.sleep(0.02)


def descendants() -> list[int]:
    """The processes below this one, by /proc; none where there is no /proc."""
    children: dict[int, list[int]] = {}
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError, ValueError, IndexError):
            # The name in the second field may hold spaces and parentheses.
            fields = (folder / "stat").read_text(errors="replace").rpartition(")")[2].split()
            children.setdefault(int(fields[1]), []).append(int(folder.name))
    found: list[int] = []
    queue = [os.getpid()]
    while queue:
        below = children.get(queue.pop(), [])
        found += below
        queue += below
    return found


def _signal_all(number: signal.Signals) -> None:
    for pid in descendants():
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.kill(pid, number)


def _any_lives() -> bool:
    """Collects the descendants that have ended; whether any lives on."""
    with contextlib.suppress(ChildProcessError):
        while os.waitpid(-1, os.WNOHANG) != (0, 0):
            pass
    return bool(descendants())

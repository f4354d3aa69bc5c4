"""No program outlives the test run that started it, however the run ends.

A guard process waits on a pipe from the test process. When the test process ends, be it by SIGKILL,
the pipe closes; the guard then kills what the tests have left running, removes the folder that it
was given, and ends. It finds what to kill in three ways:

- by a mark in the environment, which every program inherits that a test starts (on Linux);
- by the processes that were named to it: `start` names them, with their process group and session,
  for programs that overwrite their environment (redis-server does), and where there is no /proc;
- by descent from one of these.

A forked child of the test process has a guard of its own as soon as it asks for one. Guards leave
each other alone: each still has to end what its own process has started.
"""

from __future__ import annotations

import atexit
import contextlib
import os
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

MARK = "HEADWAY_TEST_PROCESS"
"""The variable whose value names the test process from which a program descends."""
END_S = 30.0
"""How long a killed process, and the guard, may take to end."""

PROGRAM = r"""if True:
    import os, shutil, signal, sys, time

    mark, guard, folder = *map(str.encode, sys.argv[1:3]), sys.argv[3]
    named = set()
    for line in sys.stdin:
        (named.add if line[0] == "+" else named.discard)(int(line[1:]))

    def processes():
        # By process id: parent, group, session, whether it has the mark.
        found = {}
        for name in os.listdir("/proc"):
            if name.isdigit() and int(name) != os.getpid():
                try:
                    with open(f"/proc/{name}/stat", "rb") as file:
                        state, *ids = file.read().rpartition(b")")[2].split()[:4]
                    with open(f"/proc/{name}/environ", "rb") as file:
                        environment = file.read().split(b"\0")
                except OSError:
                    continue
                if state not in (b"Z", b"X") and guard not in environment:
                    found[int(name)] = (*map(int, ids), mark in environment)
        return found

    def left():
        found = processes()
        those = {
            pid
            for pid, (_, group, session, marked) in found.items()
            if marked or named & {pid, group, session}
        }
        while True:
            more = {pid for pid, ids in found.items() if ids[0] in those} - those
            if not more:
                return those
            those |= more

    def kill(end, target):
        try:
            end(target, signal.SIGKILL)
        except OSError:
            pass

    if os.path.exists("/proc/self/environ"):
        deadline = time.monotonic() + 10
        while (those := left()) and time.monotonic() < deadline:
            named |= those
            for pid in those:
                kill(os.kill, pid)
            time.sleep(0.01)
    else:
        for group in named:
            kill(os.killpg, group)
    shutil.rmtree(folder, ignore_errors=True)
"""


class Guard:
    """The guard of this process; `root` is a folder that goes with it."""

    _lock = threading.Lock()
    _current: Guard | None = None

    def __init__(self) -> None:
        self.owner = os.getpid()
        self.root = Path(tempfile.mkdtemp(prefix="headway-tests-"))
        mark = f"{self.owner}-{self.root.name}"
        arguments = [f"{MARK}={mark}", f"{MARK}=guard", str(self.root)]
        self._process = subprocess.Popen(
            [sys.executable, "-I", "-S", "-c", PROGRAM, *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            bufsize=0,
            env=os.environ | {MARK: "guard"},
            start_new_session=True,
        )
        os.environ[MARK] = mark
        assert self._process.stdin is not None
        self._pipe = self._process.stdin
        os.register_at_fork(after_in_child=self._pipe.close)
        atexit.register(self.end)

    @classmethod
    def current(cls) -> Guard:
        """The guard of this process, which is not that of the process it was forked from."""
        with cls._lock:
            if cls._current is None or cls._current.owner != os.getpid():
                cls._current = cls()
            return cls._current

    def watch(self, process_id: int) -> None:
        """Kill this process at the end, its process group and its session."""
        self._pipe.write(b"+%d\n" % process_id)

    def forget(self, process_id: int) -> None:
        """It has ended: another process may get its number."""
        self._pipe.write(b"-%d\n" % process_id)

    def end(self) -> None:
        if self.owner == os.getpid():
            self._pipe.close()
            self._process.wait(END_S)


def start(command: Sequence[str | os.PathLike[str]], **how: Any) -> subprocess.Popen[Any]:
    """`subprocess.Popen` in a session of its own, which ends with this process."""
    process = subprocess.Popen(command, start_new_session=True, **how)
    Guard.current().watch(process.pid)
    return process


def end(process: subprocess.Popen[Any]) -> None:
    """Kills what is left of a program that `start` started, and of its process group."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait(END_S)
    Guard.current().forget(process.pid)

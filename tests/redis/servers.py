"""Redis and Valkey servers that a test starts, stops, kills, pauses and starts again.

    with RedisServer(options={"maxmemory": "2mb"}) as server:
        client = connect(server.url)
        server.kill()
        server.start()

What a test arranges with `command` goes through the server's unix socket, so that TLS, a proxy or a
full TCP backlog are not in the way. The port stays the server's own while it is down (ports.py).
No server outlives the process that started it (process_guard.py).
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any
from urllib.parse import quote

from certificates import Certificates
from ports import ServerFailed, claim_port, until
from wire import DEADLINE_S, RedisError, Wire

sys.path.append(str(Path(__file__).parents[1]))

import process_guard
from process_guard import Guard

STOP_S = 15.0
"""How long a server that was asked to stop may take before it is killed. Redis itself waits up to
10 s for replicas that lag.
"""

Option = str | int | Sequence[str]
"""The value of a directive; several make several lines."""


def has_tls(binary: str) -> bool:
    """Whether this server was built with TLS: which of two lines does it not know?"""
    probe = subprocess.run(
        [binary, "-"],
        input=b"tls-port 0\nport 0\nnot-a-directive 1\n",
        capture_output=True,
        timeout=DEADLINE_S,
        check=False,
    )
    return b"not-a-directive" in probe.stdout + probe.stderr


class RedisServer:
    """One server process, its port, its directory and its log.

    `options` are directives of its configuration file. `users` maps a name to a password and the
    rules of its ACL. With `tls` its port speaks TLS only and asks for client certificates, unless
    the options say otherwise (`"tls-auth-clients": "no"`). With `persistent` every write is on disk
    before it is answered, so that `kill` and `start` lose nothing; without, they lose everything.
    """

    USER, PASSWORD = "harness", "the harness' own"

    def __init__(
        self,
        binary: str = "redis-server",
        options: Mapping[str, Option] | None = None,
        *,
        password: str | None = None,
        users: Mapping[str, tuple[str, str]] | None = None,
        tls: Certificates | None = None,
        persistent: bool = False,
        sentinel: bool = False,
    ) -> None:
        self.binary, self.password, self.users, self.tls = binary, password, dict(users or {}), tls
        self.persistent, self.sentinel, self.options = persistent, sentinel, dict(options or {})
        self.host, self.port, self.paused = "127.0.0.1", 0, False
        self._guard = Guard.current()
        self.directory = Path(tempfile.mkdtemp(dir=self._guard.root))
        self.unix_socket = str(self.directory / "socket")
        self._config = self.directory / "server.conf"
        self._log = self.directory / "log"
        self._claim: socket.socket | None = None
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> RedisServer:
        try:
            return self if self.alive else self.start()
        except BaseException:
            self.close()
            raise

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<{self.binary} on port {self.port}, {'alive' if self.alive else 'down'}>"

    @property
    def address(self) -> tuple[str, int]:
        return self.host, self.port

    @property
    def url(self) -> str:
        return self.url_for()

    def url_for(self, user: str = "", *, db: int = 0, port: int | None = None) -> str:
        """The URL for one of the users, or the default one; `port` is that of a proxy."""
        scheme = "redis" if self.tls is None else "rediss"
        return f"{scheme}://{self._credentials(user)}{self.host}:{port or self.port}/{db}"

    @property
    def unix_url(self) -> str:
        return f"unix://{self._credentials('')}{self.unix_socket}"

    def _credentials(self, user: str) -> str:
        password = self.users[user][0] if user else self.password
        return "" if password is None else f"{quote(user, '')}:{quote(password, '')}@"

    # Life and death.

    def start(self, *, fresh: bool = False) -> RedisServer:
        """Starts it, on the port it had before. `fresh`: without the data it wrote to disk."""
        if self.alive:
            raise ServerFailed(f"{self!r} is running already")
        self._reap()
        if fresh:
            self._remove_data()
        end, first = time.monotonic() + DEADLINE_S, self._claim is None
        while True:
            if self._claim is None:
                self.port, self._claim = claim_port()
                self._config.write_text(self._directives())
            said = self._spawn()
            problem = self._await_answer(end)
            if problem is None:
                return self
            self.kill()
            taken = any(
                words in self.log[said:] for words in ("already in use", "Failed listening")
            )
            if not taken or time.monotonic() > end:
                raise ServerFailed(f"{self!r} {problem}. Its log:\n{self.log[said:] or '(empty)'}")
            if first:  # another program was faster: try another port
                self._claim.close()
                self._claim = None

    def kill(self) -> None:
        """SIGKILL, and waits until it is gone."""
        self._signal(signal.SIGKILL)
        self._reap()

    def stop(self) -> None:
        """Asks it to end, which writes what it has to write."""
        self._signal(signal.SIGCONT)
        self._signal(signal.SIGTERM)
        if self._process is not None:
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(STOP_S)
        self.kill()

    def pause(self) -> None:
        """SIGSTOP: its sockets still take connections and bytes, but nobody answers."""
        self._signal(signal.SIGSTOP)
        self.paused = True
        assert self._process is not None
        with contextlib.suppress(FileNotFoundError):  # no /proc: believed
            status = Path(f"/proc/{self._process.pid}/stat")
            until(lambda: status.read_text().rpartition(")")[2].split()[0] in "tT", "a pause", 5.0)

    def resume(self) -> None:
        self._signal(signal.SIGCONT)
        self.paused = False

    def close(self) -> None:
        """Kills it, removes its files, gives up its port. Does nothing in a forked child."""
        if self._guard.owner != os.getpid():
            return
        self.kill()
        if self._claim is not None:
            self._claim.close()
            self._claim = None
        shutil.rmtree(self.directory, ignore_errors=True)

    @property
    def alive(self) -> bool:
        return self._process is not None and self._process.poll() is None

    @property
    def pid(self) -> int:
        if self._process is None:
            raise ServerFailed(f"{self!r} has no process")
        return self._process.pid

    @property
    def answers(self) -> bool:
        """Whether there is somebody to ask: neither dead nor paused."""
        return self.alive and not self.paused

    @property
    def log(self) -> str:
        """What it has printed since it was made."""
        return self._log.read_text(errors="replace") if self._log.exists() else ""

    # Arranging things.

    def command(self, *args: str | int | bytes) -> Any:
        """The reply to one command, on a connection of its own, as a user who may do anything."""
        with self.connect() as wire:
            return wire.command(*args)

    def connect(self, *, timeout: float = DEADLINE_S) -> Wire:
        """A connection through the unix socket, logged in."""
        wire = Wire(self.unix_socket, timeout=timeout)
        try:
            if self.users:
                wire.command("AUTH", self.USER, self.PASSWORD)
            elif self.password is not None:
                wire.command("AUTH", self.password)
        except BaseException:
            wire.close()
            raise
        return wire

    def info(self, section: str = "default") -> dict[str, str]:
        lines = self.command("INFO", section).splitlines()
        return dict(line.split(":", 1) for line in lines if ":" in line)

    @property
    def version(self) -> tuple[int, ...]:
        """The version of Redis, or the one whose commands a Valkey has."""
        return tuple(int(part) for part in self.info("server")["redis_version"].split("."))

    def is_primary(self) -> bool:
        return bool(self.command("ROLE")[0] == "master")

    # Inside.

    def _directives(self) -> str:
        options: dict[str, Option] = {
            "bind": self.host,
            "port": 0 if self.tls else self.port,
            "unixsocket": self.unix_socket,
            "dir": str(self.directory),
        }
        if not self.sentinel:
            options |= {"save": "", "appendonly": "yes" if self.persistent else "no"}
            options |= {"appendfsync": "always", "repl-diskless-sync": "yes"}
            options |= {"repl-diskless-sync-delay": 0}
        if self.tls is not None:
            options |= {"tls-port": self.port, "tls-ca-cert-file": str(self.tls.ca)}
            options |= {"tls-cert-file": str(self.tls.server.certificate)}
            options |= {"tls-key-file": str(self.tls.server.key), "tls-auth-clients": "yes"}
        if self.password is not None:
            options["requirepass"] = quoted(self.password)
        if self.users:
            everyone = self.users | {self.USER: (self.PASSWORD, "~* &* +@all")}
            options["user"] = [
                f"{name} on {quoted('>' + password)} {rules}"
                for name, (password, rules) in everyone.items()
            ]
        lines = []
        for name, value in (options | self.options).items():
            several = [value] if isinstance(value, str | int) else value
            lines += [f"{name} {line if line != '' else quoted('')}\n" for line in several]
        return "".join(lines)

    def _spawn(self) -> int:
        """Starts the process and returns how long its log was."""
        said = len(self.log)
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self.unix_socket)  # of the one before, which was killed
        with self._log.open("ab") as log:
            self._process = process_guard.start(
                [self.binary, str(self._config), *(["--sentinel"] if self.sentinel else [])],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        return said

    def _await_answer(self, end: float) -> str | None:
        """Nothing once it answers PING, or what went wrong."""
        last: object = "nothing came back"
        while time.monotonic() < end:
            if not self.alive:
                return "ended by itself"
            try:
                with self.connect(timeout=1.0) as wire:
                    wire.command("PING")
                return None
            except RedisError as error:
                if not str(error).startswith("LOADING"):
                    return f"answered PING with {error}"
                last = error
            except OSError as error:
                last = error
            time.sleep(0.005)
        return f"did not answer PING within {DEADLINE_S} s: {last!r}"

    def _signal(self, number: signal.Signals) -> None:
        if self.alive and self._guard.owner == os.getpid():
            assert self._process is not None
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, number)

    def _reap(self) -> None:
        if self._process is not None and self._guard.owner == os.getpid():
            self._process.wait(DEADLINE_S)
            self._guard.forget(self._process.pid)
            self._process, self.paused = None, False

    def _remove_data(self) -> None:
        for entry in self.directory.iterdir():
            if entry.name.startswith("append"):
                shutil.rmtree(entry) if entry.is_dir() else entry.unlink()
            elif entry.suffix == ".rdb":
                entry.unlink()


def quoted(text: str) -> str:
    """A word of a configuration file, whatever is in it."""
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'

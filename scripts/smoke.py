"""Uses an installed headway once in each of its ways, as a user's first programs do.

    python scripts/smoke.py

One line for each: ok, left out (what it needs is not installed) or FAILED. Ends with 1 where one
failed. Needs headway alone, so it runs on a system that has nothing else; redis-server and the
packages of headway[serve] are used where they are installed. HEADWAY_SMOKE_REDIS=redis://…: that
server.
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib.util
import json
import os
import platform
import shutil
import signal
import socket
import subprocess
import sys
import sysconfig
import tempfile
import time
import traceback
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import headway
import headway._core
import headway.asyncio
from headway.limiters import SyncSemaphore

DEADLINE_S = 60.0
EXPECTED = [True, True, True, False]


class LeftOut(Exception):
    """What a check needs is not installed."""


def admitted(store: str) -> list[bool]:
    limiter = headway.Throttled(quota="3/h", store=store)
    return [bool(limiter.limit("alice")) for _ in range(4)]


def expect(value: object, expected: object) -> str:
    if value != expected:
        raise AssertionError(f"expected {expected!r}, got {value!r}")
    return ""


def module() -> str:
    """The compiled module, and that an interpreter without a GIL has kept off its GIL."""
    free_threaded = bool(sysconfig.get_config_var("Py_GIL_DISABLED"))
    gil = bool(getattr(sys, "_is_gil_enabled", lambda: True)())
    expect(gil, not free_threaded)
    if sys.platform == "linux":
        expect("libhiredis" in Path("/proc/self/maps").read_text(), False)
    file = headway._core.__file__
    return f"{Path(str(file)).name}, GIL {'on' if gil else 'off'}"


def memory() -> str:
    begun = time.monotonic()
    waiting = headway.Throttled(quota="20/s burst 1", timeout=DEADLINE_S)
    expect([bool(waiting.limit("bob")) for _ in range(3)], [True] * 3)
    expect(time.monotonic() - begun >= 0.1, True)
    with SyncSemaphore(name="smoke", capacity=1):
        pass
    for algorithm in ("fixed_window", "sliding_window", "leaking_bucket", "gcra"):
        limiter = headway.Throttled(quota="3/h", using=algorithm)
        expect([bool(limiter.limit("alice")) for _ in range(4)], EXPECTED)
    return expect(admitted("memory://"), EXPECTED)


def tasks() -> str:
    async def main() -> list[bool]:
        limiter = headway.asyncio.Throttled(quota="20/s burst 1", timeout=DEADLINE_S)
        results = await asyncio.gather(*(limiter.limit("tasks") for _ in range(4)))
        return [bool(result) for result in results]

    return expect(asyncio.run(main()), [True] * 4)


def shared_memory() -> str:
    name = f"smoke-{os.getpid()}"
    program = (
        "import sys, headway; limiter = headway.Throttled(quota='3/h', store=sys.argv[1]); "
        "print(bool(limiter.limit('alice')))"
    )
    command = [sys.executable, "-c", program, f"shm:///{name}"]
    try:
        runs = [subprocess.run(command, capture_output=True, text=True) for _ in range(4)]
        return expect([run.stdout.strip() == "True" for run in runs], EXPECTED)
    finally:
        cli("shm", "remove", name)


def sqlite() -> str:
    if importlib.util.find_spec("_sqlite3") is None:
        raise LeftOut("this Python has no sqlite3")
    with tempfile.TemporaryDirectory() as folder:
        url = f"sqlite:///{folder}/limits.db"
        expect(admitted(url), EXPECTED)
        return expect(admitted(url), [False] * 4)


def wait_for(ready: Callable[[], bool], process: subprocess.Popen[str], what: str) -> None:
    deadline = time.monotonic() + DEADLINE_S
    while not ready():
        if process.poll() is not None or time.monotonic() > deadline:
            raise AssertionError(f"{what} did not start (status {process.poll()})")
        time.sleep(0.02)


@contextlib.contextmanager
def running(command: list[str]) -> Iterator[subprocess.Popen[str]]:
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            yield process
        finally:
            process.send_signal(signal.SIGTERM)
            try:
                process.communicate(timeout=DEADLINE_S)
            except subprocess.TimeoutExpired:
                process.kill()


def redis() -> str:
    """Threads and tasks on one limit each, on a server of its own or the one that is named."""
    named = os.environ.get("HEADWAY_SMOKE_REDIS")
    if named:
        return decisions_of(named)
    server = shutil.which("redis-server") or shutil.which("valkey-server")
    if server is None:
        raise LeftOut("no redis-server here, and HEADWAY_SMOKE_REDIS names none")
    with tempfile.TemporaryDirectory() as folder:
        path = f"{folder}/redis.sock"
        options = ["--port", "0", "--unixsocket", path, "--save", "", "--dir", folder]
        with running([server, *options]) as process:

            def ready() -> bool:
                with socket.socket(socket.AF_UNIX) as client:
                    return client.connect_ex(path) == 0

            wait_for(ready, process, "redis-server")
            return decisions_of(f"unix://{path}")


def decisions_of(url: str) -> str:
    prefix = f"smoke-{os.getpid()}-{time.time_ns()}"
    limiter = headway.Throttled(quota="3/h", store=url, key_prefix=prefix)
    expect([bool(limiter.limit("alice")) for _ in range(4)], EXPECTED)

    async def main() -> list[bool]:
        own = headway.asyncio.Throttled(quota="3/h", store=url, key_prefix=prefix)
        return [bool(await own.limit("bob")) for _ in range(4)]

    expect(asyncio.run(main()), EXPECTED)
    return url.partition("?")[0]


def serve() -> str:
    if missing := [m for m in ("uvicorn", "httptools") if importlib.util.find_spec(m) is None]:
        raise LeftOut(f"not installed: {', '.join(missing)}")
    command = [sys.executable, "-m", "headway", "serve", "--listen", "127.0.0.1:0"]
    with running(command) as process:
        assert process.stdout is not None
        line = process.stdout.readline()
        url = line.split()[-1] if line else ""
        expect(url.startswith("http://127.0.0.1:"), True)
        answers = []
        for _ in range(4):
            body = json.dumps({"key": "alice", "quota": "3/h"}).encode()
            with contextlib.suppress(urllib.error.HTTPError):
                with urllib.request.urlopen(url + "/v1/limit", body, DEADLINE_S) as answer:
                    answers.append(not json.load(answer)["limited"])
        return expect([*answers[:3], any(answers[3:])], EXPECTED)


def cli(*arguments: str) -> str:
    command = [sys.executable, "-m", "headway", *arguments]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode != 0:
        raise AssertionError(f"{arguments} ended with {done.returncode}: {done.stderr[-500:]}")
    return done.stdout


def command_line() -> str:
    program = Path(sys.executable).with_name("headway")
    if program.exists():
        subprocess.run([program, "--version"], check=True, stdout=subprocess.DEVNULL)
    doctor = cli("doctor")
    expect("No problem found." in doctor, True)
    lines = [" ".join(line.split()) for line in doctor.splitlines()]
    wanted = ("ok compiled core", "ok hiredis", "ok version")
    return "; ".join(line[3:] for line in lines if line.startswith(wanted))


CHECKS: dict[str, Callable[[], str]] = {
    "module": module,
    "memory": memory,
    "asyncio": tasks,
    "redis": redis,
    "shm": shared_memory,
    "sqlite": sqlite,
    "serve": serve,
    "doctor": command_line,
}


def main() -> int:
    libc = " ".join(platform.libc_ver())
    python = f"Python {platform.python_version()} on {platform.machine()}"
    print(f"smoke test: headway {headway.__version__}, {python}, {libc}")
    failed = 0
    for name, check in CHECKS.items():
        try:
            print(f"  ok        {name:8} {check()}".rstrip(), flush=True)
        except LeftOut as reason:
            print(f"  left out  {name:8} {reason}", flush=True)
        except Exception as error:
            failed += 1
            print(f"  FAILED    {name:8} {type(error).__name__}: {error}", flush=True)
            traceback.print_exc()
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())

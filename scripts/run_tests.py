"""Runs every test there is, stage by stage, and closes with one line: 'N passed, N failed'.

    .venv/bin/python scripts/run_tests.py             all stages, as `make test` does
    .venv/bin/python scripts/run_tests.py c asan      one variant of the C tests (plain, asan, tsan)
    .venv/bin/python scripts/run_tests.py pytest      the full suite on this Python
    .venv/bin/python scripts/run_tests.py pythons     a wheel and the fast tests on other Pythons

A stage that fails does not stop the next one. What the other Pythons print is shown only where
something failed.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from bootstrap import CANNOT
from pythons import find_pythons, name_of
from requirements import of_extra

ROOT = Path(__file__).resolve().parent.parent
LAST_LINE = ROOT / "build" / "last-test-line.txt"
SANITIZERS = {"plain": "", "asan": "-fsanitize=address,undefined", "tsan": "-fsanitize=thread"}
# tests/faults has what only later Pythons can run: an interpreter with a GIL of its own.
FAST_FOLDERS = (
    "tests/api",
    "tests/asyncio_waiting",
    "tests/choked",
    "tests/faults",
    "tests/limiters",
    "tests/properties",
    "tests/smartratelimit",
    "tests/threads",
)
C_PROGRAM_SECONDS = 300
PYTEST_SECONDS = 960
FAST_SECONDS = 300
# On two processors all of it would take longer than the twenty minutes that CI has. Then another
# Python is not begun any more: the oldest is first, the newest next.
OTHERS_BEGIN_WITHIN_SECONDS = 13 * 60
STARTED = time.monotonic()
# What pytest's exit status may be: 0 all passed, 5 nothing was selected. All else is a failure,
# counted or not.
NOTHING_SELECTED = 5


@dataclass
class Count:
    passed: int = 0
    failed: int = 0

    def __add__(self, other: Count) -> Count:
        return Count(self.passed + other.passed, self.failed + other.failed)


def say(line: str) -> None:
    print(line, flush=True)


def stream(command: Sequence[str | Path], seconds: float, *, show: bool) -> tuple[int, str]:
    """Runs a command and returns its status and output; shows the output as it comes, or not.

    The command gets a process group of its own, and whatever is left of that group is ended with
    the command, at its deadline, or by Ctrl-C here: a test that died leaves no program behind.
    """
    process = subprocess.Popen(
        command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True
    )
    assert process.stdout is not None
    late = threading.Event()

    def end_group() -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)

    def watch() -> None:
        try:
            process.wait(seconds)
        except subprocess.TimeoutExpired:
            late.set()
        end_group()

    watcher = threading.Thread(target=watch)
    watcher.start()
    lines: list[str] = []
    try:
        for raw in process.stdout:
            lines.append(raw.decode(errors="replace"))
            if show:
                print(end=lines[-1], flush=True)
    except BaseException:
        end_group()
        raise
    finally:
        watcher.join()
    if late.is_set():
        lines.append(f"stopped: not finished after {seconds:.0f} s\n")
        if show:
            print(end=lines[-1], flush=True)
    return process.wait(), "".join(lines)


def count_of(output: str, status: int) -> tuple[Count, str]:
    """What pytest's closing line says; a failing status counts even where no test failed."""
    closing = ""
    for line in reversed(output.splitlines()):
        if re.search(
            r"\b(passed|failed|error|errors|skipped|no tests ran|deselected)\b.* in [\d.]+s", line
        ):
            closing = line.strip(" =")
            break

    def number(word: str) -> int:
        match = re.search(rf"(\d+) {word}\b", closing)
        return int(match[1]) if match else 0

    count = Count(number("passed") + number("xfailed"), number("failed") + number("errors?"))
    if status not in (0, NOTHING_SELECTED) and count.failed == 0:
        count.failed = 1
    return count, closing or f"pytest ended with status {status}"


def sanitizer_works(variant: str) -> bool:
    """Not every compiler comes with the libraries, and not every kernel lets them start."""
    with tempfile.TemporaryDirectory() as folder:
        source, program = Path(folder) / "empty.c", Path(folder) / "empty"
        source.write_text("int main(void) { return 0; }\n")
        compiler: list[str | Path] = [
            *os.environ.get("CC", "cc").split(),
            SANITIZERS[variant],
            source,
        ]
        build = stream([*compiler, "-o", program], 60, show=False)
        return build[0] == 0 and stream([*launcher(variant), program], 60, show=False)[0] == 0


def launcher(variant: str) -> list[str]:
    """ThreadSanitizer wants its addresses where newer kernels do not put them unless told to."""
    return ["setarch", "-R"] if variant == "tsan" and shutil.which("setarch") else []


def run_c(variant: str) -> Count:
    """Builds and runs tests/core/test_*.c, each program one test."""
    names = sorted(p.stem for p in (ROOT / "tests" / "core").glob("test_*.c"))
    if not names:
        return Count()
    if SANITIZERS[variant] and not sanitizer_works(variant):
        say(f"C core, {variant}: skipped, the compiler cannot make such programs here")
        return Count()
    status, output = stream(["make", "-s", f"core-programs-{variant}"], 600, show=False)
    if status != 0:
        say(output)
        say(f"C core, {variant}: does not build")
        return Count(failed=1)
    count, begun = Count(), time.monotonic()
    for name in names:
        program = ROOT / "build" / "core" / variant / name
        status, output = stream([*launcher(variant), program], C_PROGRAM_SECONDS, show=False)
        if status != 0:
            say(output)
            say(f"C core, {variant}: {name} failed with status {status}")
        count += Count(passed=int(status == 0), failed=int(status != 0))
    seconds = time.monotonic() - begun
    say(f"C core, {variant}: {count.passed} passed, {count.failed} failed in {seconds:.1f}s")
    return count


def has_module(python: str | Path, module: str) -> bool:
    done = subprocess.run([python, "-c", f"import {module}"], stderr=subprocess.DEVNULL)
    return done.returncode == 0


def run_pytest() -> Count:
    """The full suite on this Python: what can share the machine first, then what cannot."""
    pytest: list[str | Path] = [sys.executable, "-m", "pytest", "-q"]
    workers = ["-n", "auto"] if has_module(sys.executable, "xdist") else []
    status, output = stream([*pytest, *workers, "-m", "not alone"], PYTEST_SECONDS, show=True)
    together, _ = count_of(output, status)
    status, output = stream([*pytest, "-m", "alone"], PYTEST_SECONDS, show=False)
    alone, closing = count_of(output, status)
    if alone.failed:
        say(output)
    elif alone.passed:
        say(f"with the machine to themselves: {closing}")
    return together + alone


def run_on(name: str, python: Path) -> Count:
    """A wheel built and installed in .venv-NAME, and the fast tests against that wheel."""
    begun = time.monotonic()
    venv = ROOT / f".venv-{name}"
    inside = venv / "bin" / "python"
    pip: list[str | Path] = [inside, "-m", "pip", "install", "-qq"]
    status, output = stream([python, "scripts/bootstrap.py", venv], 600, show=False)
    if status == CANNOT:
        say(f"Python {name}: skipped: {output.strip()}")
        return Count()
    steps: list[list[str | Path]] = [
        [*pip, "--no-build-isolation", "--no-deps", "--force-reinstall", "."],
        [inside, "-c", "import headway._core"],
    ]
    if not all(has_module(inside, m) for m in ("pytest", "xdist", "pytest_timeout", "hypothesis")):
        steps.append([*pip, *of_extra("test-fast")])
    for step in steps:
        if status == 0:
            # A module that was removed since the last build must not come back in the wheel.
            for stale in (ROOT / "build").glob("lib.*"):
                shutil.rmtree(stale)
            status, output = stream(step, 600, show=False)
    if status != 0:
        say(output)
        say(f"Python {name}: does not build")
        return Count(failed=1)
    built = time.monotonic() - begun
    folders = [f for f in FAST_FOLDERS if (ROOT / f).is_dir()]
    pytest: list[str | Path] = [
        inside,
        "-m",
        "pytest",
        "-q",
        "-n",
        "auto",
        "-p",
        "no:cacheprovider",
    ]
    selection = ["-m", "not slow and not alone", *folders]
    status, output = stream([*pytest, *selection], FAST_SECONDS, show=False)
    count, closing = count_of(output, status)
    if count.failed:
        say(output)
    say(f"Python {name}: wheel built in {built:.0f}s; {closing}")
    return count


def run_pythons() -> Count:
    default = name_of(sys.executable)
    count = Count()
    others = [(name, python) for name, python in find_pythons().items() if name != default]
    for name, python in [*others[:1], *others[:0:-1]]:
        minutes = (time.monotonic() - STARTED) / 60
        if minutes * 60 > OTHERS_BEGIN_WITHIN_SECONDS:
            say(f"Python {name}: left out, the tests have taken {minutes:.0f} minutes already")
            continue
        count += run_on(name, python)
    return count


def run_all() -> Count:
    count = run_c("plain") + run_c("asan")
    say(f"Python {name_of(sys.executable)}, the default: all tests")
    return count + run_pytest() + run_pythons()


def main(arguments: list[str]) -> int:
    match arguments:
        case []:
            count = run_all()
        case ["c", ("plain" | "asan" | "tsan") as variant]:
            count = run_c(variant)
        case ["pytest"]:
            count = run_pytest()
        case ["pythons"]:
            count = run_pythons()
        case _:
            print(__doc__, file=sys.stderr)
            return 2
    closing = f"{count.passed} passed, {count.failed} failed"
    LAST_LINE.parent.mkdir(exist_ok=True)
    LAST_LINE.write_text(closing + "\n")
    say(closing)
    return 1 if count.failed or not count.passed else 0


if __name__ == "__main__":
    # Being terminated must end what runs below, as Ctrl-C does.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    sys.exit(main(sys.argv[1:]))

"""Runs the tests, stage by stage, and closes with one line: 'N passed, N failed'.

    .venv/bin/python scripts/run_tests.py             what `make test` runs: the C tests, and all
                                                      folders of tests but for the slow ones
    .venv/bin/python scripts/run_tests.py rest        what `make test-all` runs after that
    .venv/bin/python scripts/run_tests.py c asan      one variant of the C tests (plain, asan, tsan)
    .venv/bin/python scripts/run_tests.py sanitized   fast tests of the extension under sanitizers
    .venv/bin/python scripts/run_tests.py torture     two minutes of tests/torture
    .venv/bin/python scripts/run_tests.py slow        the slow tests, then those that run alone
    .venv/bin/python scripts/run_tests.py pythons     a wheel and the tests on each other Python

A stage that fails does not stop the next one. No stage has a time limit; a single test that hangs
is ended, by pytest-timeout or here. Interrupted, this names what failed so far and ends every
process that the tests have started.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import processes
from bootstrap import CANNOT
from install import NOT_INSTALLED, WITHOUT_DEPENDENCIES
from processes import ROOT
from pythons import find_pythons, name_of
from requirements import of_extra

PLUGINS = ROOT / "scripts" / "plugins"
sys.path[:0] = [str(PLUGINS), str(ROOT / "tests" / "torture")]
import sanitized  # noqa: E402
from pytest_results import VARIABLE, Results, read  # noqa: E402

BUILD = ROOT / "build"
LAST_LINE = BUILD / "last-test-line.txt"
RESULTS = BUILD / "test-results.jsonl"
SANITIZERS = {"plain": "", "asan": "-fsanitize=address,undefined", "tsan": "-fsanitize=thread"}
# What runs with the extension under sanitizers: what reaches most of the C code in seconds.
SANITIZED = (
    *("tests/api", "tests/asyncio_waiting", "tests/limiters", "tests/threads"),
    *("tests/redis/test_faults_replies.py", "tests/redis/test_faults_fuzz.py"),
    *("tests/redis/test_faults_errors.py", "tests/redis/test_task_calls.py"),
)
# Another Python runs what can be installed there of the extra `test`, but for the tools that
# read the sources rather than run them.
READ_THE_SOURCES = ("mypy", "pyright", "ruff", "django-stubs", "types-", "celery-types")
# pytest's exit status for a run in which no test was selected; not a failure here.
NOTHING_SELECTED = 5
# More workers than processors, since about half of a test's time is waiting: for servers, for other
# processes, for deadlines that pass.
WORKERS = (os.cpu_count() or 1) + 2
# A program of the C tests takes seconds. One that hangs is ended, shown, and counts as failed.
C_PROGRAM_SECONDS = 600.0
# An empty program under a sanitizer takes milliseconds.
EMPTY_PROGRAM_SECONDS = 60.0
INTERRUPTED = 130
TORTURE_S = 120
DAY_S = 86400
# How tests/torture/session.py says that memory was not freed.
LEFT_BEHIND = "are left behind"


def say(line: str) -> None:
    print(line, flush=True)


class Stages:
    """The stages of one run, and what they have added up to."""

    def __init__(self) -> None:
        self.total = Results()

    def add(self, results: Results) -> None:
        self.total += results

    # --- C

    def c(self, variant: str) -> None:
        """Builds and runs tests/core/test_*.c, and tests/core/fuzz_*.c on what is in
        tests/core/corpus, each program one test.
        """
        if variant != "plain" and not sanitizer_works(variant):
            say(f"C core, {variant}: skipped: this compiler or kernel has no {variant} here")
            return
        begun = time.monotonic()
        jobs = f"-j{os.cpu_count() or 1}"
        status, output = processes.run(["make", "-s", jobs, f"core-programs-{variant}"])
        if status != 0:
            say(output)
            say(f"C core, {variant}: does not build")
            self.add(Results(failures={f"C core, {variant}": "does not build"}))
            return
        results = Results()
        for command in core_commands(variant):
            status, output = processes.run([*launcher(variant), *command], limit=C_PROGRAM_SECONDS)
            if status == 0:
                results.passed += 1
            else:
                say(output)
                name = f"C core, {variant}: {Path(command[0]).name}"
                results.failures[name] = f"status {status}"
        say(f"C core, {variant}: {results.closing} in {time.monotonic() - begun:.0f}s")
        self.add(results)

    # --- Python

    def pytest(
        self,
        selection: str,
        *,
        title: str,
        python: str | Path = sys.executable,
        parallel: bool = True,
        thorough: bool = False,
        show: bool = True,
        only: Sequence[str] = (),
        environment: Mapping[str, str] | None = None,
    ) -> None:
        """The tests of all folders, or only of some, that the marker expression selects.

        `thorough` has those with a number of rounds or examples do all of them (tests/effort.py).
        """
        RESULTS.parent.mkdir(exist_ok=True)
        RESULTS.unlink(missing_ok=True)
        # The workers of pytest-xdist end on their own account when a test hangs; the suite goes on.
        workers = ["-n", str(WORKERS)] if parallel else []
        command: list[str | Path] = [python, "-m", "pytest", "-q", "-p", "pytest_results"]
        path = [str(PLUGINS), *filter(None, [(environment or {}).get("PYTHONPATH")])]
        environment = {
            **(environment or {}),
            VARIABLE: str(RESULTS),
            "PYTHONPATH": os.pathsep.join(path),
            "HEADWAY_TEST_THOROUGH": "1" if thorough else "",
        }
        begun = time.monotonic()
        try:
            status, output = processes.run(
                [*command, *workers, "-m", selection, *only], show=show, env=environment
            )
        except BaseException:
            self.add(read(RESULTS))
            raise
        results = read(RESULTS)
        if status not in (0, NOTHING_SELECTED) and not results.failures:
            results.failures[title] = f"pytest ended with status {status}"
        if results.failures and not show:
            say(output)
        say(f"{title}: {results.closing} in {time.monotonic() - begun:.0f}s")
        self.add(results)

    def fast(self) -> None:
        self.c("plain")
        self.pytest("not slow and not alone", title=f"Python {name_of(sys.executable)}")

    def slow(self) -> None:
        name = f"Python {name_of(sys.executable)}"
        self.pytest(
            "(slow or rounds or hypothesis) and not alone",
            title=f"{name}, slow tests and more rounds",
            thorough=True,
        )
        self.pytest("alone", title=f"{name}, one at a time", parallel=False)

    def sanitized(self) -> None:
        """Fast tests with the extension itself under AddressSanitizer and
        UndefinedBehaviorSanitizer, of which the first error ends the test's process.
        """
        title = f"Python {name_of(sys.executable)}, extension under asan"
        if not sanitizer_works("asan"):
            say(f"{title}: skipped: this compiler or kernel has no asan here")
            return
        status, output = processes.run([sys.executable, "tests/torture/sanitized.py"])
        if status != 0:
            say(output)
            self.add(Results(failures={title: "does not build"}))
            return
        self.pytest(
            "not slow and not alone",
            title=title,
            only=SANITIZED,
            environment=sanitized.environment(sanitized.FOLDER),
        )

    def torture(self) -> None:
        """Two minutes of tests/torture, each day of other pairs; each pair is a test.

        CI names a part, HEADWAY_TORTURE_PART, so that no change of the date decides its result.
        """
        report = BUILD / "torture-rest.json"
        report.unlink(missing_ok=True)
        part = int(os.environ.get("HEADWAY_TORTURE_PART") or time.time() // DAY_S)
        chosen = ["--seconds", str(TORTURE_S), "--part", str(part), "--report", str(report)]
        begun = time.monotonic()
        status, output = processes.run([sys.executable, "tests/torture/run.py", *chosen])
        results = Results()
        pairs = json.loads(report.read_text()) if report.exists() else []
        for pair in pairs:
            findings = [found["what"] for found in pair["findings"] if counts(pair, found)]
            if findings:
                name = f"torture, {pair['operation']} {pair['torment']}"
                results.failures[name] = findings[0].strip().splitlines()[0]
            else:
                results.passed += 1
        if status != 0 and not any(pair["findings"] for pair in pairs):
            results.failures["torture"] = f"ended with status {status}"
        if status != 0:
            say("\n".join(line for line in output.splitlines() if not line.startswith("ok ")))
        said = output.strip().splitlines()[-1:] or ["it said nothing"]
        title = f"torture, part {part} ({said[0]})"
        say(f"{title}: {results.closing} in {time.monotonic() - begun:.0f}s")
        self.add(results)

    def rest(self) -> None:
        self.c("asan")
        self.c("tsan")
        self.sanitized()
        self.torture()
        self.slow()
        self.pythons()

    # --- other Pythons

    def pythons(self) -> None:
        default = name_of(sys.executable)
        others = [(name, python) for name, python in find_pythons().items() if name != default]
        # The oldest and the newest first: they differ most.
        for name, python in [*others[:1], *others[:0:-1]]:
            if name.endswith("t"):
                say(f"Python {name}: free-threaded, which make free-threaded tests")
            elif is_late():
                say(f"Python {name}: left out, since HEADWAY_NO_STAGE_AFTER has passed")
            else:
                self.other(name, python)

    def other(self, name: str, python: Path) -> None:
        """A wheel built and installed in .venv-NAME, and the fast tests against that wheel."""
        begun = time.monotonic()
        inside = ROOT / f".venv-{name}" / "bin" / "python"
        status, output = processes.run([python, "scripts/bootstrap.py", inside.parent.parent])
        if status == CANNOT:
            say(f"Python {name}: skipped: {output.strip()}")
            return
        # A module that was removed since the last build must not come back in the wheel.
        for stale in BUILD.glob("lib.*"):
            shutil.rmtree(stale)
        wheel = ["--no-build-isolation", "--no-deps", "--force-reinstall", "."]
        steps: tuple[list[str | Path], ...] = (
            [inside, "-m", "pip", "install", "-qq", *wheel],
            [inside, "-c", "import headway._core"],
            [inside, "scripts/install.py", *of_extra("test-fast")],
        )
        for step in steps:
            if status == 0:
                status, output = processes.run(step)
        if status != 0:
            say(output)
            say(f"Python {name}: does not build")
            self.add(Results(failures={f"Python {name}": "does not build"}))
            return
        wanted = [r for r in of_extra("test") if not r.startswith(READ_THE_SOURCES)]
        _, output = processes.run([inside, "scripts/install.py", "--each", *wanted])
        alone = WITHOUT_DEPENDENCIES["test"]
        processes.run([inside, "scripts/install.py", "--no-deps", *alone])
        say(f"Python {name}: wheel built in {time.monotonic() - begun:.0f}s{_without(output)}")
        self.pytest("not slow and not alone", title=f"Python {name}", python=inside, show=False)


def counts(pair: Mapping[str, Any], found: Mapping[str, Any]) -> bool:
    """Whether a finding of the torture is a failure. All are, but blocks of memory that are left
    behind once and in none of three more tries: they are counted for the whole process, whose other
    threads work at their own pace.
    """
    chosen = ["--only", pair["operation"], "--torment", pair["torment"]]
    again = [sys.executable, "tests/torture/run.py", *chosen, "--moment", str(found["moment"])]
    return LEFT_BEHIND not in found["what"] or any(processes.run(again)[0] for _ in range(3))


def is_late() -> bool:
    """Whether CI has no time left for another stage."""
    return time.time() > float(os.environ.get("HEADWAY_NO_STAGE_AFTER") or "inf")


def _without(output: str) -> str:
    lines = [line for line in output.splitlines() if line.startswith(NOT_INSTALLED)]
    lacking = ", ".join(line.removeprefix(NOT_INSTALLED) for line in lines)
    return f", without {lacking}" if lacking else ""


def core_commands(variant: str) -> Iterator[list[str | Path]]:
    """The C tests, and the fuzz targets with their corpus."""
    built, tests = BUILD / "core" / variant, ROOT / "tests" / "core"
    for source in sorted(tests.glob("test_*.c")):
        yield [built / source.stem]
    for corpus in sorted((tests / "corpus").iterdir()):
        yield [built / f"fuzz_{corpus.name}", *sorted(corpus.iterdir())]


def sanitizer_works(variant: str) -> bool:
    """Not every compiler comes with the libraries, and not every kernel lets them start."""
    with tempfile.TemporaryDirectory() as folder:
        source, program = Path(folder) / "empty.c", Path(folder) / "empty"
        source.write_text("int main(void) { return 0; }\n")
        compiler = [*os.environ.get("CC", "cc").split(), SANITIZERS[variant]]
        status, _ = processes.run([*compiler, source, "-o", program])
        command: list[str | Path] = [*launcher(variant), program]
        return status == 0 and processes.run(command, limit=EMPTY_PROGRAM_SECONDS)[0] == 0


def launcher(variant: str) -> list[str]:
    """ThreadSanitizer wants its addresses where newer kernels do not put them unless told to."""
    return ["setarch", "-R"] if variant == "tsan" and shutil.which("setarch") else []


def stage_of(stages: Stages, arguments: list[str]) -> Callable[[], None] | None:
    match arguments:
        case []:
            return stages.fast
        case ["c", ("plain" | "asan" | "tsan") as variant]:
            return lambda: stages.c(variant)
        case ["rest" | "sanitized" | "torture" | "slow" | "pythons" as name]:
            return {
                "rest": stages.rest,
                "sanitized": stages.sanitized,
                "torture": stages.torture,
                "slow": stages.slow,
                "pythons": stages.pythons,
            }[name]
        case _:
            return None


def close(total: Results, *, interrupted: bool) -> int:
    """Prints what failed and the closing line, and returns the exit status."""
    if interrupted:
        say("\ninterrupted")
    for name, why in total.failures.items():
        say(f"failed: {name}" + (f"\n        {why[:200]}" if why else ""))
    BUILD.mkdir(exist_ok=True)
    LAST_LINE.write_text(total.closing + "\n")
    say(total.closing)
    if interrupted:
        return INTERRUPTED
    return 1 if total.failures or not total.passed else 0


def main(arguments: list[str]) -> int:
    stages = Stages()
    stage = stage_of(stages, arguments)
    if stage is None:
        print(__doc__, file=sys.stderr)
        return 2
    processes.adopt_orphans()
    try:
        stage()
    except KeyboardInterrupt:
        return close(stages.total, interrupted=True)
    return close(stages.total, interrupted=False)


def interrupt(*_: object) -> None:
    raise KeyboardInterrupt


if __name__ == "__main__":
    # Being terminated, or losing the terminal, must end what runs below, as Ctrl-C does.
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, interrupt)
    sys.exit(main(sys.argv[1:]))

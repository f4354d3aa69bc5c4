"""How the tests are run: what fails is named whatever happens, and no process is left behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable
from pathlib import Path

import pytest

SCRIPTS = Path(__file__).resolve().parents[2] / "scripts"
DEADLINE_S = 60.0

linux = pytest.mark.skipif(sys.platform != "linux", reason="orphans are found by way of /proc")


def wait_until(true: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + DEADLINE_S
    while not true():
        assert time.monotonic() < deadline, what
        time.sleep(0.01)


def lives(pid: int) -> bool:
    """A process that has ended and is not yet collected does not live."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return False
    return stat.rpartition(")")[2].split()[0] != "Z"


def program(folder: Path, code: str) -> Path:
    path = folder / "program.py"
    path.write_text(f"import sys\nsys.path[:0] = [{str(SCRIPTS)!r}]\n" + textwrap.dedent(code))
    return path


# A process in a session of its own that ignores SIGTERM, as a server that was killed leaves them.
ORPHAN = """
import os, signal, sys, time
if os.fork():
    os._exit(0)
os.setsid()
signal.signal(signal.SIGTERM, signal.SIG_IGN)
open(sys.argv[1], "w").write(str(os.getpid()))
time.sleep(600)
"""


@linux
def test_a_process_in_a_session_of_its_own_is_ended_with_the_command(tmp_path: Path) -> None:
    orphan, written = tmp_path / "orphan.py", tmp_path / "pid"
    orphan.write_text(ORPHAN)
    starter = f"""
        import processes
        processes.adopt_orphans()
        code = "import subprocess, sys, time\\n"
        code += "subprocess.run([sys.executable, {str(orphan)!r}, {str(written)!r}])\\n"
        code += "while not open({str(written)!r}, 'a+').tell(): time.sleep(0.01)"
        print(processes.run([sys.executable, "-c", code])[0])
    """
    done = subprocess.run(
        [sys.executable, program(tmp_path, starter)],
        capture_output=True,
        text=True,
        timeout=DEADLINE_S,
    )
    assert done.stdout.strip() == "0", done.stderr
    assert not lives(int(written.read_text()))


@linux
def test_a_program_that_hangs_is_ended_and_shown(tmp_path: Path) -> None:
    starter = """
        import processes
        processes.adopt_orphans()
        code = "import time; print('begun', flush=True); time.sleep(600)"
        status, output = processes.run([sys.executable, "-c", code], limit=2)
        print(status)
        print(output)
        print(processes.descendants())
    """
    done = subprocess.run(
        [sys.executable, program(tmp_path, starter)],
        capture_output=True,
        text=True,
        timeout=DEADLINE_S,
    )
    lines = done.stdout.splitlines()
    assert lines[0] == "124", done.stderr
    assert "begun" in lines
    assert "ended, since it still ran after 2 s:" in lines
    assert any("time.sleep(600)" in line for line in lines)
    assert lines[-1] == "[]"


@linux
def test_an_interrupted_run_names_what_failed_and_leaves_no_process(tmp_path: Path) -> None:
    orphan, written = tmp_path / "orphan.py", tmp_path / "pid"
    orphan.write_text(ORPHAN)
    suite = tmp_path / "test_suite.py"
    suite.write_text(
        textwrap.dedent(
            f"""
            import subprocess, sys, time

            def test_that_fails():
                assert 1 == 2, "one is not two"

            def test_that_starts_a_server_and_does_not_end():
                subprocess.run([sys.executable, {str(orphan)!r}, {str(written)!r}])
                time.sleep(600)
            """
        )
    )
    runner = f"""
        import sys
        from pathlib import Path
        import processes, run_tests
        run_tests.BUILD = Path({str(tmp_path)!r})
        run_tests.RESULTS = run_tests.BUILD / "results.jsonl"
        run_tests.LAST_LINE = run_tests.BUILD / "last"
        processes.ROOT = run_tests.BUILD
        run_tests.Stages.fast = lambda self: self.pytest("", title="suite", parallel=False)
        import signal
        signal.signal(signal.SIGTERM, run_tests.interrupt)
        sys.exit(run_tests.main([]))
    """
    process = subprocess.Popen(
        [sys.executable, program(tmp_path, runner)], stdout=subprocess.PIPE, text=True
    )
    try:
        wait_until(lambda: written.exists() and bool(written.read_text()), "the test has begun")
        process.send_signal(signal.SIGTERM)
        output, _ = process.communicate(timeout=DEADLINE_S)
    finally:
        process.kill()
    assert process.returncode == 130
    assert "test_suite.py::test_that_fails" in output
    assert "one is not two" in output
    assert output.splitlines()[-1] == "0 passed, 1 failed"
    assert not lives(int(written.read_text()))


def test_results_add_up_and_a_line_cut_short_is_no_result(tmp_path: Path) -> None:
    from pytest_results import Results, read

    path = tmp_path / "results.jsonl"
    path.write_text(
        '{"name": "a", "outcome": "passed", "why": ""}\n'
        '{"name": "b", "outcome": "failed", "why": "assert 1 == 2"}\n'
        '{"name": "c", "outcome": "skipped", "why": ""}\n'
        '{"name": "d", "outco'
    )
    results = read(path)
    assert results == Results(1, 1, {"b": "assert 1 == 2"})
    assert (results + results).closing == "2 passed, 1 failed, 2 skipped"
    assert read(tmp_path / "missing") == Results()


def test_the_plugin_records_every_kind_of_outcome(tmp_path: Path) -> None:
    from pytest_results import VARIABLE, read

    suite = tmp_path / "test_suite.py"
    suite.write_text(
        textwrap.dedent(
            """
            import pytest

            @pytest.fixture
            def broken():
                raise RuntimeError("the fixture is broken")

            @pytest.fixture
            def broken_afterwards():
                yield
                raise RuntimeError("the end is broken")

            def test_passes(): pass
            def test_fails(): raise ValueError("wrong")
            def test_skips(): pytest.skip("not here")
            def test_sets_up(broken): pass
            def test_tears_down(broken_afterwards): pass
            @pytest.mark.xfail(strict=True)
            def test_is_known_to_fail(): assert False
            @pytest.mark.xfail(strict=True)
            def test_passes_unexpectedly(): pass
            """
        )
    )
    results = tmp_path / "results.jsonl"
    environment = {
        **os.environ,
        VARIABLE: str(results),
        "PYTHONPATH": str(SCRIPTS / "plugins"),
    }
    subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "pytest_results", "-p", "no:cacheprovider"],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        timeout=DEADLINE_S,
    )
    found = read(results)
    names = {name.partition("::")[2]: why for name, why in found.failures.items()}
    assert set(names) == {
        "test_fails",
        "test_sets_up",
        "test_tears_down",
        "test_passes_unexpectedly",
    }
    assert "wrong" in names["test_fails"]
    assert "the fixture is broken" in names["test_sets_up"]
    assert found.passed == 3  # one of them failed afterwards, one is known to fail
    assert found.skipped == 1


@pytest.mark.parametrize(
    ("what", "statuses", "fails"),
    [
        ("it took 2 instead of 1", [0, 0, 0], True),
        ("it hangs", [0, 0, 0], True),
        ("each time 8.1 blocks of Python and 0.0 of C are left behind", [0, 0, 0], False),
        ("each time 8.1 blocks of Python and 0.0 of C are left behind", [0, 0, 1], True),
    ],
)
def test_of_what_the_torture_finds_only_memory_is_looked_at_again(
    what: str, statuses: list[int], fails: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    import run_tests

    left = iter(statuses)
    monkeypatch.setattr(run_tests.processes, "run", lambda command: (next(left), ""))
    pair = {"operation": "redis.limit", "torment": "calls"}
    assert run_tests.counts(pair, {"what": what, "moment": 3}) is fails

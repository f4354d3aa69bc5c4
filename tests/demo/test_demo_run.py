"""The demo as a user runs it: a process of its own, real requests, files on disk."""

from __future__ import annotations

import contextlib
import json
import os
import re
import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

for package in ("uvicorn", "starlette", "matplotlib", "rich"):
    pytest.importorskip(package)

DEADLINE = 120.0  # seconds for a run that takes about 4, on a busy machine
LINE = re.compile(
    r'\S+ - \S+ \[[^\]]+\] "GET /\w+ HTTP/1\.1" (200|429) \d+ "-" "headway-demo \(\w+\)"'
)


def demo(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    """Run the demo to its end."""
    return subprocess.run(
        [sys.executable, "-m", "headway.demo", *arguments],
        cwd=cwd,
        capture_output=True,
        text=True,
        timeout=DEADLINE,
        check=False,
    )


def read_until(stream: int, wanted: bytes) -> bytes:
    """What comes out of this descriptor until `wanted` has come, or the deadline has passed."""
    seen, deadline = b"", time.monotonic() + DEADLINE
    while wanted not in seen and (left := deadline - time.monotonic()) > 0:
        if select.select([stream], [], [], left)[0]:
            try:
                chunk = os.read(stream, 65536)
            except OSError:  # Linux: the other end of the pseudo-terminal is closed
                break
            if not chunk:
                break
            seen += chunk
    return seen


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """A run of two seconds: its folder and its JSON report."""
    folder = tmp_path_factory.mktemp("demo")
    done = demo("--seconds", "2", "--json", cwd=folder)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder, json.loads(done.stdout)


def test_every_key_is_admitted_exactly(run: tuple[Path, dict[str, Any]]) -> None:
    report = run[1]
    assert report["ok"]
    assert len(report["keys"]) == 9
    for row in report["keys"]:
        low, high = row["exact"]
        assert low <= row["admitted"] <= high, row
        assert row["requests"] == row["admitted"] + row["denied"]


@pytest.mark.slow
@pytest.mark.alone
def test_who_is_over_the_limit_is_denied_and_who_is_below_is_not(
    run: tuple[Path, dict[str, Any]],
) -> None:
    denied = {row["key"]: row["denied"] for row in run[1]["keys"]}
    for path in ("search", "feed", "login"):
        assert denied[f"{path}:mallory"] > 0
        assert denied[f"{path}:alice"] == 0


@pytest.mark.slow
@pytest.mark.alone
def test_requests_that_may_wait_do_wait(run: tuple[Path, dict[str, Any]]) -> None:
    row = next(row for row in run[1]["keys"] if row["key"] == "export:everyone")
    assert row["longest_wait"] > 0.1
    assert row["admitted"] > 3


def test_clients_see_the_answers_that_were_decided(run: tuple[Path, dict[str, Any]]) -> None:
    report = run[1]
    assert report["errors"] == []
    assert report["statuses"] == {"200": report["admitted"], "429": report["denied"]}


def test_the_access_log_holds_every_request_in_combined_format(
    run: tuple[Path, dict[str, Any]],
) -> None:
    folder, report = run
    lines = (folder / report["log"]).read_text().splitlines()
    assert len(lines) == report["log_lines"] == report["requests"]
    assert all(LINE.fullmatch(line) for line in lines)
    if sys.platform == "linux":
        assert len({line.split()[0] for line in lines}) == 7


def test_the_picture_is_a_png(run: tuple[Path, dict[str, Any]]) -> None:
    folder, report = run
    picture = (folder / report["plot"]).read_bytes()
    assert picture.startswith(b"\x89PNG\r\n")
    assert len(picture) > 20_000


def test_the_next_command_is_a_replay_of_the_log_and_works_when_pasted(
    run: tuple[Path, dict[str, Any]],
) -> None:
    folder, report = run
    assert report["next"].endswith(' replay demo-access.log --quota "10/s burst 20"')
    done = subprocess.run(report["next"], shell=True, cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "10/s burst 20" in done.stdout


@pytest.mark.slow
def test_without_a_terminal_the_table_is_plain_text(tmp_path: Path) -> None:
    done = demo("--seconds", "1", "--log", "logs/a.log", "--plot", "plots/a.svg", cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "\x1b" not in done.stdout
    assert re.search(r"^key +quota +admitted +exact +denied +wait$", done.stdout, re.MULTILINE)
    assert "admitted == exact for each of 9 keys" in done.stdout
    assert 'headway replay logs/a.log --quota "10/s burst 20"' in done.stdout
    assert "<svg" in (tmp_path / "plots/a.svg").read_text()


@pytest.mark.slow
def test_on_a_terminal_the_table_is_live(tmp_path: Path) -> None:
    pty = pytest.importorskip("pty")
    ours, theirs = pty.openpty()
    environment = {**os.environ, "TERM": "xterm", "COLUMNS": "120", "LINES": "40"}
    with subprocess.Popen(
        [sys.executable, "-m", "headway.demo", "--seconds", "1"],
        cwd=tmp_path,
        stdout=theirs,
        stdin=subprocess.DEVNULL,
        env=environment,
    ) as process:
        os.close(theirs)
        seen = read_until(ours, b"headway replay")
        with contextlib.suppress(
            OSError
        ):  # a terminal that is gone before it has ended is an error
            while os.read(ours, 65536):
                pass
        os.close(ours)
        assert process.wait(DEADLINE) == 0
    text = seen.decode()
    assert text.count("search:mallory") > 3
    assert "\x1b[" in text


@pytest.mark.parametrize("arguments", [["--json"], ["--plain"]])
def test_ctrl_c_stops_cleanly(
    tmp_path: Path, arguments: Sequence[str], eventually: Callable[..., None]
) -> None:
    with subprocess.Popen(
        [sys.executable, "-m", "headway.demo", "--seconds", "60", *arguments],
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as process:
        log = tmp_path / "demo-access.log"
        eventually(lambda: log.exists() and log.stat().st_size, "a request in the access log")
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=DEADLINE)
    assert process.returncode == 130
    assert errors == b"headway demo: interrupted\n"


def test_a_port_in_use_is_refused_with_advice(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        done = demo("--port", str(port), cwd=tmp_path)
    assert done.returncode == 2
    assert done.stderr == (
        f"headway demo: port {port} is in use; choose another, or --port 0 for any free one\n"
    )
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--seconds", "soon"], "'soon', must be 0.1 to 3600 seconds"),
        (["--seconds", "0"], "'0', must be 0.1 to 3600 seconds"),
        (["--port", "70000"], "'70000', must be 0 to 65535"),
        (["--plot", "picture.bmp"], "picture.bmp: must end in .png, .svg, .pdf"),
        (["--log", "."], "directory"),
    ],
)
def test_a_bad_argument_is_named(tmp_path: Path, arguments: Sequence[str], message: str) -> None:
    done = demo(*arguments, cwd=tmp_path)
    assert done.returncode == 2
    assert message in done.stderr
    assert "Traceback" not in done.stderr


def test_a_missing_package_is_named_with_the_extra_to_install(tmp_path: Path) -> None:
    code = (
        "import sys; sys.modules['uvicorn'] = None\n"
        "from headway.demo import main; sys.exit(main(['--seconds', '1']))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=DEADLINE,
        check=False,
    )
    assert done.returncode == 2
    assert done.stderr == 'headway demo: uvicorn missing; run: pip install "headway[demo]"\n'

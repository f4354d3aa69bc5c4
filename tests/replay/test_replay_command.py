"""The command: exit codes, messages that name the argument, pipes, Ctrl-C, tables and pictures."""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from made_logs import Outcome, log_line

from headway.cli import main
from headway.replay.blocks import LogFile
from headway.replay.progress import Progress
from headway.replay.report import Report as ReportData
from headway.replay.requests import Selection, Source
from headway.replay.show import show

Write = Callable[..., str]
Replay = Callable[..., Outcome]

COMMAND = [sys.executable, "-m", "headway", "replay"]


@pytest.fixture
def log(write: Write) -> str:
    return write([log_line(i // 10, f"192.0.2.{i % 7}", agent="curl") for i in range(2000)])


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["--quota", "10/fortnight"], "--quota"),
        (["--quota", "10/s", "--quota", ""], "--quota"),
        (["--quota", "0/s"], "--quota"),
        (["--by", "colour"], "--by: 'colour' in 'colour' is no field"),
        (["--by", "ip+"], "--by"),
        (["--by", "ip ip"], "--by: 'ip ip' names a field twice"),
        (["--using", "magic"], "--using: 'magic' should be one of fixed_window"),
        (["--cost", "0"], "--cost"),
        (["--cost", "many"], "--cost: 'many' should be 'bytes' or a number"),
        (["--status", "20"], "--status: '20' should be a status (404) or a class (4xx)"),
        (["--top", "-1"], "--top"),
        (["--plot", "nowhere/at/all.png"], "--plot"),
        (["--plot", "picture.txt"], "--plot: 'picture.txt' should end in one of"),
        (["-", "-"], "FILE: - (standard input) can be read once only"),
    ],
)
def test_a_wrong_argument_is_named_and_ends_with_2(
    arguments: list[str], named: str, log: str, replay: Replay
) -> None:
    if named.startswith("--plot"):
        pytest.importorskip("matplotlib")
    outcome = replay(log, *arguments)
    assert (outcome.code, outcome.out) == (2, "")
    assert outcome.err.startswith("headway: argument " + named)
    assert outcome.err.count("\n") == 1


def test_a_bad_quota_is_explained_in_the_words_of_the_library(log: str, replay: Replay) -> None:
    from headway import Throttled
    from headway.exceptions import DataError

    with pytest.raises(DataError) as raised:
        Throttled(key="k", quota="10/fortnight")
    assert str(raised.value) in replay(log, "--quota", "10/fortnight").err


@pytest.mark.parametrize("arguments", [[], ["replay"], ["replay", "--nonsense", "x"], ["fly"]])
def test_arguments_that_argparse_refuses_end_with_2(
    arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert ended.value.code == 2
    assert "usage: headway" in capsys.readouterr().err


def test_help_and_version_are_printed(capsys: pytest.CaptureFixture[str]) -> None:
    for arguments, expected in (
        (["--help"], "replay"),
        (["replay", "--help"], "exit codes"),
        (["--version"], "headway "),
    ):
        with pytest.raises(SystemExit) as ended:
            main(arguments)
        assert ended.value.code == 0
        assert expected in capsys.readouterr().out


def shape(value: Any) -> Any:
    """The keys and types of a JSON document, the first element standing for a list's others."""
    if isinstance(value, dict):
        return {key: shape(item) for key, item in value.items()}
    if isinstance(value, list):
        return [shape(value[0])] if value else []
    return type(value).__name__


LOG_SHAPE = {
    "requests": "int",
    "clients": "int",
    "first": "str",
    "last": "str",
    "peak_per_second": "int",
    "peak_per_minute": "int",
}
FILE_SHAPE = {
    "name": "str",
    "lines": "int",
    "malformed": "int",
    "first_malformed_line": "NoneType",
    "first_malformed": "NoneType",
    "early": "int",
    "late": "int",
    "late_by_seconds": "int",
    "without_user": "int",
    "filtered_out": "int",
    "keys_cut": "int",
    "damage": "NoneType",
}


def test_the_json_report_keeps_its_shape(log: str, replay: Replay) -> None:
    common = {
        "schema": "int",
        "by": "str",
        "using": "str",
        "cost": "int",
        "spread": "bool",
        "interrupted": "bool",
        "files": [FILE_SHAPE],
        "log": LOG_SHAPE,
    }
    tried = replay(log, "--quota", "1/s", "--json").report
    assert tried["schema"] == 1
    assert shape(tried) == {
        **common,
        "quotas": [
            {
                "quota": "str",
                "using": "str",
                "requests": "int",
                "denied": "int",
                "denied_percent": "float",
                "clients_limited": "int",
                "clients_limited_percent": "float",
                "first_denied": "str",
                "last_denied": "str",
                "worst_minute": "str",
                "worst_minute_denied": "int",
                "evictions": "int",
                "top": [
                    {
                        "client": "str",
                        "requests": "int",
                        "denied": "int",
                        "denied_percent": "float",
                        "longest_run": "int",
                        "peak_per_second": "int",
                        "peak_per_minute": "int",
                        "first_denied": "str",
                        "last_denied": "str",
                        "worst_minute": "str",
                        "worst_minute_denied": "int",
                    }
                ],
            }
        ],
        "suggestions": [],
        "denying_nobody": "NoneType",
    }
    assert shape(replay(log, "--json").report) == {
        **common,
        "quotas": [],
        "suggestions": [
            {
                "quota": "str",
                "percentile": "float",
                "clients_denied": "int",
                "clients_denied_percent": "float",
                "requests_denied": "int",
                "requests_denied_percent": "float",
            }
        ],
        "denying_nobody": "str",
    }


def test_top_bounds_the_clients_that_are_listed(log: str, replay: Replay) -> None:
    assert (
        len(replay(log, "--quota", "1/m", "--json", "--top", "3").report["quotas"][0]["top"]) == 3
    )
    assert "3 of 7 clients" in replay(log, "--quota", "1/m", "--top", "3").out
    assert "Most limited" not in replay(log, "--quota", "1/m", "--top", "0").out


def test_several_quotas_are_compared_in_one_table(log: str, replay: Replay) -> None:
    out = replay(log, "--quota", "1/s", "--quota", "5/m", "--top", "1").out
    assert "Quotas side by side" in out
    assert out.index("Most limited by 1/s") < out.index("Most limited by 5/m")


def test_a_plot_is_a_picture_and_changes_no_word(log: str, replay: Replay, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    for arguments in (["--quota", "1/s", "--quota", "5/m"], [], ["--quota", "9999/s"]):
        picture = tmp_path / "replay.png"
        with_plot = replay(log, *arguments, "--plot", str(picture))
        assert with_plot.code == 0
        assert with_plot.out == replay(log, *arguments).out
        assert picture.read_bytes().startswith(b"\x89PNG")
        picture.unlink()


def test_a_plot_without_matplotlib_names_the_extra(
    log: str, replay: Replay, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("matplotlib", "matplotlib.figure"):
        monkeypatch.setitem(sys.modules, name, None)
    outcome = replay(log, "--quota", "1/s", "--plot", "x.png")
    assert outcome.code == 2
    assert "pip install 'headway[replay]'" in outcome.err


class Terminal(io.StringIO):
    """Text that passes for a terminal."""

    def isatty(self) -> bool:
        return True


def some_report(log: str, monkeypatch: pytest.MonkeyPatch) -> ReportData:
    """The report object behind a run."""
    seen: list[ReportData] = []
    monkeypatch.setattr("headway.replay.command.show", lambda report, _: seen.append(report))
    assert main(["replay", log, "--quota", "1/s", "--by", "ua"]) == 0
    return seen[0]


def test_a_terminal_gets_a_drawn_table_and_a_pipe_gets_plain_text(
    log: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("rich")
    data = some_report(log, monkeypatch)
    data.quotas[0].top[0].client = "[red]x[/red] [oops"
    drawn, plain = Terminal(), io.StringIO()
    show(data, drawn)
    show(data, plain)
    assert "━" in drawn.getvalue()
    assert "━" not in plain.getvalue()
    for text in (drawn.getvalue(), plain.getvalue()):
        assert "[red]x" in text.replace("\n", "")


def test_a_terminal_without_rich_gets_plain_text(log: str, monkeypatch: pytest.MonkeyPatch) -> None:
    data = some_report(log, monkeypatch)
    for name in [name for name in sys.modules if name.split(".")[0] == "rich"] + ["rich"]:
        monkeypatch.setitem(sys.modules, name, None)
    monkeypatch.setitem(sys.modules, "rich.console", None)
    terminal, plain = Terminal(), io.StringIO()
    show(data, terminal)
    show(data, plain)
    assert terminal.getvalue() == plain.getvalue()


@pytest.mark.parametrize("with_rich", [True, False])
def test_the_progress_bar_follows_the_bytes_and_cleans_up(
    with_rich: bool, log: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if with_rich:
        pytest.importorskip("rich")
    else:
        for name in ("rich", "rich.console", "rich.progress"):
            monkeypatch.setitem(sys.modules, name, None)
    from headway.replay.access_log import LinePattern, Stamps

    terminal = Terminal()
    monkeypatch.setenv("TERM", "xterm")  # rich draws nothing on a dumb one
    monkeypatch.setattr(sys, "stderr", terminal)
    selection = Selection()
    source = Source(LogFile(log), selection, LinePattern(selection.fields()), Stamps())
    with Progress([source]) as progress:
        progress.tick()
        assert sum(len(batch.keys) for batch in source.batches()) == 2000
    text = terminal.getvalue()
    assert "replaying" in text
    assert "2,000 lines" in text


def test_no_progress_is_shown_where_nobody_looks(log: str, replay: Replay) -> None:
    assert replay(log, "--quota", "1/s").err == ""
    assert replay(log, "--quota", "1/s", "--no-progress").err == ""


def test_the_command_reads_a_pipe_and_exits_with_its_code(log: str) -> None:
    data = Path(log).read_bytes()
    done = subprocess.run(
        [*COMMAND, "-", "--quota", "1/s", "--json"],
        input=data,
        capture_output=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, b"")
    assert json.loads(done.stdout)["log"]["requests"] == 2000


def test_a_reader_that_goes_away_ends_the_command_quietly(log: str) -> None:
    read_end, write_end = os.pipe()
    os.close(read_end)
    try:
        done = subprocess.run(
            [*COMMAND, log, "--quota", "1/s"],
            stdout=write_end,
            stderr=subprocess.PIPE,
            timeout=60,
            check=False,
        )
    finally:
        os.close(write_end)
    assert (done.returncode, done.stderr) == (141, b"")


def test_ctrl_c_prints_what_was_seen_so_far_and_ends_with_130(log: str) -> None:
    data = Path(log).read_bytes()
    process = subprocess.Popen(
        [*COMMAND, "-", "--quota", "1/s", "--json"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        # A pipe holds 64 KiB on Linux and less elsewhere: when more than that has been written, the
        # command has read the beginning, and now waits for more.
        process.stdin.write(data[: len(data) // 2])
        process.stdin.write(data[len(data) // 2 :])
        process.stdin.flush()
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=60)
    finally:
        process.kill()
        process.wait()
    assert err == b""
    assert process.returncode == 130
    result = json.loads(out)
    assert result["interrupted"] is True
    assert 0 < result["log"]["requests"] <= 2000

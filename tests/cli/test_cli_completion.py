"""Completion, in the shells themselves: each is asked what it would complete.

fish can be asked directly. bash and zsh are run on a pseudo-terminal, where a tab is typed and the
line is looked at; bash's function is also called as readline calls it, which is quicker.
"""

from __future__ import annotations

import os
import re
import select
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

import process_guard
from headway.cli import main
from headway.commands import COMMANDS, tree
from headway.commands.completion.scripts import SCRIPTS
from headway.commands.completion.words import root_of, walk

DEADLINE = 30.0
ROOT = root_of("headway", tree(), {name: command.help for name, command in COMMANDS.items()})


@pytest.fixture
def script(tmp_path: Path) -> Callable[[str], Path]:
    """The file of the script for a shell, which must be installed."""

    def make(shell: str) -> Path:
        if shutil.which(shell) is None:
            pytest.skip(f"{shell} is not installed")
        path = tmp_path / f"headway.{shell}"
        path.write_text(SCRIPTS[shell](ROOT))
        return path

    return make


def completed_by_bash(script: Path, line: str) -> list[str]:
    """What bash's function offers for the end of a line; words are split as readline does."""
    words = re.findall(r"[^\s=:]+|[=:]+", line) + ([""] if line.endswith(" ") else [])
    code = (
        f"source {shlex.quote(str(script))}; COMP_WORDS=({' '.join(map(shlex.quote, words))}); "
        f"COMP_CWORD={len(words) - 1}; compopt() {{ echo FILES; }}; _headway; "
        'printf "%s\\n" "${COMPREPLY[@]}"'
    )
    done = subprocess.run(
        ["bash", "--norc", "-c", code],
        capture_output=True,
        text=True,
        timeout=DEADLINE,
        check=True,
    )
    assert done.stderr == ""
    return done.stdout.split()


def completed_by_fish(script: Path, line: str) -> list[str]:
    """What fish offers."""
    code = f"source {shlex.quote(str(script))}; complete -C {shlex.quote(line)}"
    done = subprocess.run(
        ["fish", "--no-config", "-c", code],
        capture_output=True,
        text=True,
        timeout=DEADLINE,
        check=True,
        cwd=script.parent,
    )
    assert done.stderr == ""
    return [found.partition("\t")[0] for found in done.stdout.splitlines()]


CASES = [
    ("headway re", {"replay", "reset"}),
    ("headway peek --qu", {"--quota"}),
    ("headway peek --using g", {"gcra"}),
    ("headway replay --using slid", {"sliding_window"}),
    ("headway limits pro", {"probe"}),
    ("headway limits --storage x status --end", {"--endpoint"}),
    ("headway completion ", {"bash", "zsh", "fish"}),
    ("headway --ver", {"--version"}),
]


@pytest.mark.parametrize(("line", "expected"), CASES)
def test_bash_completes_commands_options_and_values(
    line: str, expected: set[str], script: Callable[[str], Path]
) -> None:
    assert set(completed_by_bash(script("bash"), line)) == expected


@pytest.mark.parametrize(("line", "expected"), CASES)
def test_fish_completes_commands_options_and_values(
    line: str, expected: set[str], script: Callable[[str], Path]
) -> None:
    assert set(completed_by_fish(script("fish"), line)) == expected


def test_a_value_that_is_named_like_a_command_is_none(script: Callable[[str], Path]) -> None:
    line = "headway limits --storage list s"
    assert {"status", "simulate"} == set(completed_by_bash(script("bash"), line))
    assert {"status", "simulate"} == set(completed_by_fish(script("fish"), line))


def test_an_option_and_its_value_may_be_one_word(script: Callable[[str], Path]) -> None:
    assert completed_by_bash(script("bash"), "headway peek --using=g") == ["gcra"]
    assert completed_by_bash(script("bash"), "headway peek --using=gcra --qu") == ["--quota"]
    assert completed_by_fish(script("fish"), "headway peek --using=g") == ["--using=gcra"]


def test_files_are_completed_where_a_file_is_meant(script: Callable[[str], Path]) -> None:
    assert completed_by_bash(script("bash"), "headway replay ") == ["FILES"]
    assert completed_by_bash(script("bash"), "headway peek --token-file ") == ["FILES"]
    assert completed_by_bash(script("bash"), "headway peek --quota ") == []
    path = script("fish")
    assert completed_by_fish(path, "headway replay headway.f") == ["headway.fish"]


@pytest.mark.parametrize("shell", ["bash", "fish"])
def test_all_commands_and_options_are_known(shell: str, script: Callable[[str], Path]) -> None:
    ask = {"bash": completed_by_bash, "fish": completed_by_fish}[shell]
    path = script(shell)
    assert set(COMMANDS) <= set(ask(path, "headway "))
    for node in list(walk(ROOT))[1::4]:  # each takes a while
        names = {name for option in node.options for name in option.names if name[:2] == "--"}
        assert names <= set(ask(path, " ".join(node.path) + " --")), node.path


@pytest.mark.parametrize(
    ("shell", "start"),
    [
        (["bash", "--norc", "-i"], "source headway.bash"),
        (["zsh", "-f", "-i"], "autoload -U compinit; compinit -u -D; source ./headway.zsh"),
    ],
    ids=["bash", "zsh"],
)
@pytest.mark.parametrize(
    ("typed", "seen"),
    [
        ("headway rese\t", r"headway reset "),
        ("headway re\t\t", r"replay[^#]*reset"),
        ("headway peek --quo\t", r"headway peek --quota"),
        ("headway peek alice --quo\t", r"headway peek alice --quota"),
        ("headway replay headway.\t", r"headway replay headway.(ba|z)sh "),
        ("headway peek --using fixed\t", r"--using fixed_window"),
        ("headway limits simu\t", r"headway limits simulate "),
    ],
)
def test_a_tab_completes_the_line_on_a_terminal(
    shell: list[str], start: str, typed: str, seen: str, script: Callable[[str], Path]
) -> None:
    pty = pytest.importorskip("pty")
    folder = script(shell[0]).parent
    ours, theirs = pty.openpty()
    environment = {
        "PATH": os.environ["PATH"],
        "HOME": str(folder),
        "TERM": "dumb",
        "PS1": "READY# ",
        "COLUMNS": "150",
    }
    with process_guard.start(
        shell,
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        cwd=folder,
        env=environment,
    ) as process:
        os.close(theirs)
        try:
            os.write(ours, f"{start}; PS1='GO''# '\n".encode())
            read_until(ours, r"GO# ")
            os.write(ours, typed.encode())
            assert read_until(ours, seen) is not None
        finally:
            process_guard.end(process)
            os.close(ours)


def read_until(stream: int, wanted: str) -> str | None:
    """What comes out until it has the pattern; fails at the deadline."""
    text, end = "", time.monotonic() + DEADLINE
    while (left := end - time.monotonic()) > 0:
        if select.select([stream], [], [], left)[0]:
            text += os.read(stream, 65536).decode("utf-8", "replace")
            if re.search(wanted, text, re.DOTALL):
                return text
    pytest.fail(f"{wanted!r} was not seen in {text!r}")


@pytest.mark.parametrize("shell", sorted(SCRIPTS))
def test_the_command_prints_the_script(shell: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["completion", shell]) == 0
    assert capsys.readouterr().out.rstrip("\n") == SCRIPTS[shell](ROOT).rstrip("\n")


@pytest.mark.parametrize("shell", sorted(SCRIPTS))
def test_a_shell_finds_no_mistake_in_its_script(shell: str, script: Callable[[str], Path]) -> None:
    path = script(shell)
    done = subprocess.run([shell, "-n", path], capture_output=True, timeout=DEADLINE, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")


def test_another_shell_is_refused() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "headway", "completion", "powershell"],
        capture_output=True,
        text=True,
        timeout=DEADLINE,
        check=False,
    )
    assert done.returncode == 2
    assert "'powershell'" in done.stderr
    assert "bash" in done.stderr

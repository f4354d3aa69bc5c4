"""docs/command-line.md and the help of each command keep their word."""

from __future__ import annotations

import os
import re
import shlex
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from cli_outcome import Outcome

import process_guard
from headway.commands import COMMANDS, tree
from headway.commands.parser import Parser

PAGE = (Path(__file__).parents[2] / "docs" / "command-line.md").read_text(encoding="utf-8")
PARSERS = tree()
Run = Callable[..., Outcome]


def examples(text: str) -> list[str]:
    """The commands that a text shows, each from `headway` to the end of that command."""
    found = re.findall(
        r"^(?:\$ |  )?((?:[A-Z_]+=\S+ )*headway [a-z]+(?: .*)?)$", text, re.MULTILINE
    )
    return [re.split(r"\s{3,}| #|[|>&]", line)[0].strip() for line in found]


SHOWN = [
    *((example, "page") for example in examples(PAGE)),
    *(
        (example, name)
        for name, parser in PARSERS.items()
        if parser is not None
        for example in examples(parser.epilog or "")
    ),
]


def test_the_page_and_the_help_of_each_command_show_examples() -> None:
    places = {place for _, place in SHOWN}
    assert {name for name, parser in PARSERS.items() if parser is not None} | {"page"} <= places


@pytest.mark.parametrize(("example", "place"), SHOWN)
def test_the_arguments_of_an_example_are_understood(example: str, place: str) -> None:
    words = [word for word in shlex.split(example) if not re.match(r"[A-Z_]+=", word)]
    parser = PARSERS[words[1]]
    if parser is None:
        pytest.skip(f"{words[1]} is not installed")
    parser.parse_args(words[2:])


def test_the_page_lists_all_commands_with_their_help() -> None:
    for name, command in COMMANDS.items():
        assert f"| `headway {name}` | {command.help}" in PAGE


def codes_of_the_page() -> set[int]:
    table = PAGE[PAGE.index("| exit code |") :].split("\n\n")[0]
    return {int(code) for code in re.findall(r"^\| (\d+) \|", table, re.MULTILINE)}


def test_the_exit_codes_of_the_page_are_those_that_happen(
    here: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    down = "redis://127.0.0.1:1/0"
    seen = {
        here("bench", "--store", "memory://", "--seconds", "0.05").code,
        here("doctor", "--store", down).code,
        here("peek", "k").code,
        here("peek", "k", "--quota", "1/s", "--store", down).code,
        broken_pipe(),
        interrupted(),
    }
    monkeypatch.setattr(COMMANDS["top"].__class__, "module", property(lambda _: "headway.no.such"))
    seen.add(here("top").code)
    assert seen == codes_of_the_page()


def broken_pipe() -> int:
    read_end, write_end = os.pipe()
    os.close(read_end)
    try:
        command = [sys.executable, "-m", "headway", "doctor"]
        return subprocess.run(command, stdout=write_end, timeout=60, check=False).returncode
    finally:
        os.close(write_end)


def interrupted() -> int:
    command = [sys.executable, "-m", "headway", "replay", "-"]
    with process_guard.start(
        ["/bin/sh", "-c", f"{shlex.join(command)}; echo $?"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as shell:
        assert shell.stdin is not None
        assert shell.stdout is not None
        line = '10.0.0.1 - - [01/Mar/2024:01:00:00 +0100] "GET / HTTP/1.1" 200 1\n'
        shell.stdin.write(line * 3000)  # more than a pipe holds: the command reads by now
        shell.stdin.flush()
        for child in children_of(shell.pid):
            os.kill(child, signal.SIGINT)
        out, _ = shell.communicate(timeout=60)
    return int(out.split()[-1])


def children_of(pid: int) -> list[int]:
    path = Path(f"/proc/{pid}/task/{pid}/children")
    if not path.exists():
        pytest.skip("there is no /proc that tells")
    return [int(child) for child in path.read_text().split()]


def test_a_parser_is_of_the_house(here: Run) -> None:
    assert all(isinstance(parser, Parser) for parser in PARSERS.values() if parser is not None)

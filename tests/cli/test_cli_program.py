"""The program as a whole: its table, its help, its exit codes, and what goes wrong for all."""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType

import pytest
from cli_outcome import Outcome

from headway import commands
from headway.commands import COMMANDS
from headway.commands.parser import Missing

Run = Callable[..., Outcome]


def is_there(name: str) -> bool:
    """Whether the module of a subcommand, and what it imports, is installed."""
    try:
        return find_spec(COMMANDS[name].module) is not None and bool(commands.load(name))
    except (ModuleNotFoundError, Missing):
        return False


THERE = [name for name in COMMANDS if is_there(name)]


def test_the_help_lists_all_commands_with_what_they_do(here: Run) -> None:
    outcome = here("--help")
    assert (outcome.code, outcome.err) == (0, "")
    for name, command in COMMANDS.items():
        assert f"  {name:<12}{command.help}\n" in outcome.out


def test_the_help_fits_a_terminal_of_100_columns(here: Run) -> None:
    assert max(map(len, here("--help").out.splitlines())) <= 100


def test_the_help_imports_no_room_but_the_table(run_python: Callable[..., str]) -> None:
    rooms = run_python(
        """
        import sys
        from headway.cli import main
        try:
            main(["--help"])
        except SystemExit:
            pass
        print("ROOMS", *sorted(m for m in sys.modules if m.startswith("headway")))
        for heavy in ("asyncio", "ssl", "sqlite3", "http", "rich", "uvicorn", "logging"):
            assert heavy not in sys.modules, heavy
        """
    ).rpartition("ROOMS")[2]
    assert rooms.split() == [
        "headway",
        "headway.cli",
        "headway.commands",
        "headway.commands.output",
        "headway.commands.parser",
    ]


@pytest.mark.parametrize("name", THERE)
def test_the_table_has_the_help_line_of_the_module(name: str) -> None:
    assert COMMANDS[name].help == commands.load(name).HELP


@pytest.mark.parametrize("name", THERE)
def test_the_help_of_a_command_has_examples_and_exit_codes(name: str, here: Run) -> None:
    outcome = here(name, "--help")
    assert outcome.code == 0
    assert f"usage: headway {name}" in outcome.out
    assert "examples:" in outcome.out
    assert "exit codes:" in outcome.out


@pytest.mark.parametrize("name", ["", *THERE])
@pytest.mark.parametrize("encoding", ["ascii", "latin-1"])
def test_the_help_is_shown_where_output_has_few_characters(
    name: str, encoding: str, program: Run
) -> None:
    outcome = program(*filter(None, [name]), "--help", PYTHONIOENCODING=encoding)
    assert (outcome.code, outcome.err) == (0, "")
    assert "usage: headway" in outcome.out
    assert "\\u" not in outcome.out


def test_without_a_command_the_help_goes_to_standard_error(here: Run) -> None:
    outcome = here()
    assert (outcome.code, outcome.out) == (2, "")
    assert outcome.err.startswith("usage: headway COMMAND")


@pytest.mark.parametrize(
    ("word", "meant"),
    [("pek", "peek"), ("resett", "reset"), ("RESET", "reset"), ("docter", "doctor")],
)
def test_for_an_unknown_command_the_nearest_is_suggested(word: str, meant: str, here: Run) -> None:
    here(word).is_refused(2, repr(word), f"did you mean {meant!r}?")


def test_for_a_word_like_none_all_commands_are_listed(here: Run) -> None:
    here("zzz").is_refused(2, "'zzz'", *COMMANDS)


def test_an_unknown_option_is_named(here: Run) -> None:
    here("--colour").is_refused(2, "'--colour'", "usage: headway --help")
    here("peek", "k", "--quota", "1/s", "--colour").is_refused(2, "--colour", "headway peek --help")


def test_a_control_character_of_an_argument_does_not_reach_the_terminal(here: Run) -> None:
    assert "\x1b" not in here("\x1b[31mred").err
    assert "\x1b" not in here("limits", "\x1b[31m").err
    assert "\x1b" not in here("peek", "k", "--quota", "\x1b[31m").err


# ---- what is not installed


@pytest.fixture
def absent(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Makes the import of a package fail, as where it is not installed."""

    def hide(name: str) -> None:
        monkeypatch.setitem(sys.modules, name, None)  # type: ignore[arg-type]

    return hide


def test_a_command_that_is_not_in_this_installation_says_how_to_get_it(
    monkeypatch: pytest.MonkeyPatch, here: Run
) -> None:
    table = {**COMMANDS, "serve": commands.Command("x", "headway.nowhere.command", "serve")}
    monkeypatch.setattr("headway.cli.COMMANDS", table)
    monkeypatch.setattr(commands, "COMMANDS", table)
    here("serve").is_refused(3, 'pip install --upgrade "headway[serve]"')


@pytest.mark.parametrize("when", ["load", "arguments", "run"])
def test_a_missing_package_is_named_with_the_extra_to_install(
    when: str, monkeypatch: pytest.MonkeyPatch, absent: Callable[[str], None], here: Run
) -> None:
    absent("nice_package")

    def imports(*_: object) -> int:
        import nice_package.part  # type: ignore[import-not-found]

        return len(nice_package.part.__name__)

    def nothing(*_: object) -> int:
        return 0

    module = ModuleType("headway.nice")
    module.HELP = "nice"  # type: ignore[attr-defined]
    module.add_arguments = imports if when == "arguments" else nothing  # type: ignore[attr-defined]
    module.run = imports if when == "run" else nothing  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "headway.nice", module)
    if when == "load":
        monkeypatch.setattr(commands, "import_module", imports)
    table = {**COMMANDS, "nice": commands.Command("nice", "headway.nice", "extra")}
    monkeypatch.setattr("headway.cli.COMMANDS", table)
    monkeypatch.setattr(commands, "COMMANDS", table)
    here("nice").is_refused(3, "nice_package is missing", 'pip install "headway[extra]"')


def test_a_mistake_in_headway_itself_is_not_taken_for_a_missing_package() -> None:
    for mistake in (ImportError("cannot import name 'x'"), ImportError("x", name="headway.store")):
        with pytest.raises(ImportError, match="x"):
            commands.missing("serve", mistake)


def test_the_message_of_a_module_that_knows_what_it_lacks_is_kept() -> None:
    error = ImportError('top needs rich; run: pip install "headway[top]"')
    assert str(commands.missing("top", error)) == str(error)


# ---- output that ends, or fails


@pytest.mark.parametrize("unbuffered", ["", "1"], ids=["buffered", "unbuffered"])
def test_a_reader_that_went_away_ends_a_command_quietly(unbuffered: str, tmp_path: Path) -> None:
    for words in (["--help"], ["doctor"], ["peek", "--help"], ["completion", "bash"]):
        read_end, write_end = os.pipe()
        os.close(read_end)
        try:
            done = subprocess.run(
                [sys.executable, "-m", "headway", *words],
                cwd=tmp_path,
                env={**os.environ, "PYTHONUNBUFFERED": unbuffered},
                stdout=write_end,
                stderr=subprocess.PIPE,
                timeout=60,
                check=False,
            )
        finally:
            os.close(write_end)
        assert (done.returncode, done.stderr) == (141, b""), words


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no /dev/full")
@pytest.mark.parametrize("unbuffered", ["", "1"], ids=["buffered", "unbuffered"])
def test_an_output_that_is_full_is_told_and_ends_with_69(unbuffered: str, tmp_path: Path) -> None:
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "headway", "doctor"],
            cwd=tmp_path,
            env={**os.environ, "PYTHONUNBUFFERED": unbuffered},
            stdout=full,
            stderr=subprocess.PIPE,
            timeout=60,
            check=False,
        )
    assert done.returncode == 69
    assert done.stderr == b"headway doctor: No space left on device\n"


def test_ctrl_c_ends_a_command_with_130_and_no_traceback(tmp_path: Path) -> None:
    with subprocess.Popen(
        [sys.executable, "-m", "headway", "bench", "--store", "memory://", "--seconds", "60"],
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={**os.environ, "PYTHONPROFILEIMPORTTIME": "1"},  # standard error says how far it is
    ) as process:
        assert process.stderr is not None
        for line in process.stderr:
            if b"headway.commands.bench.measuring" in line:
                break
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=60)
    # Python itself ends by the signal where that met an exec() of the standard library; a shell
    # reports the same 130.
    assert process.returncode in (130, -signal.SIGINT)
    assert out == b""
    assert b"Traceback" not in err


@pytest.mark.parametrize(
    ("terminal", "variables", "coloured"),
    [
        (True, {"TERM": "xterm"}, True),
        (True, {"TERM": "xterm", "NO_COLOR": "1"}, False),
        (True, {"TERM": "dumb"}, False),
        (False, {"TERM": "xterm"}, False),
    ],
)
def test_colour_is_for_terminals_that_want_it(
    terminal: bool, variables: dict[str, str], coloured: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    from headway.commands.output import paint

    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(sys.stdout, "isatty", lambda: terminal)
    assert ("\x1b[" in paint("text", "red")) == coloured


def test_an_encoding_that_knows_little_is_no_reason_to_fail(program: Run) -> None:
    outcome = program("doctor", PYTHONIOENCODING="ascii", REDIS_URL="memory://")
    assert outcome.code == 0
    outcome = program("peek", "ключ", "--quota", "1/s", "--store", "ñ", PYTHONIOENCODING="ascii")
    outcome.is_refused(2, "argument --store", "must be")


def test_a_parser_of_a_command_of_a_command_says_who_it_is(here: Run) -> None:
    here("limits", "simulate", "--rpm", "x").is_refused(
        2, "headway limits simulate", "--rpm", "'x'"
    )


def test_every_command_that_prints_data_has_json(here: Run) -> None:
    without = {"completion", "serve"}
    for name in set(THERE) - without:
        parser = commands.parser_of(name)
        assert has_json(parser), name


def has_json(parser: argparse.ArgumentParser) -> bool:
    for action in parser._actions:
        if "--json" in action.option_strings:
            return True
        if isinstance(action, argparse._SubParsersAction):
            return all(has_json(below) for below in action.choices.values())
    return False

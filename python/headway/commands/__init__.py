"""The subcommands of `headway`, in one table.

A subcommand is a module with three names: `HELP` (one line, the same as in the table),
`add_arguments(parser)` and `run(args)`, which returns the exit code. The table repeats the help
line, so that `headway --help` imports none of them; only the one that is called is imported, and
shell completion, which needs all options, imports all.

    parser      argparse with messages of one line
    output      JSON, columns, durations, and colour where there is a terminal
    targets     where limits are kept: a store, or a service, as `--store` names it
    peek, reset, bench, doctor, completion, limits      subcommands that live here
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from importlib import import_module
from typing import NamedTuple, Protocol, cast

from headway.commands.parser import Missing, Parser

__all__ = ["COMMANDS", "GROUPS", "Command", "Subcommand", "load", "overview", "parser_of", "tree"]

DONE, FINDING, WRONG, MISSING, UNAVAILABLE, INTERRUPTED, NO_READER = 0, 1, 2, 3, 69, 130, 141
"""Exit codes. 69 is EX_UNAVAILABLE of sysexits.h; 130 and 141 are what a shell makes of SIGINT and
SIGPIPE."""


class Subcommand(Protocol):
    """What the module of a subcommand offers."""

    HELP: str

    def add_arguments(self, parser: argparse.ArgumentParser, /) -> None:
        """Adds the options; may set the parser's description and epilog, too."""

    def run(self, args: argparse.Namespace, /) -> int:
        """Does what the options ask for; returns the exit code."""
        ...


class Command(NamedTuple):
    """A line of the table."""

    help: str
    module: str
    extra: str | None = None
    """What `pip install "headway[…]"` must name for it, where the bare package is not enough."""


GROUPS: Mapping[str, Mapping[str, Command]] = {
    "see it work": {
        "demo": Command(
            "a real server under real load, and a picture", "headway.demo.command", "demo"
        ),
        "bench": Command(
            "how many decisions a second this machine makes", "headway.commands.bench"
        ),
    },
    "choose limits": {
        "replay": Command("try quotas on an access log", "headway.replay.command"),
        "limits": Command("what is known of the limits of APIs", "headway.commands.limits"),
    },
    "look at limits": {
        "top": Command("keys, quotas and denials of a store, live", "headway.top.command", "top"),
        "peek": Command("how much of its limit a key has left", "headway.commands.peek"),
        "reset": Command("give a key its whole limit back", "headway.commands.reset"),
    },
    "run it": {
        "serve": Command(
            "serve limits over HTTP, to programs that share no store",
            "headway.serve.command",
            "serve",
        ),
        "shm": Command("tables in shared memory: list, show, remove", "headway.shm.command"),
        "doctor": Command("what is installed, reached and set up wrong", "headway.commands.doctor"),
        "completion": Command(
            "a script that completes commands in a shell", "headway.commands.completion"
        ),
    },
}
COMMANDS: Mapping[str, Command] = {
    name: command for group in GROUPS.values() for name, command in group.items()
}

_CODES = """\
exit codes: 0 done, 1 a finding, 2 wrong argument, 3 something must be installed, 69 a store or
service cannot be used, 130 interrupted, 141 the reader of the output went away"""


def overview() -> str:
    """What `headway --help` prints."""
    lines = ["usage: headway COMMAND [OPTION …]", "", "Rate limiting with a C core."]
    for title, group in GROUPS.items():
        lines += ["", f"{title}:"]
        lines += [f"  {name:<12}{command.help}" for name, command in group.items()]
    lines += [
        "",
        "options:",
        "  -h, --help  show this help; headway COMMAND --help shows that of a command",
        "  --version   show the version",
        "",
        _CODES,
    ]
    return "\n".join(lines).replace("…", "...") + "\n"


def load(name: str) -> Subcommand:
    """The module of a subcommand; raises Missing where that, or what it imports, is not there."""
    command = COMMANDS[name]
    try:
        return cast(Subcommand, import_module(command.module))
    except ImportError as error:
        raise missing(name, error) from error


def missing(name: str, error: ImportError) -> Missing:
    """The sentence for an import that failed; raises `error` itself where that is a mistake."""
    command, lacks = COMMANDS[name], error.name or ""
    extra = f"headway[{command.extra}]" if command.extra else "headway"
    if "pip install" in str(error):
        return Missing(str(error))
    if command.module == lacks or command.module.startswith(lacks + "."):
        return Missing(f'it is not in this installation; run: pip install --upgrade "{extra}"')
    if not lacks or lacks.split(".")[0] == "headway" or command.extra is None:
        raise error
    return Missing(f'{lacks.split(".")[0]} is missing; run: pip install "{extra}"')


def parser_of(name: str) -> Parser:
    """The parser of one subcommand; its `run` is a default of the parser. Raises Missing."""
    module = load(name)
    parser = Parser(prog=f"headway {name}")
    try:
        module.add_arguments(parser)
    except ImportError as error:
        raise missing(name, error) from error
    parser.description = parser.description or f"{module.HELP[:1].upper()}{module.HELP[1:]}."
    parser.epilog = parser.epilog or _CODES
    return parser


def tree() -> dict[str, Parser | None]:
    """The parsers of all subcommands; None where one cannot be loaded here."""
    parsers: dict[str, Parser | None] = {}
    for name in COMMANDS:
        try:
            parsers[name] = parser_of(name)
        except Missing:
            parsers[name] = None
    return parsers

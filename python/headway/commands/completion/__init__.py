"""`headway completion`: a script that makes a shell complete commands, options and their values.

It is made from the parsers that the program itself uses, so it knows what they know. A subcommand
whose packages are not installed is completed by its name alone.

    words       what there is to complete, read from argparse
    scripts     the same as a script for bash, zsh and fish
"""

from __future__ import annotations

import argparse

from headway.commands import COMMANDS, DONE, tree
from headway.commands.output import say

__all__ = ["HELP", "add_arguments", "run"]

HELP = "a script that completes commands in a shell"

SHELLS = ("bash", "zsh", "fish")

EPILOG = """\
examples:
  headway completion bash > ~/.local/share/bash-completion/completions/headway
  headway completion zsh > ~/.zfunc/_headway          a folder of $fpath
  headway completion fish > ~/.config/fish/completions/headway.fish
  eval "$(headway completion bash)"                   for this shell only; zsh alike, after compinit
  headway completion fish | source                    for this shell only

exit codes: 0 done, 2 wrong argument, 141 the reader of the output went away"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options."""
    parser.description = (
        "Prints a script that makes a shell complete the commands of headway, their options and\n"
        "what they take. Make it anew after installing further extras."
    )
    parser.epilog = EPILOG
    parser.add_argument("shell", choices=SHELLS, metavar="SHELL", help="bash, zsh or fish")


def run(args: argparse.Namespace) -> int:
    """Prints the script."""
    from headway.commands.completion.scripts import SCRIPTS
    from headway.commands.completion.words import root_of

    helps = {name: command.help for name, command in COMMANDS.items()}
    say(SCRIPTS[args.shell](root_of("headway", tree(), helps)).rstrip("\n"))
    return DONE

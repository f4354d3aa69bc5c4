"""`headway limits`: smartratelimit's own command line, with help as all others have it."""

from __future__ import annotations

import argparse

from headway.smartratelimit import cli
from headway.smartratelimit.cli import run

__all__ = ["HELP", "add_arguments", "run"]

HELP = "what is known of the limits of APIs"

EPILOG = """\
examples:
  headway limits probe https://api.github.com/users           ask, and tell the limit it names
  headway limits --storage sqlite:///limits.db status api.github.com --json
  headway limits --storage redis://localhost:6379/0 list
  headway limits simulate --rpm 60 --requests 200             how long would that take?

exit codes: 0 done, 1 nothing is known or the storage or API cannot be used, 2 wrong argument,
130 interrupted, 141 the reader of the output went away"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options and subcommands."""
    parser.epilog = EPILOG
    cli.add_arguments(parser)

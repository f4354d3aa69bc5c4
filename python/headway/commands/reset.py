"""`headway reset`: a key gets its whole limit back, as if it had never asked."""

from __future__ import annotations

import argparse

from headway.commands import DONE
from headway.commands.output import paint, print_json, say
from headway.commands.peek import shown
from headway.commands.targets import add_limit_arguments, add_store_arguments, limit_of, opened

__all__ = ["HELP", "add_arguments", "run"]

HELP = "give a key its whole limit back"

EPILOG = """\
examples:
  headway reset alice --quota 100/h                           in the store that REDIS_URL names
  headway reset alice --quota "10/s; 1000/h" --store redis://localhost:6379/0
  headway reset alice --quota 5/m --store https://limits.example --token-file token --json

exit codes: 0 done, 2 wrong argument, 69 the store or service cannot be used, 130 interrupted, 141
the reader of the output went away"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options."""
    parser.description = (
        "Forgets what a key has spent. The quota, the algorithm and the prefix must be those of\n"
        "the program's limiter; what other limiters know of the key stays."
    )
    parser.epilog = EPILOG
    add_limit_arguments(parser)
    add_store_arguments(
        parser, "where the limit is kept: redis://, sqlite://, shm://, http:// (default: REDIS_URL)"
    )
    parser.add_argument("--json", action="store_true", help="print JSON")


def run(args: argparse.Namespace) -> int:
    """Resets, and says so."""
    limit = limit_of(args)
    with opened(args) as target:
        target.reset(limit)
    if args.json:
        print_json(
            {
                "key": args.key,
                "quota": limit.quota,
                "using": limit.using,
                "store": target.name,
                "reset": True,
            }
        )
    else:
        say(f"{shown(args.key)}: nothing is spent any more")
        say(paint(f"{limit.quota}, {limit.using}, {target.name}", "dim"))
    return DONE

"""`headway peek`: how much of its limit a key has left, without taking any of it."""

from __future__ import annotations

import argparse
import os

from headway.commands import DONE, FINDING
from headway.commands.output import duration, paint, plain, print_json, say
from headway.commands.targets import add_limit_arguments, add_store_arguments, limit_of, opened

__all__ = ["HELP", "add_arguments", "run"]

HELP = "how much of its limit a key has left"

EPILOG = """\
examples:
  headway peek alice --quota 100/h                            in the store that REDIS_URL names
  headway peek alice --quota "10/s burst 20" --using gcra --store redis://localhost:6379/0
  headway peek alice --quota 5/m --store sqlite:////var/lib/app/limits.db --json
  HEADWAY_TOKEN=... headway peek alice --quota 5/m --store http://127.0.0.1:8787
  headway peek alice --quota 5/m > /dev/null && ./send        only if one is left

exit codes: 0 there is something left, 1 nothing is left, 2 wrong argument, 69 the store or service
cannot be used, 130 interrupted, 141 the reader of the output went away"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options."""
    parser.description = (
        "Tells how much of its limit a key has left, and takes nothing of it. The quota, the\n"
        "algorithm and the prefix must be those of the program's limiter: a store keeps what was\n"
        "spent, not what is allowed."
    )
    parser.epilog = EPILOG
    add_limit_arguments(parser)
    add_store_arguments(
        parser, "where the limit is kept: redis://, sqlite://, shm://, http:// (default: REDIS_URL)"
    )
    parser.add_argument("--json", action="store_true", help="print JSON")


def run(args: argparse.Namespace) -> int:
    """Asks, and prints the answer."""
    limit = limit_of(args)
    with opened(args) as target:
        left = target.peek(limit)
    if args.json:
        print_json(
            {
                "key": args.key,
                "quota": limit.quota,
                "using": limit.using,
                "store": target.name,
                "limit": left.limit,
                "remaining": left.remaining,
                "reset_after": left.reset_after,
            }
        )
    else:
        count = f"{left.remaining:,} of {left.limit:,} left"
        if left.remaining == 0:
            count = f"{paint(count, 'red')}: the next request is denied"
        else:
            count = paint(count, "green")
        when = (
            "nothing is spent"
            if left.reset_after == 0
            else f"all of it in {duration(left.reset_after)}"
        )
        say(f"{shown(args.key)}: {count}; {when}")
        say(paint(f"{limit.quota}, {limit.using}, {target.name}", "dim"))
    return DONE if left.remaining else FINDING


def shown(key: str) -> str:
    """The key as it may be printed."""
    return plain(os.fsencode(key).decode("utf-8", "backslashreplace"))

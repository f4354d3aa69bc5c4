"""`headway top`: the arguments, and which of three ways to show what limiters do.

On a terminal it is live; `--once`, or standard output that is no terminal, prints a table;
`--json` prints JSON, one object a line every interval, or one object with `--once`.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import sys
import time
from collections.abc import Sequence

from headway._snapshot import SORTS
from headway.commands.output import plain, print_json, say
from headway.commands.parser import Missing, Parser, Refused, bounded, seconds
from headway.exceptions import BaseThrottledError
from headway.top.rates import Moment, Rates
from headway.top.sources import NamedSource, source_of
from headway.top.table import summary, text_table

__all__ = ["HELP", "add_arguments", "main", "run"]

HELP = "keys, quotas and denials of a store, live"
DESCRIPTION = """\
Shows the keys of a store: quotas, how many are admitted and denied a second, what remains, who
waits. On a terminal it is live; see docs/observability.md."""
EPILOG = """\
examples:
  headway top redis://localhost:6379/0              what all processes publish there
  headway top http://127.0.0.1:8787 --token-file token
  headway top --once --sort remaining --limit 20    a table, from REDIS_URL
  headway top --json --interval 10 >> top.jsonl     one object a line, every ten seconds

keys: d a w r n k sort by denied, admitted, waiting, remaining, recent, key; / filters as you type;
p pauses; arrows and pages scroll; q quits

exit codes: 0 done, 2 wrong argument or token, 3 something must be installed, 69 nobody answers,
130 interrupted, 141 the reader of the output went away"""
UNAVAILABLE = 69


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The source and the options."""
    parser.description, parser.epilog = DESCRIPTION, EPILOG
    add = parser.add_argument
    add(
        "source",
        nargs="?",
        metavar="SOURCE",
        help="redis://…, shm:///… or the http://… of a service (default: REDIS_URL)",
    )
    add("--once", action="store_true", help="print what is there now, and end")
    add("--json", action="store_true", help="print JSON: a line each interval, or once")
    add(
        "--interval",
        type=seconds(0.1, 3600),
        default=1.0,
        metavar="SECONDS",
        help="time between two looks (default: 1)",
    )
    add("--sort", choices=SORTS, default="denied", help="what comes first (default: denied)")
    add("--search", default="", metavar="TEXT", help="only keys that contain it")
    add(
        "--limit",
        type=bounded(1, 10_000),
        metavar="N",
        help="so many keys at most (default: 100; live: what fits)",
    )
    add(
        "--token-file",
        metavar="FILE",
        help="holds the token for a service (default: the environment variable HEADWAY_TOKEN)",
    )


def run(args: argparse.Namespace) -> int:
    """Shows it; returns the exit code. Raises Refused, Missing, StoreUnavailableError."""
    source = source_of(args.source, args.token_file)
    if args.json and not args.once:
        return _stream(source, args)
    if args.json or args.once or not (sys.stdin.isatty() and sys.stdout.isatty()):
        moment = Rates().take(source.snapshot(args.search, args.sort, args.limit or 100))
        if args.json:
            print_json(moment.as_json())
        else:
            _print(source, moment)
        return 0
    try:
        from headway.top.live import AT_LEAST, Screen, show
    except ImportError as error:  # no termios: Windows
        raise Missing(f"the live view needs a terminal of Unix ({error}); use --once") from error
    try:
        import rich  # noqa: F401
    except ImportError as error:
        raise Missing(
            'rich is missing; run: pip install "headway[top]", or use --once or --json'
        ) from error
    # Asked here, so that a wrong address or token is told as any other command does.
    source.snapshot(args.search, args.sort, 1)
    limit = args.limit or AT_LEAST
    show(source, args.interval, Screen(sort=args.sort, search=args.search, limit=limit))
    return 0


def _stream(source: NamedSource, args: argparse.Namespace) -> int:
    rates = Rates()
    due = time.monotonic()
    while True:
        moment = rates.take(source.snapshot(args.search, args.sort, args.limit or 100))
        say(json.dumps(moment.as_json(), allow_nan=False))
        sys.stdout.flush()
        due = max(due + args.interval, time.monotonic())
        time.sleep(max(0.0, due - time.monotonic()))


def _print(source: NamedSource, moment: Moment) -> None:
    say(f"{plain(source.name)}   {summary(moment)}")
    if source.note:
        say(source.note)
    for line in text_table(moment.rows):
        say(line)
    hidden = moment.snapshot.total - len(moment.rows)
    if hidden > 0:
        say(f"… and {hidden:,} more (--limit)")


def main(argv: Sequence[str] | None = None) -> int:
    """`python -m headway.top`, which is `headway top`."""
    parser = Parser(prog="headway top")
    add_arguments(parser)
    args = parser.parse_args(argv)
    try:
        return run(args)
    except (Refused, Missing, BaseThrottledError) as error:
        print(f"headway top: {plain(str(error))}", file=sys.stderr)
        if isinstance(error, Missing):
            return 3
        return 2 if isinstance(error, Refused) else UNAVAILABLE
    except BrokenPipeError:
        with contextlib.suppress(OSError, ValueError):  # else closing it would complain at exit
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except KeyboardInterrupt:
        return 130

"""`headway bench`: how many decisions a second this machine makes, and how long one takes.

A number of decisions a second says more of the machine than of headway. So beside each row stands
what else the same machine could have done in the same moments: incrementing a counter of a dict
under a lock, which is the least that a limiter of one's own would do, in the same number of
threads, and that only in this process' memory. Both are measured by turns.

    stores      which stores are measured, and how they are left as they were
    measuring   one row: the rate without a timer, the delays with one
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence

from headway.commands import DONE, UNAVAILABLE
from headway.commands.bench.measuring import Row
from headway.commands.output import columns, duration, paint, plain, print_json, rate, say
from headway.commands.parser import bounded, seconds

__all__ = ["HELP", "add_arguments", "run"]

HELP = "how many decisions a second this machine makes"

SCHEMA = 1
"""Of the JSON output; another number when a name in it changes its meaning."""

EPILOG = """\
examples:
  headway bench                                      what is there: memory, SQLite, REDIS_URL, ...
  headway bench --store redis://localhost:6379/0 --threads 8 --tasks 500
  headway bench --store memory:// --store sqlite:////var/lib/app/limits.db --seconds 2
  headway bench --json | jq '.rows[] | [.store, .how, .per_second]'

exit codes: 0 done, 2 wrong argument, 69 a store cannot be used, 130 interrupted, 141 the reader of
the output went away"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options."""
    parser.description = (
        "Measures decisions on one key: by one thread, by several, and by tasks of asyncio. It\n"
        "takes about ten seconds at most, and removes its key afterwards."
    )
    parser.epilog = EPILOG
    add = parser.add_argument
    add(
        "--store",
        action="append",
        metavar="URL",
        help="a store to measure; repeat it to compare (default: memory, a new SQLite file, shared "
        "memory, and REDIS_URL if it is set)",
    )
    add(
        "--threads",
        type=bounded(1, 256),
        default=4,
        metavar="N",
        help="threads of the second row of a store (default: 4)",
    )
    add(
        "--tasks",
        type=bounded(1, 10_000),
        default=100,
        metavar="N",
        help="tasks of asyncio of the third (default: 100)",
    )
    add(
        "--seconds",
        type=seconds(0.05, 60),
        default=0.6,
        metavar="S",
        help="how long to measure each row (default: 0.6)",
    )
    add("--json", action="store_true", help="print JSON")


def run(args: argparse.Namespace) -> int:
    """Measures, and prints the rows; a store that cannot be used is told of on standard error."""
    from headway.commands.bench.measuring import rows_of
    from headway.commands.bench.stores import stores_of
    from headway.exceptions import StoreUnavailableError

    rows: list[Row] = []
    code = DONE
    for name, store in stores_of(args.store):
        try:
            rows += rows_of(name, store, args.threads, args.tasks, args.seconds)
        except StoreUnavailableError as error:
            say(f"headway bench: {plain(str(error))}", sys.stderr)
            code = UNAVAILABLE
    if args.json:
        print_json(
            {
                "schema": SCHEMA,
                "cores": _cores(),
                "seconds": args.seconds,
                "rows": [row._asdict() for row in rows],
            }
        )
    elif rows:
        _show(rows)
    return code


def _cores() -> int:
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return usable or 1


def _show(rows: Sequence[Row]) -> None:
    table = [("store", "by", "decisions/s", "median", "p99", "increments")]
    for row in rows:
        table.append(
            (
                row.store,
                row.how,
                rate(row.per_second),
                duration(row.p50),
                duration(row.p99),
                f"{row.increments:.3g}",
            )
        )
    head, *lines = columns(table, right=(2, 3, 4, 5))
    say(paint(head, "bold"))
    for line in lines:
        say(line)
    say("")
    say(f"One key, {_cores()} cores. increments: how many times the same threads could have")
    say("counted in a dict under a lock in the time of one decision, the least it could cost.")

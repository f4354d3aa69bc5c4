"""The arguments of `headway replay`."""

from __future__ import annotations

import argparse

__all__ = ["HELP", "add_arguments"]

HELP = "try quotas on an access log"

DESCRIPTION = """\
Runs an access log (common or combined format; plain, gzip or - for standard input) through a
rate limiter in virtual time, and tells who would have been limited, when and how much. Without
--quota it suggests quotas. See docs/replay.md."""

EPILOG = """\
examples:
  headway replay access.log                                  which limit should I set?
  headway replay access.log* --quota "10/s burst 20"         what would this one have done?
  headway replay access.log --quota 5/s --quota "10/s; 300/m"    side by side
  zcat -f logs/* | headway replay - --quota 60/m --by "method path" --using gcra

exit codes: 0 done, 1 an input was read in part only, 2 wrong argument or no access log,
130 interrupted, 141 the reader of the output went away"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `headway replay`."""
    parser.description = DESCRIPTION
    parser.epilog = EPILOG
    add = parser.add_argument
    add("files", nargs="+", metavar="FILE", help="access logs in any order, - for standard input")
    add(
        "--quota",
        action="append",
        metavar="TEXT",
        help='a quota to try, such as "10/s burst 20; 1000/h"; repeat it to compare',
    )
    add(
        "--by",
        default="ip",
        metavar="FIELDS",
        help="what is limited: ip, user, method, path, status, size, referer, ua, or several "
        'such as "method path" or ip+path (default: ip)',
    )
    add(
        "--using",
        default="token_bucket",
        metavar="ALGORITHM",
        help="token_bucket (default), leaking_bucket, gcra, fixed_window, sliding_window",
    )
    add("--cost", default="1", help="tokens a request costs: a number, or bytes (as sent)")
    add(
        "--spread",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="spread the requests of one second evenly over it in order of appearance (default), "
        "or take them all at its start",
    )
    add("--status", metavar="LIST", help="only requests answered so: 404, 4xx, or 401,403,5xx")
    add("--path", metavar="PREFIX", help="only requests for paths that start like this")
    add("--top", type=int, default=10, metavar="N", help="limited clients to list (default: 10)")
    add("--plot", metavar="FILE.png", help="also draw it (needs the extra 'replay')")
    add("--json", action="store_true", help="print the report as JSON")
    add(
        "--no-progress",
        dest="progress",
        action="store_false",
        help="no progress bar (there is one only on a terminal)",
    )

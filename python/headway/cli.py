"""The command line: `headway replay`, `headway demo` and `headway limits`.

Each subcommand lives in its own room and is imported only when it is called, so that `--help` needs
nothing but the standard library. Exit codes are the subcommand's own; 2 is a wrong argument, 130
Ctrl-C, 141 a reader of the output that went away (what a shell reports for SIGPIPE).
"""

from __future__ import annotations

import argparse
import contextlib
import os
import sys
from collections.abc import Sequence

REPLAY_HELP = """\
Runs an access log (common or combined format; plain, gzip or - for standard input) through a
rate limiter in virtual time, and tells who would have been limited, when and how much. Without
--quota it suggests quotas. See docs/replay.md."""

REPLAY_EPILOG = """\
examples:
  headway replay access.log                                  which limit should I set?
  headway replay access.log* --quota "10/s burst 20"         what would this one have done?
  headway replay access.log --quota 5/s --quota "10/s; 300/m"    side by side
  zcat -f logs/* | headway replay - --quota 60/m --by "method path" --using gcra

exit codes: 0 done, 1 an input was read in part only, 2 wrong argument or no access log,
130 interrupted, 141 the reader of the output went away"""


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command in `argv` (default: the process's arguments) and returns its exit code."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    try:
        if arguments[:1] == ["demo"]:  # has a parser of its own
            from headway.demo import main as demo

            return demo(arguments[1:])
        if arguments[:1] == ["limits"]:
            return _limits(arguments[1:])
        args = _parser().parse_args(arguments)
        from headway.replay.command import run

        return run(args)
    except BrokenPipeError:
        # Nothing more can be written; without this, closing stdout would complain at exit.
        with contextlib.suppress(OSError, ValueError):  # a stdout that is no file
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except KeyboardInterrupt:
        return 130


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="headway", description="Rate limiting with a C core.")
    parser.add_argument("--version", action=_Version, nargs=0, help="print the version and exit")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    replay = commands.add_parser(
        "replay",
        help="try quotas on an access log",
        description=REPLAY_HELP,
        epilog=REPLAY_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    _add_replay(replay)
    commands.add_parser("demo", help="a real server under real load, and a picture", add_help=False)
    commands.add_parser("limits", help="what is known of the limits of APIs", add_help=False)
    return parser


def _limits(arguments: list[str]) -> int:
    from headway.smartratelimit import cli

    parser = argparse.ArgumentParser(
        prog="headway limits", description="What is known of the limits of APIs."
    )
    cli.add_arguments(parser)
    return cli.run(parser.parse_args(arguments))


class _Version(argparse.Action):
    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> None:
        from headway._core import __version__

        sys.stdout.write(f"headway {__version__}\n")
        parser.exit()


def _add_replay(replay: argparse.ArgumentParser) -> None:
    add = replay.add_argument
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


if __name__ == "__main__":
    sys.exit(main())

"""The program `headway`: from its arguments to an exit code.

`headway.commands` has the table of the subcommands. Here is what holds for all of them: nothing is
imported but the one that is called, and whatever goes wrong is one line on standard error that
begins with the command's name, and an exit code.

    0    done
    1    done, and there is a finding: a key at its limit, a problem, an input read in part only
    2    an argument cannot be used; the line names it, its value and what would do
    3    something has to be installed; the line says how
    69   a store, a service or a file cannot be used (EX_UNAVAILABLE)
    130  interrupted by Ctrl-C
    141  whoever read the output went away (what a shell reports for SIGPIPE)
"""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Callable, Sequence

from headway.commands import (
    COMMANDS,
    DONE,
    INTERRUPTED,
    MISSING,
    NO_READER,
    UNAVAILABLE,
    WRONG,
    load,
    missing,
    overview,
    parser_of,
)
from headway.commands.output import plain, say
from headway.commands.parser import Missing, Parser, Refused

__all__ = ["main"]


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command in `argv` (default: the process's arguments) and returns its exit code.

    As argparse does, it raises SystemExit for arguments that cannot be parsed, and after `--help`
    and `--version`.
    """
    words = list(sys.argv[1:] if argv is None else argv)
    code = -1  # not known yet
    try:
        try:
            code = _run(words)
        finally:
            _flush()  # so that an output that takes no more is met here, not at exit
    except BrokenPipeError:
        _drop_output()
        return NO_READER
    except OSError as error:
        _drop_output()
        if code < 0 and sys.stderr is not None:  # else it has been told
            say(f"headway: {_sentence(error)}", sys.stderr)
        return UNAVAILABLE
    except KeyboardInterrupt:
        return INTERRUPTED
    return code


def _flush() -> None:
    if sys.stdout is not None:
        sys.stdout.flush()


def _drop_output() -> None:
    """Nothing more can be written; without this, closing stdout would complain at exit."""
    if sys.stdout is not None:
        with contextlib.suppress(OSError, ValueError):  # a stdout that is no file
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _run(words: Sequence[str]) -> int:
    if not words:
        say(overview().rstrip(), sys.stderr)
        sys.exit(WRONG)
    first = words[0]
    if first in COMMANDS:
        return _refused(first, lambda: _command(first, words[1:]))
    if first in ("-h", "--help"):
        say(overview().rstrip())
        sys.exit(DONE)
    if first == "--version":
        from headway._core import __version__

        say(f"headway {__version__}")
        sys.exit(DONE)
    top = Parser(prog="headway")
    if first.startswith("-"):
        top.error(f"unrecognized option {first!r}, must be a command, --help or --version")
    top.error(f"unknown command {first!r}{_nearest(first)}")


def _nearest(word: str) -> str:
    from difflib import get_close_matches

    near = get_close_matches(word.lower(), COMMANDS, n=1, cutoff=0.5)
    return f", did you mean {near[0]!r}?" if near else f", must be one of {', '.join(COMMANDS)}"


def _command(name: str, words: Sequence[str]) -> int:
    parser = parser_of(name)
    args = parser.parse_args(words)
    try:
        code = load(name).run(args)
    except ImportError as error:
        raise missing(name, error) from error
    _flush()
    return code


def _refused(name: str, run: Callable[[], int]) -> int:
    """What `run` returns; what it raises on purpose becomes one line and an exit code."""
    try:
        return run()
    except BrokenPipeError:
        raise
    except Missing as error:
        code, reason = MISSING, str(error)
    except Refused as error:
        code, reason = WRONG, str(error)
    except OSError as error:
        code, reason = UNAVAILABLE, _sentence(error)
    except Exception as error:
        from headway.exceptions import BaseThrottledError, StoreUnavailableError

        if not isinstance(error, BaseThrottledError):
            raise
        code = UNAVAILABLE if isinstance(error, StoreUnavailableError) else WRONG
        reason = str(error)
    if sys.stderr is not None:
        say(f"headway {name}: {plain(reason)}", sys.stderr)
    return code


def _sentence(error: OSError) -> str:
    if error.strerror is None:
        return str(error)
    return f"{error.filename}: {error.strerror}" if error.filename else error.strerror


if __name__ == "__main__":
    sys.exit(main())

"""`python -m headway.serve` is `headway serve`."""

import sys

from headway.commands import MISSING, UNAVAILABLE, WRONG
from headway.commands.output import plain, say
from headway.commands.parser import Missing, Parser, Refused
from headway.exceptions import BaseThrottledError, StoreUnavailableError
from headway.serve.command import add_arguments, run


def main() -> int:
    """As `headway.cli` does it, for this command alone."""
    parser = Parser(prog="headway serve")
    add_arguments(parser)
    args = parser.parse_args()
    try:
        return run(args)
    except (Missing, Refused, BaseThrottledError) as error:
        say(f"headway serve: {plain(str(error))}", sys.stderr)
        if isinstance(error, Missing):
            return MISSING
        return UNAVAILABLE if isinstance(error, StoreUnavailableError) else WRONG


if __name__ == "__main__":
    sys.exit(main())

"""`python -m headway.serve` is `headway serve`."""

import argparse
import sys

from headway.serve.command import add_arguments, run

if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="headway serve")
    add_arguments(parser)
    sys.exit(run(parser.parse_args()))

"""The command line of the demo: check what is needed, run, show, sum up.

The order matters: everything that may be refused (arguments, packages, files, the port) is tried
before the first request, so that a refusal is one line and costs no time.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import sys
import threading
import time
from collections.abc import Sequence
from contextlib import ExitStack, closing
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import socket

    from headway.demo.access_log import AccessLog
    from headway.demo.outcome import Outcome

PACKAGES = ("uvicorn", "starlette", "matplotlib", "rich")
LONGEST = 3600.0  # seconds


HELP = "a real server under real load, and a picture"

EPILOG = """\
examples:
  headway demo                                      five seconds, a live table, demo.png
  headway demo --seconds 20 --plot load.svg
  headway demo --json --log /tmp/access.log         a report for programs

exit codes: 0 every key was admitted exactly as its quota allows, 1 one was not or requests failed,
2 it cannot run (wrong argument, missing package, port or file not usable), 130 interrupted, 141 the
reader of the output went away"""


class Refused(Exception):
    """The demo cannot run; the message says why and what would do."""


def main(argv: Sequence[str] | None = None) -> int:
    """See `headway.demo.main`."""
    from headway.commands.parser import Parser

    parser = Parser(prog="headway demo")
    add_arguments(parser)
    return run(parser.parse_args(argv))


def run(arguments: argparse.Namespace) -> int:
    """What the parsed arguments ask for; returns the exit code, as `headway.demo.main` does."""
    try:
        _check_packages()
        outcome = _run(arguments)
        text = json.dumps(outcome.to_json(), indent=2) if arguments.json else outcome.summary()
        print(text, flush=True)
    except Refused as refusal:
        print(f"headway demo: {refusal}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("headway demo: interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:  # whoever read our output has left; nothing more can be said there
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141  # what a shell reports for SIGPIPE
    return 0 if outcome.ok else 1


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `headway demo`."""
    parser.description = (
        "Start a limited HTTP server on this machine, drive it with real clients for a few "
        "seconds,\nand show what was admitted beside the exact number that the quota allows."
    )
    parser.epilog = EPILOG
    add = parser.add_argument
    add("--seconds", type=_seconds, default=5.0, metavar="N", help="how long (default: 5)")
    add("--port", type=_port, default=0, metavar="N", help="port on 127.0.0.1 (default: any free)")
    add(
        "--log",
        type=Path,
        default=Path("demo-access.log"),
        metavar="FILE",
        help="the server's access log, combined format (default: demo-access.log)",
    )
    add(
        "--plot",
        type=Path,
        default=Path("demo.png"),
        metavar="FILE",
        help="the picture, PNG, SVG or PDF by its ending (default: demo.png)",
    )
    add("--plain", action="store_true", help="plain lines instead of a live table")
    add("--json", action="store_true", help="print a report in JSON and nothing else")


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if not 0.1 <= seconds <= LONGEST:
        raise argparse.ArgumentTypeError(f"{text!r}, must be 0.1 to {LONGEST:g} seconds")
    return seconds


def _port(text: str) -> int:
    if not text.isascii() or not text.isdigit() or int(text) > 65535:
        raise argparse.ArgumentTypeError(f"{text!r}, must be 0 to 65535; 0: any free port")
    return int(text)


def _check_packages() -> None:
    missing = [name for name in PACKAGES if importlib.util.find_spec(name) is None]
    if missing:
        raise Refused(f'{", ".join(missing)} missing; run: pip install "headway[demo]"')


def _run(arguments: argparse.Namespace) -> Outcome:
    from headway.demo.access_log import AccessLog
    from headway.demo.picture import check_path
    from headway.demo.server import listen

    with ExitStack() as stack:
        try:
            check_path(arguments.plot)
            listener = stack.enter_context(listen(arguments.port))
            log = stack.enter_context(closing(AccessLog(arguments.log)))
        except (OSError, ValueError) as error:
            raise Refused(_reason(error)) from error
        return _drive(arguments, listener, log)


def _reason(error: OSError | ValueError) -> str:
    if isinstance(error, OSError) and error.strerror:
        return f"{error.filename}: {error.strerror}" if error.filename else error.strerror
    return str(error)


def _drive(arguments: argparse.Namespace, listener: socket.socket, log: AccessLog) -> Outcome:
    from headway.clock import now_ns
    from headway.demo.clients import Clients
    from headway.demo.outcome import Outcome
    from headway.demo.picture import Span, draw
    from headway.demo.recorder import Recorder
    from headway.demo.reference import SECOND_NS
    from headway.demo.report import LiveRows, final_rows
    from headway.demo.scenario import LOADS
    from headway.demo.screen import screen_for
    from headway.demo.server import Server

    recorder = Recorder()
    live = LiveRows(recorder.arrivals)
    never = threading.Event()  # waiting for it is waiting for the next update, or for Ctrl-C
    with Server(recorder, log, listener) as server:
        screen = screen_for(
            server.url, arguments.seconds, plain=arguments.plain, silent=arguments.json
        )
        with screen:
            screen.update(live.rows(now_ns()), 0)
            never.wait(1 - now_ns() % SECOND_NS / SECOND_NS)  # windows then begin with the run
            start, start_ns = time.monotonic(), now_ns()
            with Clients(server.port, LOADS) as clients:
                while (left := start + arguments.seconds - time.monotonic()) > 0:
                    never.wait(min(left, screen.interval))
                    screen.update(live.rows(now_ns()), time.monotonic() - start)
                stop_ns = now_ns()
            rows = final_rows(recorder.arrivals)
            screen.update(rows, arguments.seconds)
    draw(arguments.plot, recorder.arrivals, rows, Span(start_ns, stop_ns))
    return Outcome(
        url=server.url,
        seconds=arguments.seconds,
        rows=rows,
        statuses=clients.statuses,
        errors=clients.errors,
        log=arguments.log,
        log_lines=log.lines,
        plot=arguments.plot,
    )

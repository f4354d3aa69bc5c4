"""`headway doctor`: what is installed, which store is reached, and what is set up wrong.

Each room answers with findings: what was looked at, what was seen, whether that is ok, a warning
or a problem, and one sentence of what to do. Nothing is changed, but for a key of the doctor's own
that measures how long a decision takes and is removed afterwards.

    finding     a finding, and how secrets are kept out of it
    machine     headway itself, Python, the compiled part, clocks, what is free
    packages    the extras: which are there, and how to install those that are not
    stores      what a decision takes, and what holds for SQLite, shared memory and a service
    redis       what a Redis server says of itself
"""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Iterator

from headway.commands import DONE, FINDING
from headway.commands.doctor.finding import OK, PROBLEM, WARNING, Finding
from headway.commands.output import paint, plain, print_json, say
from headway.commands.parser import bounded
from headway.commands.targets import add_store_arguments

__all__ = ["HELP", "add_arguments", "run"]

HELP = "what is installed, reached and set up wrong"

SCHEMA = 1
"""Of the JSON output; another number when a name in it changes its meaning."""

EPILOG = """\
examples:
  headway doctor                                              the store that REDIS_URL names
  headway doctor --store redis://localhost:6379/0
  headway doctor --store sqlite:////var/lib/app/limits.db --json
  headway doctor --json | jq '.findings[] | select(.level != "ok")'

exit codes: 0 no problem (there may be warnings), 1 a problem was found, 2 wrong argument,
130 interrupted, 141 the reader of the output went away"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options."""
    parser.description = (
        "Looks at this machine, this installation and the store that limits are kept in, and says\n"
        "of each finding whether it is ok, and if not, what to do. Passwords are not shown."
    )
    parser.epilog = EPILOG
    add_store_arguments(
        parser, "the store to look at: redis://, sqlite://, shm://, http:// (default: REDIS_URL)"
    )
    parser.add_argument(
        "--decisions",
        type=bounded(10, 100_000),
        default=200,
        metavar="N",
        help="how many decisions to time on the store (default: 200)",
    )
    parser.add_argument("--json", action="store_true", help="print JSON")


def run(args: argparse.Namespace) -> int:
    """Looks at everything, and prints it."""
    findings = list(_findings(args))
    levels = Counter(finding.level for finding in findings)
    if args.json:
        print_json(
            {
                "schema": SCHEMA,
                "ok": not levels[PROBLEM],
                "problems": levels[PROBLEM],
                "warnings": levels[WARNING],
                "findings": [finding._asdict() for finding in findings],
            }
        )
    else:
        _show(findings)
        say("")
        say(_verdict(levels[PROBLEM], levels[WARNING]))
    return FINDING if levels[PROBLEM] else DONE


def _findings(args: argparse.Namespace) -> Iterator[Finding]:
    from headway.commands.doctor import machine, packages, stores

    store = list(stores.findings(args))  # first, since a wrong argument ends it all
    yield from machine.findings()
    yield from store
    yield from packages.findings()
    yield from machine.environment()


_COLOURS = {OK: "green", WARNING: "yellow", PROBLEM: "red"}


def _show(findings: list[Finding]) -> None:
    width = max(len(finding.name) for finding in findings)
    room = None
    for finding in findings:
        if finding.room != room:
            room = finding.room
            say(("" if finding is findings[0] else "\n") + paint(room, "bold"))
        level = paint(finding.level.ljust(len(PROBLEM)), _COLOURS[finding.level])
        say(f"  {level}  {finding.name:<{width}}  {plain(finding.value)}")
        if finding.advice:
            say(f"{'':<{len(PROBLEM) + width + 6}}-> {plain(finding.advice)}")


def _verdict(problems: int, warnings: int) -> str:
    if not problems and not warnings:
        return paint("No problem found.", "green")
    counts = ((problems, "problem"), (warnings, "warning"))
    said = ", ".join(f"{n} {name}{'s' * (n > 1)}" for n, name in counts if n)
    return paint(f"{said}.", "red" if problems else "yellow")

"""`headway demo`: a real HTTP server with limited handlers, real clients, and the proof.

The demo starts a server on this machine whose handlers are decorated with `@Throttled`, drives it
for a few seconds with well-behaved and ill-behaved clients, and shows for each key how many
requests were admitted beside the exact number that the quota allows. That number comes from
`reference.py`, which shares no code with the limiter: it knows the arrival times and the
definition of each algorithm, in fractions.

    scenario    who asks for what, how fast, and which quota holds there
    server      the handlers, as a user would write them, and the server's thread
    access_log  the server's log in combined format, for `headway replay`
    clients     threads with keep-alive connections
    recorder    a hook that notes when each request was decided, and how
    reference   the exact number, from the arrival times alone
    report      one row per key; the same rows make the table, the JSON and the picture
    screen      the live table, and plain lines where there is no terminal
    picture     admitted requests against the quota's line
    command     the command line that ties them together
"""

from __future__ import annotations

from collections.abc import Sequence


def main(argv: Sequence[str] | None = None) -> int:
    """Run the demo with these arguments (default: the process's own) and return its exit code.

    0: every key was admitted exactly as its quota allows. 1: one was not, or requests failed.
    2: the demo cannot run (wrong argument, missing package, port or file not usable).
    130: interrupted.
    """
    from headway.demo.command import main as command_main

    return command_main(argv)


__all__ = ["main"]

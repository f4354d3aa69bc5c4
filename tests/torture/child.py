"""Runs torments in this process and reports each as a line of JSON; run.py starts it.

It reads its work, a list of [operation, torment, seconds, first moment], as JSON from its standard
input. Before each moment it says so, so that the starter knows which one did not come back.
"""

from __future__ import annotations

import faulthandler
import gc
import json
import os
import signal
import sys
import time
import traceback
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))

MOMENT_S = float(os.environ.get("HEADWAY_TORTURE_MOMENT_S", "30"))
"""How long a moment may take before this process ends with the stacks of all threads."""
FINDINGS = 3
"""After so many findings of one pair, the next pair."""


def say(**what: Any) -> None:
    os.write(REPORT, json.dumps(what).encode() + b"\n")


def torture(operation: str, torment: str, seconds: float, only: int, skip: list[int]) -> None:
    from operations import OPERATIONS
    from session import Session, spread
    from torments import TORMENTS

    begun = time.monotonic()
    kind = TORMENTS[torment]
    faulthandler.dump_traceback_later(2 * MOMENT_S, exit=True)
    session: Any = None
    covered = found = total = 0
    try:
        session = Session(OPERATIONS[operation])
        total = kind.begin(session)
        gc.collect()
        gc.freeze()
        for n in [only] if only else spread(total):
            if n in skip:
                continue
            if covered and not only and time.monotonic() > begun + seconds:
                break
            say(at=n, total=total)
            faulthandler.dump_traceback_later(MOMENT_S, exit=True)
            problem = kind.moment(session, n)
            covered += 1
            if problem:
                found += 1
                if kind.harms_in_c:
                    import helper

                    if place := helper.where():
                        problem += f"\nthe harm was done in {place}"
                say(found=problem, moment=n)
                if found >= FINDINGS:
                    break
    except BaseException:  # of a moment or of the harness; the trace tells which
        say(found="the harness itself: " + traceback.format_exc()[-1500:], moment=0)
    finally:
        faulthandler.dump_traceback_later(2 * MOMENT_S, exit=True)
        if session is not None:
            session.close()
        gc.unfreeze()
        faulthandler.cancel_dump_traceback_later()
    charged = session.charged if session is not None else 0
    say(done=covered, total=total, seconds=time.monotonic() - begun, charged=charged)


def main() -> None:
    for operation, torment, seconds, only, skip in json.load(sys.stdin):
        say(pair=[operation, torment])
        torture(operation, torment, seconds, only, skip)
    say(end=True)


if __name__ == "__main__":
    REPORT = os.dup(1)
    os.dup2(2, 1)
    faulthandler.enable()
    # Started in the background, a process inherits that Ctrl-C is ignored; headway raises it anew.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    main()

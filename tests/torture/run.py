"""Tortures headway: runs each operation of the table under each torment, at moment after moment.

    python tests/torture/run.py --seconds 600
    python tests/torture/run.py --list
    python tests/torture/run.py --only redis.limit --torment allocations --moment 12

Prints a line for each operation and torment: how many of its moments were covered, and what went
wrong with a command that does it again. The same as JSON in build/torture.json. Ends with 1 where
something went wrong. Each operation runs in a child process, so that a crash or a hang is a finding
like any other. --only and --torment take patterns with `*`, several joined by commas. What the
harness covers, and what it cannot see, is in docs/internals/torture.md.
"""

from __future__ import annotations

import argparse
import contextlib
import fnmatch
import itertools
import json
import os
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
sys.path[:0] = [str(HERE), str(HERE.parent / "redis"), str(HERE.parent)]

import operations  # noqa: E402
import sanitized  # noqa: E402
from torments import TORMENTS  # noqa: E402

Pair = tuple[str, str]
LEAST_S = 0.7
"""A pair that is run at all has so many seconds; where there are not enough, some are left out."""
GROUP = 6
"""So many pairs of one torment run in one process, since starting one takes longer than most."""
DEATHS = 2
"""After so many crashes or hangs of one pair, the next pair."""


@dataclass
class Report:
    operation: str
    torment: str
    covered: int = 0
    total: int = 0
    seconds: float = 0.0
    charged: int = 0
    findings: list[dict[str, Any]] = field(default_factory=list)
    deaths: list[int] = field(default_factory=list)


def pairs_of(only: str, torment: str) -> list[Pair]:
    def chosen(name: str, patterns: str) -> bool:
        return any(fnmatch.fnmatchcase(name, p) for p in patterns.split(","))

    return [
        (name, kind)
        for kind, what in TORMENTS.items()
        if chosen(kind, torment)
        for name, operation in operations.OPERATIONS.items()
        if chosen(name, only) and what.applies(operation)
    ]


def without(pairs: list[Pair], known: str) -> list[Pair]:
    """Those that no line `operation torment` names; both are patterns, `#` begins a comment."""
    patterns = [line.split("#")[0].split() for line in known.splitlines()]
    return [
        (name, kind)
        for name, kind in pairs
        if not any(
            fnmatch.fnmatchcase(name, pattern[0]) and fnmatch.fnmatchcase(kind, pattern[1])
            for pattern in patterns
            if pattern
        )
    ]


def thinned(pairs: list[Pair], seconds: float, part: int) -> list[Pair]:
    """As many pairs as there is time for, spread over all of them; each part is another choice."""
    most = max(1, int(seconds / LEAST_S))
    if len(pairs) <= most:
        return pairs
    return [pairs[(i * len(pairs) // most + part) % len(pairs)] for i in range(most)]


def in_turns(pairs: list[Pair]) -> list[Pair]:
    """In groups of one torment, which share a process; the torments take turns."""
    of_torment: dict[str, list[Pair]] = {}
    for pair in pairs:
        of_torment.setdefault(pair[1], []).append(pair)
    ordered: list[Pair] = []
    while any(of_torment.values()):
        for those in of_torment.values():
            ordered += those[:GROUP]
            del those[:GROUP]
    return ordered


class Run:
    def __init__(
        self, pairs: list[Pair], seconds: float, moment: int, environment: dict[str, str]
    ) -> None:
        self.left, self.moment, self.environment = list(pairs), moment, environment
        self.end = time.monotonic() + seconds
        self.reports = {pair: Report(*pair) for pair in pairs}

    def go(self) -> None:
        while self.left and time.monotonic() < self.end + 1:
            self._child()
        for pair in self.left:
            if self.reports[pair].findings:
                show(self.reports[pair])

    # --- a child, until it ends or dies

    def _child(self) -> None:
        same = itertools.takewhile(lambda pair: pair[1] == self.left[0][1], self.left)
        batch = [*itertools.islice(same, GROUP)]
        share = max(0.1, (self.end - time.monotonic()) / len(self.left))
        work = [[*pair, share, self.moment, self.reports[pair].deaths] for pair in batch]
        with tempfile.TemporaryFile() as errors:
            child = subprocess.Popen(
                [sys.executable, str(HERE / "child.py")],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                start_new_session=True,
                env=os.environ | self.environment,
            )
            assert child.stdin is not None
            child.stdin.write(json.dumps(work).encode())
            child.stdin.close()
            try:
                last, ended = self._listen(child)
            finally:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(child.pid, signal.SIGKILL)
            status = child.wait()
            if not ended:
                errors.seek(0)
                self._died(batch, last, status, errors.read().decode(errors="replace"))

    def _listen(self, child: subprocess.Popen[bytes]) -> tuple[tuple[Pair | None, int, int], bool]:
        pair: Pair | None = None
        at = total = 0
        buffer = b""
        assert child.stdout is not None
        fd = child.stdout.fileno()
        while True:
            ready, _, _ = select.select([fd], [], [], 300)
            chunk = os.read(fd, 65536) if ready else b""
            if not chunk:
                return (pair, at, total), False
            *lines, buffer = (buffer + chunk).split(b"\n")
            for line in lines:
                said = json.loads(line)
                if "pair" in said:
                    pair, at = tuple(said["pair"]), 0
                elif "at" in said:
                    at, total = said["at"], said["total"]
                    assert pair is not None
                    self.reports[pair].covered += 1
                elif "found" in said and pair is not None:
                    self._found(pair, said["moment"], said["found"])
                elif "done" in said and pair is not None:
                    self._done(pair, said)
                elif "end" in said:
                    return (pair, at, total), True

    def _found(self, pair: Pair, moment: int, what: str) -> None:
        again = f"--only '{pair[0]}' --torment {pair[1]}" + (f" --moment {moment}" * bool(moment))
        self.reports[pair].findings.append({"moment": moment, "what": what, "again": again})

    def _done(self, pair: Pair, said: dict[str, Any]) -> None:
        report = self.reports[pair]
        report.total, report.charged = said["total"], said["charged"]
        report.seconds += said["seconds"]
        self.left.remove(pair)
        show(report)

    def _died(
        self, batch: list[Pair], last: tuple[Pair | None, int, int], status: int, errors: str
    ) -> None:
        pair, at, total = last
        if pair is None or pair not in self.left:
            pair = next(p for p in batch if p in self.left)
        report = self.reports[pair]
        report.total = total
        report.deaths.append(at)
        hung = "Timeout (" in errors
        what = "it hangs" if hung else f"the process died of {_cause(status)}"
        self._found(pair, at, f"{what}\n{errors[-6000:]}")
        if len(report.deaths) >= DEATHS or at == 0 or self.moment:
            self.left.remove(pair)
            show(report)


def _cause(status: int) -> str:
    return signal.Signals(-status).name if status < 0 else f"exit status {status}"


def show(report: Report) -> None:
    charged = f", {report.charged} failed and took tokens" if report.charged else ""
    verdict = "WRONG" if report.findings else "ok"
    print(
        f"{verdict:5} {report.operation:32} {report.torment:18} {report.covered:5} of "
        f"{report.total:5} moments in {report.seconds:5.1f} s{charged}",
        flush=True,
    )
    for found in report.findings:
        what = "\n      ".join(found["what"].strip().splitlines()[-24:])
        print(f"      {what}\n      again: {found['again']}", flush=True)


@contextlib.contextmanager
def redis_server(pairs: list[Pair]) -> Any:
    """A server for those that need one, or None."""
    if not any(operations.needs_redis(name) for name, _ in pairs):
        yield None
    elif port := os.environ.get(operations.REDIS_PORT):
        yield port
    elif shutil.which("redis-server") is None:
        yield None
    else:
        from servers import RedisServer

        with RedisServer() as server:
            os.environ[operations.REDIS_PORT] = str(server.port)
            yield server.port


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--seconds", type=float, default=600)
    parser.add_argument("--only", default="*", help="operations, as patterns")
    parser.add_argument("--torment", default="*", help="torments, as patterns")
    parser.add_argument("--part", type=int, default=0, help="another choice, where time is short")
    parser.add_argument("--moment", type=int, default=0, help="this moment only")
    parser.add_argument("--list", action="store_true", help="print the table and end")
    parser.add_argument("--except", type=Path, dest="known", help="a file: pairs to leave out")
    parser.add_argument("--sanitized", type=Path, help="a folder that sanitized.py has made")
    parser.add_argument("--report", type=Path, default=ROOT / "build" / "torture.json")
    arguments = parser.parse_args()
    pairs = pairs_of(arguments.only, arguments.torment)
    if arguments.known is not None:
        pairs = without(pairs, arguments.known.read_text())
    if arguments.list:
        for name, torment in pairs:
            print(f"{name:32} {torment}")
        return 0
    with redis_server(pairs) as server:
        if server is None and any(operations.needs_redis(name) for name, _ in pairs):
            print("operations on Redis are left out: there is no redis-server")
            pairs = [pair for pair in pairs if not operations.needs_redis(pair[0])]
        pairs = [p for p in pairs if operations.has_loop(operations.OPERATIONS[p[0]].loop)]
        chosen = in_turns(thinned(pairs, arguments.seconds, arguments.part))
        environment = sanitized.environment(arguments.sanitized) if arguments.sanitized else {}
        run = Run(chosen, arguments.seconds, arguments.moment, environment)
        begun = time.monotonic()
        run.go()
    return close(run, len(pairs), time.monotonic() - begun, arguments.report)


def close(run: Run, possible: int, seconds: float, path: Path) -> int:
    reports = [r for r in run.reports.values() if r.total or r.findings]
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps([vars(r) for r in reports], indent=1))
    by_torment: dict[str, list[int]] = {}
    for report in reports:
        sums = by_torment.setdefault(report.torment, [0, 0, 0, 0])
        for i, n in enumerate((1, report.covered, report.total, len(report.findings))):
            sums[i] += n
    print()
    for torment, (count, covered, total, wrong) in by_torment.items():
        print(
            f"{torment:20} {count:4} operations, {covered:6} of {total:6} moments, {wrong} findings"
        )
    findings = sum(len(r.findings) for r in reports)
    print(
        f"{len(reports)} of {possible} pairs of operation and torment in {seconds:.0f} s, "
        f"{sum(r.covered for r in reports)} moments, {findings} findings"
    )
    return 1 if findings else 0


if __name__ == "__main__":
    sys.exit(main())

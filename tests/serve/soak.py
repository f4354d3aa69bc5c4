"""A soak: a service among hostile clients, and what that does to its memory and to others.

    make soak-service                      ten minutes; SECONDS=120 for two, ONLY=pipelines
    python tests/serve/soak.py --seconds 600 --only pipelines

Processes do what `hostile.py` lists, as four tenants and without a token. Another tenant asks two
hundred times a second and notes how long each answer takes; first alone, then among the others. It
fails where memory grows: where the last quarter's peak is above the third's, the caches being full
by then; where the other tenant gets a wrong answer or loses a count; where an error is logged; and
where connections stay when the hostile clients have gone. How long answers take is reported and not
judged, as it is the machine's too.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

sys.path.append(str(Path(__file__).parent))

from hostile import KINDS, TOKENS
from service_help import ServiceProcess, until

VICTIM, OPS = "a-token-of-the-victim", "a-token-of-the-operator"
WORKERS = 2
IDLE_S = 5.0
PAUSE_S = 0.005
MOST_GROWTH = 1.05, 6.0
"""By which factor, and how many MiB beside it, one quarter's peak may be above that before it."""
OPTIONS = (
    *("--max-connections", "300", "--max-keys", "5000", "--max-wait", "60"),
    *("--header-timeout", "3", "--body-timeout", "3", "--keep-alive", "5"),
)
QUESTION = {"key": "steady", "quota": "1000000/s"}
USED_UP = {"key": "used up", "quota": "5/day", "cost": 5}


@dataclass
class Soak:
    """What was seen."""

    seconds: float
    memory: list[tuple[float, float]] = field(default_factory=list)
    """When, in seconds, and how many MiB."""
    idle: list[float] = field(default_factory=list)
    """Seconds that answers took."""
    among: list[float] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)
    sent: int = 0
    done: dict[str, int] = field(default_factory=dict)

    def peak(self, start: float, end: float) -> float:
        """MiB at most, between two parts of the whole."""
        return max((mib for at, mib in self.memory if start <= at / self.seconds <= end), default=0)

    @property
    def failures(self) -> list[str]:
        """What is wrong; empty for nothing."""
        third, last = self.peak(0.5, 0.75), self.peak(0.75, 2.0)
        factor, more = MOST_GROWTH
        found = list(self.wrong)
        if last > third * factor + more:
            found.append(f"memory grows: {third:.0f} MiB in the third quarter, then {last:.0f}")
        return found

    def report(self) -> str:
        """All of it, in lines."""
        parts = [0.0, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9]
        curve = [self.peak(a, b) for a, b in zip(parts, [*parts[1:], 2.0], strict=True)]
        kinds = ", ".join(f"{name} {count}" for name, count in self.done.items())
        idle, among = percentiles(self.idle), percentiles(self.among)
        return "\n".join(
            [
                f"{self.sent:,} hostile requests in {self.seconds:.0f} s: {kinds}",
                "memory, MiB, peak by part of the time: "
                + " ".join(f"{part:.0%} {mib:.0f}" for part, mib in zip(parts, curve, strict=True)),
                f"another tenant, alone:  {len(self.idle):,} answers, {idle[0]}",
                f"another tenant, among:  {len(self.among):,} answers, {among[0]}",
                f"99%: {among[1] / idle[1]:.1f} times that of idle; median: "
                f"{among[2] / idle[2]:.1f} times",
                *(f"failed: {failure}" for failure in self.failures),
            ]
        )


def percentiles(seconds: list[float]) -> tuple[str, float, float]:
    """In words, the 99th, and the median."""
    found = sorted(seconds)
    median, late = found[len(found) // 2], found[int(len(found) * 0.99)]
    words = f"median {median * 1e3:.2f} ms, 99% {late * 1e3:.2f} ms, most {found[-1] * 1e3:.0f} ms"
    return words, late, median


def memory_mib(pid: int) -> float:
    """What a process has of the machine's memory."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS"):
            return int(line.split()[1]) / 1024
    raise ValueError(f"process {pid} has no memory")


class Victim:
    """The tenant that means well."""

    def __init__(self, service: ServiceProcess, soak: Soak) -> None:
        self.service, self.soak = service, soak
        self.connection = service.connect()

    def ask(self, times: list[float]) -> None:
        """Ask once, and note how long it took."""
        started = time.perf_counter()
        body = json.dumps(QUESTION).encode()
        try:
            said = self.service.ask("POST", "/v1/limit", body, VICTIM, over=self.connection)
        except OSError as error:
            self.soak.wrong.append(f"the other tenant's connection ended: {error!r}")
            self.connection.close()
            self.connection = self.service.connect()
            return
        times.append(time.perf_counter() - started)
        if said.status != 200 or said.json["limited"]:
            self.soak.wrong.append(f"the other tenant was answered {said.status}: {said.body!r}")


def run(seconds: float, only: list[str]) -> Soak:
    """Soak for some seconds, and return what was seen."""
    soak = Soak(seconds)
    tokens = [f"{name}:{token}" for token, name in TOKENS.items()]
    tokens += [f"victim:{VICTIM}", f"ops:{OPS}:admin"]
    with ServiceProcess(*OPTIONS, tokens=tokens) as service:
        service.post("/v1/limit", USED_UP, VICTIM)
        victim = Victim(service, soak)
        end = time.monotonic() + IDLE_S
        while time.monotonic() < end:
            victim.ask(soak.idle)
            time.sleep(PAUSE_S)
        soaked = _among(service, victim, soak, only)
        for worker in soaked:
            out, _ = worker.communicate(timeout=60)
            said = json.loads(out)
            soak.sent += said["sent"]
            for name, count in said["done"].items():
                soak.done[name] = soak.done.get(name, 0) + count
        if not service.post("/v1/limit", USED_UP, VICTIM).json["limited"]:
            soak.wrong.append("the other tenant's used-up key was set free")
        victim.connection.close()

        def connections() -> float:
            text = service.get("/metrics", OPS).body.decode()
            (line,) = [x for x in text.splitlines() if x.startswith("headway_serve_connections ")]
            return float(line.split()[1])

        try:
            until(lambda: connections() <= 1, "the hostile clients' connections have ended", 30)
        except AssertionError as error:
            soak.wrong.append(f"{error}; {connections():.0f} are open")
        if service.stop() != 0:
            soak.wrong.append("the exit code is not 0")
    bad = [line for line in service.log.splitlines() if "ERROR" in line or "Traceback" in line]
    if bad:
        soak.wrong.append(f"{len(bad)} errors were logged, first {bad[0]}")
    if len(service.log) > 100_000:
        soak.wrong.append(f"the log has {len(service.log)} characters")
    return soak


def _among(
    service: ServiceProcess, victim: Victim, soak: Soak, only: list[str]
) -> list[subprocess.Popen[str]]:
    """Have the hostile clients do what they do, and the other tenant ask meanwhile."""
    program = str(Path(__file__).with_name("hostile.py"))
    host, port = service.address
    workers = [
        subprocess.Popen(
            [sys.executable, program, host, str(port), str(seed), str(soak.seconds), *only],
            stdout=subprocess.PIPE,
            text=True,
        )
        for seed in range(WORKERS)
    ]
    started = looked = time.monotonic()
    while time.monotonic() - started < soak.seconds:
        victim.ask(soak.among)
        if time.monotonic() - looked > 0.25:
            looked = time.monotonic()
            soak.memory.append((looked - started, memory_mib(service.process.pid)))
        time.sleep(PAUSE_S)
    return workers


def main() -> int:
    """Soak as the arguments say."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--seconds", type=float, default=600.0)
    parser.add_argument("--only", nargs="*", default=[], choices=[*KINDS], metavar="KIND")
    args = parser.parse_args()
    soak = run(args.seconds, args.only)
    print(soak.report())
    return 1 if soak.failures else 0


if __name__ == "__main__":
    sys.exit(main())

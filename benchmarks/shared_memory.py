"""shared_memory: what does a decision cost that processes share, and what do four of them get?

Each round runs, one after the other: one process on a memory store and on shared memory, on one key
and on a thousand; then four processes on shared memory, all on one key, and each on keys of its
own; then four on pyrate-limiter's SQLite bucket with its file lock. Processes are started before
and begin together. A ratio is formed inside a round. Four processes want four processors: on a
machine with fewer, or with others at work, their figures say little.
"""

from __future__ import annotations

import secrets
import subprocess
import sys
import tempfile
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.contenders import has
from benchmarks.harness import HEADWAY, PEER, Settings, spread, spread_of_ratios
from benchmarks.report import Report, Row, Section, Target

NAME = "shared_memory"
PROCESSES = 4
KEYS = 1000
SECONDS = 0.6

CHILD = """
import sys, time
kind, place, number, seconds, keys = sys.argv[1:]
seconds, keys = float(seconds), int(keys)
names = ["hot"] * 1000 if keys == 1 else [f"key-{number}-{i}" for i in range(keys)]
if kind == "pyrate":
    from pyrate_limiter import Duration, Limiter, Rate, SQLiteBucket
    rates = [Rate(10**9, Duration.SECOND)]
    limit = Limiter(SQLiteBucket.init_from_file(rates, db_path=place, use_file_lock=True))
    ask = lambda key: limit.try_acquire(key)
    names = names[:20]
else:
    from headway import MemoryStore, SharedMemoryStore, Throttled
    store = MemoryStore() if kind == "memory" else SharedMemoryStore(place)
    ask = Throttled(quota="1000000000/s burst 1000000", store=store).limit
for name in names:
    ask(name)
print("ready", flush=True)
sys.stdin.readline()
count, begun = 0, time.perf_counter()
end = begun + seconds
while time.perf_counter() < end:
    for name in names:
        ask(name)
    count += len(names)
print(count / (time.perf_counter() - begun))
"""


@dataclass
class Runner:
    """So many processes that ask in one way; their calls a second, round by round."""

    label: str
    kind: str
    way: str
    processes: int
    keys: int
    rates: list[float] = field(default_factory=list)

    def run(self, seconds: float) -> float:
        """Calls a second of all processes together."""
        name = f"bench-{secrets.token_hex(4)}"
        with tempfile.TemporaryDirectory() as folder:
            place = name if self.way != "pyrate" else str(Path(folder) / "rates.db")
            arguments = [self.way, place]
            rest = [str(seconds), str(self.keys)]
            children = [
                subprocess.Popen(
                    [sys.executable, "-c", CHILD, *arguments, str(number), *rest],
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    text=True,
                )
                for number in range(self.processes)
            ]
            try:
                for child in children:
                    assert child.stdout is not None
                    child.stdout.readline()
                for child in children:
                    assert child.stdin is not None
                    child.stdin.write("\n")
                    child.stdin.flush()
                return sum(float(child.communicate()[0]) for child in children)
            finally:
                for child in children:
                    child.kill()
                if self.way == "shared":
                    from headway import SharedMemoryStore

                    SharedMemoryStore(name).remove()


def run(settings: Settings) -> Report:
    """Measures and reports."""
    seconds = SECONDS * (1.0 if settings.scale == 1.0 else 0.3)
    memory_hot = Runner("MemoryStore, one key", HEADWAY, "memory", 1, 1)
    one_hot = Runner("shared memory, one key", HEADWAY, "shared", 1, 1)
    four_hot = Runner("4 processes, one key", HEADWAY, "shared", PROCESSES, 1)
    memory_many = Runner("MemoryStore, 1000 keys", HEADWAY, "memory", 1, KEYS)
    one_many = Runner("shared memory, 1000 keys", HEADWAY, "shared", 1, KEYS)
    four_many = Runner("4 processes, 1000 keys each", HEADWAY, "shared", PROCESSES, KEYS)
    runners = [memory_hot, one_hot, four_hot, memory_many, one_many, four_many]
    pyrate = Runner("4 processes, pyrate-limiter's SQLite bucket", PEER, "pyrate", PROCESSES, 1)
    if has("pyrate-limiter"):
        runners.append(pyrate)
    for _ in range(max(3, min(settings.rounds, 15))):
        for runner in runners:
            runner.rates.append(runner.run(seconds))
    rows = [
        Row(runner.label, runner.kind, spread([rate / 1e3 for rate in runner.rates]))
        for runner in runners
    ]
    targets = [
        Target(
            f"{where}: time of shared memory by that of MemoryStore",
            spread_of_ratios(memory.rates, shared.rates),
            1.3,
            "x",
        )
        for where, memory, shared in (
            ("one key", memory_hot, one_hot),
            ("1000 keys", memory_many, one_many),
        )
    ]
    targets += [
        Target(
            f"{where}: 4 processes by one",
            spread_of_ratios(four.rates, one.rates),
            bound,
            "x",
            True,
        )
        for where, four, one, bound in (
            ("one key", four_hot, one_hot, 1.5),
            ("1000 keys", four_many, one_many, 3.0),
        )
    ]
    if pyrate.rates:
        ratio = spread_of_ratios(four_hot.rates, pyrate.rates)
        targets.append(Target("one key: by pyrate-limiter's SQLite bucket", ratio, 100, "x", True))
    section = Section(
        "Calls a second, all processes together",
        "thousand calls a second",
        rows,
        short="k/s",
        more_is_better=True,
    )
    return Report(
        NAME,
        "Processes that share memory",
        "One call is `limit(key)` with the token bucket; nothing is denied.",
        [section],
        targets,
    )

"""keys: what do a million keys cost, in memory and in time?

Memory: a new process for each contender and round, which makes a million keys of 16 characters one
by one and keeps none of them; what counts is its resident set beyond that of the empty process, its
own import included.

Time: one process, one limiter a contender, a million keys in it. A round asks for a slice of the
keys, each once, then as often for a single hot key. A random key costs cache misses in the limiter,
and it may cost some before the limiter is even called, so headway is asked in three ways:

- strings made beforehand that lie in memory in the order of use: the list of keys is made from
  shuffled numbers. All contenders are asked this way.
- strings scattered over memory: the list of keys itself is shuffled. Python then misses the cache
  for the string before anybody looks at it; `hash(key)` alone is shown beside it.
- strings made anew for each call, the hot one too, as a server makes them from its input.
"""

from __future__ import annotations

import random
import subprocess
import sys
from array import array
from collections.abc import Sequence
from pathlib import Path
from time import perf_counter_ns

from benchmarks.contenders import COUNT_LABEL
from benchmarks.harness import BASELINE, HEADWAY, Settings, quiet, spread
from benchmarks.keys_fill import FILLERS, Use, installed, kind_of
from benchmarks.report import Report, Row, Section, Target

NAME = "keys"
KEYS = 1_000_000
MIB_BOUND = 160.0
RANDOM_BOUND = 5.0
MEMORY_ROUNDS = 5
ROOT = Path(__file__).parent.parent


def run(settings: Settings) -> Report:
    """Measures and reports."""
    count = settings.sized(KEYS)
    report = Report(
        NAME,
        f"{count:,} keys",
        "Resident bytes: a new process each time, keys of 16 characters that nobody else keeps, "
        f"minus the empty process (imports included), {MEMORY_ROUNDS} rounds. Time: one process, "
        "random keys and a hot key in turn.",
    )
    _memory(report, count)
    _time(report, count, settings)
    return report


# ---- memory ----


def _memory(report: Report, count: int) -> None:
    labels = installed()
    bytes_of: dict[str, list[float]] = {label: [] for label in labels}
    for _ in range(MEMORY_ROUNDS):
        for label in labels:
            bytes_of[label].append(_resident(label, count))
    mib = {label: spread([b / 2**20 for b in values]) for label, values in bytes_of.items()}
    rows = [
        Row(
            label,
            kind_of(label),
            mib[label],
            note=f"{spread(bytes_of[label]).median / count:.0f} bytes a key",
        )
        for label in labels
    ]
    report.sections.append(Section("Resident memory", "MiB", rows, limit=MIB_BOUND))
    for label in labels:
        if kind_of(label) == HEADWAY:
            what = f"{count:,} keys, {label.removeprefix('headway ')}"
            report.targets.append(Target(what, mib[label], MIB_BOUND, "MiB"))


def _resident(label: str, count: int) -> float:
    command = [sys.executable, "-m", "benchmarks.keys_child", label, str(count)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    if done.returncode != 0:
        raise RuntimeError(f"{label}: {done.stderr.strip().splitlines()[-1]}")
    return float(done.stdout)


# ---- time ----

HASH = "hash(key)"
SCATTERED = ", strings scattered"
ANEW = ", strings made anew"
Series = dict[tuple[str, str], list[float]]


def each(use: Use, keys: Sequence[str]) -> int:
    """Nanoseconds that calling `use` with every key took."""
    start = perf_counter_ns()
    for key in keys:
        use(key)
    return perf_counter_ns() - start


def each_made(use: Use, numbers: Sequence[int]) -> int:
    """The same with keys that are made on the spot."""
    start = perf_counter_ns()
    for i in numbers:
        use(f"{i:016d}")
    return perf_counter_ns() - start


def count_each(counts: dict[str, float], keys: Sequence[str]) -> int:
    """The same for a plain dictionary, without a call."""
    start = perf_counter_ns()
    for key in keys:
        counts[key] += 1
    return perf_counter_ns() - start


def _filled(count: int) -> dict[str, tuple[Use, object]]:
    """Every contender with `count` keys in it."""
    uses = {}
    for label in installed():
        if kind_of(label) != BASELINE and "sliding" not in label:
            use, owner = FILLERS[label](count)
            for i in range(count):
                use(f"{i:016d}")
            uses[label] = (use, owner)
    return uses


def _time(report: Report, count: int, settings: Settings) -> None:
    uses = _filled(count)
    counts = {f"{i:016d}": 0.0 for i in range(count)}
    order = list(range(count))
    random.Random(3).shuffle(order)
    numbers = array("q", order)
    # Other objects than those in the dictionary and in the stores, as in a server, where every
    # request brings a new string.
    ordered = [f"{i:016d}" for i in order]
    scattered = [f"{i:016d}" for i in range(count)]
    random.Random(5).shuffle(scattered)
    length = max(1_000, count // (settings.rounds + 1))
    series: Series = {}

    def note(label: str, which: str, taken: int) -> None:
        series.setdefault((label, which), []).append(taken / length)
        quiet()

    for number in range(settings.rounds + 1):
        part = slice(number * length, (number + 1) * length)
        hot, hot_numbers = [ordered[part.start]] * length, numbers[part][:1] * length
        note(COUNT_LABEL, "hot", count_each(counts, hot))
        note(COUNT_LABEL, "random", count_each(counts, ordered[part]))
        note(HASH, "hot", each(hash, hot))
        note(HASH, "random", each(hash, ordered[part]))
        note(HASH + SCATTERED, "hot", each(hash, hot))
        note(HASH + SCATTERED, "random", each(hash, scattered[part]))
        for label, (use, _) in uses.items():
            note(label, "hot", each(use, hot))
            note(label, "random", each(use, ordered[part]))
            if kind_of(label) == HEADWAY:
                note(label + SCATTERED, "hot", each(use, hot))
                note(label + SCATTERED, "random", each(use, scattered[part]))
                note(label + ANEW, "hot", each_made(use, hot_numbers))
                note(label + ANEW, "random", each_made(use, numbers[part]))
    _time_sections(report, series, count)


def _time_sections(report: Report, series: Series, count: int) -> None:
    ratio_rows, rows = [], []
    for label in dict.fromkeys(label for label, _ in series):
        kind = BASELINE if label.startswith((COUNT_LABEL, HASH)) else kind_of(label)
        hot, some = series[label, "hot"][1:], series[label, "random"][1:]  # but for the warm-up
        ratio = spread([r / h for r, h in zip(some, hot, strict=True)])
        if not label.startswith(HASH):
            ratio_rows.append(Row(label, kind, ratio))
        if label != HASH + SCATTERED:
            rows.append(Row(f"{label}, hot", kind, spread(hot)))
        rows.append(Row(f"{label}, random", kind, spread(some)))
        if kind == HEADWAY:
            what = f"a random key of {count:,}, {label.removeprefix('headway ')}"
            report.targets.append(Target(what, ratio, RANDOM_BOUND, "x one hot key"))
    report.sections.append(
        Section("A random key beside one hot key", "x", ratio_rows, limit=RANDOM_BOUND)
    )
    report.sections.append(Section("One call", "ns", rows))
    report.notes.append(
        f"With scattered strings, `{HASH}` alone takes "
        f"{spread(series[HASH + SCATTERED, 'random'][1:]).median:.0f} ns: that much of the figure "
        "is the miss for the string itself and the computing of its hash."
    )

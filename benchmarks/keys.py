"""keys: what do a million keys cost, in memory and in time?

Memory: a new process for each contender and round, which makes a million keys of 16 characters
one by one and keeps none of them; what counts is its resident set beyond that of the empty
process, its own import included.

Time: one process, one limiter a contender, a million keys in it. A round asks for a slice of the
keys, then as often for a single hot key. The keys are made beforehand and lie in a shuffled list,
so a random key costs the cache misses of the string object itself, too. The other pair of rows
makes every string anew, on both sides: then the string is in the cache, and its hash has to be
computed.
"""

from __future__ import annotations

import random
import subprocess
import sys
from array import array
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from time import perf_counter_ns

from benchmarks.contenders import (
    COUNT_LABEL,
    has,
    headway_limiter,
    limits_strategy,
    throttled_limiter,
)
from benchmarks.harness import BASELINE, HEADWAY, PEER, Settings, quiet, spread
from benchmarks.report import Report, Row, Section, Target

NAME = "keys"
KEYS = 1_000_000
MIB_BOUND = 160.0
RANDOM_BOUND = 5.0
MEMORY_ROUNDS = 5
ROOT = Path(__file__).parent.parent

# One call keeps a key alive for 600 s, so that none expires while the others come; the burst lets
# a hot key go on.
BUCKET_QUOTA = "6/h burst 3000000"
WINDOW_QUOTA = "1000000000/w"

Use = Callable[[str], object]


def _dict(count: int) -> tuple[Use, object]:
    counts: dict[str, float] = {}

    def use(key: str) -> None:
        counts[key] = counts.get(key, 0.0) + 1.0

    return use, counts


def _headway(using: str) -> Callable[[int], tuple[Use, object]]:
    def make(count: int) -> tuple[Use, object]:
        quota = WINDOW_QUOTA if using.endswith("window") else BUCKET_QUOTA
        limiter = headway_limiter(using, count, quota)
        return limiter.limit, limiter

    return make


def _throttled(using: str) -> Callable[[int], tuple[Use, object]]:
    def make(count: int) -> tuple[Use, object]:
        from throttled import rate_limiter

        quota = rate_limiter.per_hour(6, burst=3_000_000)
        if using.endswith("window"):
            quota = rate_limiter.per_week(1_000_000_000)
        limiter = throttled_limiter(using, count, quota)
        return limiter.limit, limiter

    return make


def _limits(count: int) -> tuple[Use, object]:
    from limits import RateLimitItemPerHour

    strategy, _ = limits_strategy("FixedWindowRateLimiter")
    item = RateLimitItemPerHour(1_000_000_000)
    return lambda key: strategy.hit(item, key), strategy


def _token_bucket(count: int) -> tuple[Use, object]:
    from benchmarks.contenders import token_bucket_limiter

    limiter = token_bucket_limiter()
    return limiter.consume, limiter


FILLERS: Mapping[str, Callable[[int], tuple[Use, object]]] = {
    "a dict of floats": _dict,
    "headway token_bucket": _headway("token_bucket"),
    "headway sliding_window": _headway("sliding_window"),
    "token-bucket": _token_bucket,
    "limits fixed window": _limits,
    "throttled-py fixed_window": _throttled("fixed_window"),
    "throttled-py token_bucket": _throttled("token_bucket"),
    "throttled-py gcra": _throttled("gcra"),
}


def kind_of(label: str) -> str:
    """Which kind of contender a label of FILLERS is."""
    if label.startswith("headway"):
        return HEADWAY
    return BASELINE if label.startswith("a dict") else PEER


def installed() -> list[str]:
    """The labels of FILLERS whose package is there."""
    return [label for label in FILLERS if kind_of(label) == BASELINE or has(label.split()[0])]


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


def _time(report: Report, count: int, settings: Settings) -> None:
    # The keys in the list are other objects than those in the dictionary and in the stores, as in
    # a server, where every request brings a new string.
    labels = [
        label for label in installed() if kind_of(label) != BASELINE and "sliding" not in label
    ]
    uses: dict[str, tuple[Use, object]] = {}
    for label in labels:
        use, owner = FILLERS[label](count)
        for i in range(count):
            use(f"{i:016d}")
        uses[label] = (use, owner)
    counts = {f"{i:016d}": 0.0 for i in range(count)}
    order = list(range(count))
    random.Random(3).shuffle(order)
    keys = [f"{i:016d}" for i in order]
    numbers = array("q", order)
    slice_length = max(1_000, count // (settings.rounds + 1))
    series: dict[tuple[str, str], list[float]] = {}
    for number in range(settings.rounds + 1):
        first = number * slice_length % max(1, count - slice_length + 1)
        some, hot = keys[first : first + slice_length], [keys[first]] * slice_length
        some_numbers = numbers[first : first + slice_length]
        hot_numbers = array("q", [numbers[first]]) * slice_length
        results: list[tuple[str, str, int]] = [
            (COUNT_LABEL, "hot", count_each(counts, hot)),
            (COUNT_LABEL, "random", count_each(counts, some)),
        ]
        for label, (use, _) in uses.items():
            results.append((label, "hot", each(use, hot)))
            quiet()
            results.append((label, "random", each(use, some)))
            quiet()
            if kind_of(label) == HEADWAY:
                results.append((f"{label}, strings made anew", "hot", each_made(use, hot_numbers)))
                results.append(
                    (f"{label}, strings made anew", "random", each_made(use, some_numbers))
                )
        for label, which, taken in results:
            if number > 0:
                series.setdefault((label, which), []).append(taken / slice_length)
    _time_sections(report, series, count)


def _time_sections(report: Report, series: dict[tuple[str, str], list[float]], count: int) -> None:
    ratio_rows, rows = [], []
    for label in dict.fromkeys(label for label, _ in series):
        kind = BASELINE if label == COUNT_LABEL else kind_of(label)
        hot, some = series[label, "hot"], series[label, "random"]
        ratio = spread([r / h for r, h in zip(some, hot, strict=True)])
        ratio_rows.append(Row(label, kind, ratio))
        rows.append(Row(f"{label}, hot", kind, spread(hot)))
        rows.append(Row(f"{label}, random", kind, spread(some)))
        if kind == HEADWAY:
            what = f"a random key of {count:,}, {label.removeprefix('headway ')}"
            report.targets.append(Target(what, ratio, RANDOM_BOUND, "x one hot key"))
    report.sections.append(
        Section("A random key beside one hot key", "x", ratio_rows, limit=RANDOM_BOUND)
    )
    report.sections.append(Section("One call", "ns", rows))
